"""A bundle small enough to check by hand, made without PyTorch."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

from pipeline.bundles.bundle import Bundle, publish_bundle
from pipeline.bundles.description import BundleDescription, DataSnapshot
from pipeline.schema import vocabulary_schema
from tests.helpers.traces import traces_shared_in

MAX_LENGTH = 5


def pytest_configure() -> None:
    # Before PyTorch is imported: on a busy machine, threads that share the tests' tiny matrices
    # wait for one another ten times longer than they compute.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Nor has an example of Hypothesis a deadline where the machine may be busy.
    settings.register_profile("fearec", deadline=None)
    settings.load_profile("fearec")


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores, as the tests wait for others a third of their time."""
    return len(os.sched_getaffinity(0)) + 1


def describe(model_version: str = "tiny-1", **changes: Any) -> BundleDescription:
    event = datetime(2026, 11, 1, tzinfo=UTC)
    values: dict[str, Any] = {
        "model_version": model_version,
        "created_at": datetime(2026, 11, 23, tzinfo=UTC),
        "settings": {},
        "hyper_parameters": {"n_items": 41, "MAX_ITEM_LIST_LENGTH": MAX_LENGTH},
        "data": DataSnapshot(
            interactions_version=0,
            first_event=event,
            last_event=event,
            n_users=1,
            n_items=40,
            n_interactions=1,
        ),
        "metrics": {"protocol": "none"},
        "refit": True,
        "parity": {"max_error": 0.0},
        "versions": {"onnxruntime": "1.31"},
    }
    return BundleDescription(**{**values, **changes})


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    """A test may send the product's log to another process; the next one has it here again."""
    loggers = [logging.getLogger(name) for name in ("model", "pipeline")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Bundle]:
    """A factory of bundles; the encoder is the mean of the last five items' embeddings."""

    def make(
        target: Path,
        item_ids: Sequence[Any] = tuple(f"item{index}" for index in range(1, 41)),
        popularity: Sequence[int] | None = None,
        embedding: np.ndarray[Any, Any] | None = None,
        model_version: str = "tiny-1",
    ) -> Bundle:
        rows = len(item_ids) + 1
        if embedding is None:
            embedding = np.random.default_rng(7).normal(size=(rows, 16)).astype(np.float32)
            embedding[0] = 0
        staging = target.with_name(f"staging-{target.name}")
        staging.mkdir(parents=True)
        (staging / "items.bin").write_bytes(embedding.tobytes())
        (staging / "model.safetensors").write_bytes(b"weights")
        _save(staging / "encoder.onnx", embedding, recommend=False)
        _save(staging / "recommender.onnx", embedding, recommend=True)
        ids = pa.array(item_ids)
        counts = range(len(ids), 0, -1) if popularity is None else popularity
        columns = [
            pa.array(range(1, rows)),
            ids,
            pa.array(list(counts), pa.int64()),
            pa.array([datetime(2026, 11, 1, tzinfo=UTC)] * len(ids)),
        ]
        table = pa.table(columns, names=vocabulary_schema(ids.type).names).cast(
            vocabulary_schema(ids.type)
        )
        pq.write_table(table, staging / "items.parquet")
        hyper_parameters = {"n_items": rows, "MAX_ITEM_LIST_LENGTH": MAX_LENGTH}
        return publish_bundle(
            staging, target, describe(model_version, hyper_parameters=hyper_parameters)
        )

    return make


@pytest.fixture(scope="session")
def tiny_bundle(
    make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """40 items item1..item40, item1 the most popular, item39 and item40 never trained on."""
    popularity = [*range(38, 0, -1), 0, 0]
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny", popularity=popularity)


@pytest.fixture
def matmul_precision() -> Iterator[None]:
    """Put back what Lightning sets for the whole process."""
    import torch

    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(precision)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def shared_traces(shared_folder: Path) -> Iterator[None]:
    """For modules that export models, but of which none is about the export."""
    with traces_shared_in(shared_folder):
        yield


@pytest.fixture(scope="module")
def without_reports() -> Iterator[None]:
    """For modules that run nights, but look at no report, which takes more than half of one."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("page_of_run", "index_of_run"):
            patch.setattr(f"pipeline.runner.nightly.{name}", lambda *given: None)
        yield


@pytest.fixture
def without_charts() -> Iterator[None]:
    """For tests of reports whose charts others look at, as drawing takes most of their time."""
    from markupsafe import Markup

    empty = Markup('<svg aria-label="a chart"></svg>')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.reporting.charts._svg", lambda *given, **options: empty)
        yield


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes with a core each, all on this machine; for slow tests only."""
    pytest.importorskip("ray")
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("default")
        patch.setenv("RAY_worker_niceness", "0")  # 15, on a busy machine, takes minutes
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        nodes.add_node(num_cpus=1)
        yield nodes
        nodes.shutdown()


def _save(path: Path, embedding: np.ndarray[Any, Any], *, recommend: bool) -> None:
    rows, width = embedding.shape
    items = TensorProto(name="items", data_type=TensorProto.FLOAT, dims=embedding.shape)
    items.data_location = TensorProto.EXTERNAL
    items.external_data.add(key="location", value="items.bin")
    constants = {
        "time": np.array([1]),
        "last": np.array([1]),
        "never": np.array(-np.inf, np.float32),
        "none": np.array(0),
    }
    nodes = [
        helper.make_node("Gather", ["items", "item_seq"], ["met"]),
        helper.make_node("ReduceSum", ["met", "time"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["item_seq_len"], ["length"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["length", "last"], ["divisor"]),
        helper.make_node("Div", ["sum", "divisor"], ["user_embedding"]),
    ]
    inputs = [
        helper.make_tensor_value_info("item_seq", TensorProto.INT64, ["B", MAX_LENGTH]),
        helper.make_tensor_value_info("item_seq_len", TensorProto.INT64, ["B"]),
    ]
    outputs = [helper.make_tensor_value_info("user_embedding", TensorProto.FLOAT, ["B", width])]
    if recommend:
        nodes += [
            helper.make_node("Transpose", ["items"], ["columns"], perm=[1, 0]),
            helper.make_node("MatMul", ["user_embedding", "columns"], ["product"]),
            helper.make_node("Add", ["product", "item_bias"], ["biased"]),
            helper.make_node("Shape", ["exclude"], ["extent"]),
            helper.make_node("Expand", ["never", "extent"], ["updates"]),
            helper.make_node(
                "ScatterElements", ["biased", "exclude", "updates"], ["eligible"], axis=1
            ),
            helper.make_node("TopK", ["eligible", "k"], ["score", "best"], axis=1),
            helper.make_node("Equal", ["score", "never"], ["lacking"]),
            helper.make_node("Where", ["lacking", "none", "best"], ["item_index"]),
        ]
        inputs += [
            helper.make_tensor_value_info("exclude", TensorProto.INT64, ["B", "E"]),
            helper.make_tensor_value_info("item_bias", TensorProto.FLOAT, [rows]),
            helper.make_tensor_value_info("k", TensorProto.INT64, [1]),
        ]
        outputs = [
            helper.make_tensor_value_info("item_index", TensorProto.INT64, ["B", "K"]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["B", "K"]),
            *outputs,
        ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, [items, *initializers])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))
