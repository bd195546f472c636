"""On a GPU: what stays on it, and that it finds what a CPU finds.

    .venv/bin/python -m pytest -m gpu tests/gpu

The reader of ONNX Runtime's profiles is tested everywhere.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import model.export.retrieval
from model.config import FEARecConfig
from model.errors import ConfigError
from model.export.graphs import OPSET, export_both
from model.export.retrieval import add_retrieval
from model.network.fearec import FEARec
from model.training.weights import ITEM_TABLE
from pipeline.bundles.bundle import FLOAT16_RECOMMENDER, RECOMMENDER, Bundle
from pipeline.bundles.sessions import CPU, CUDA, TENSORRT, Precision, Provider, count_devices
from pipeline.config.score_section import ScoreSettings
from pipeline.config.sections import LogSettings
from pipeline.scoring.batches import ScoringBatch
from pipeline.scoring.recommender import Recommender, load_recommender, sort_ties
from pipeline.scoring.run import score

Array = npt.NDArray[Any]

# Elements of a tensor that may be on the CPU: shapes, K, one number of a batch. All dimensions
# of the batches below are larger.
FEW = 8
USERS, EXCLUDED, L, TOP_K = 33, 17, 20, 10
CATALOGUES = {"whole": 2_001, "blocks": 20_001}  # by how retrieval goes over it
FILES = {"fp32": RECOMMENDER, "fp16": FLOAT16_RECOMMENDER}


# Reading a profile


@dataclass(frozen=True)
class Ran:
    """One run of one node."""

    node: str
    op: str
    provider: str
    tensors: tuple[tuple[str, tuple[int, ...]], ...]  # in and out: element type and shape

    @property
    def copies(self) -> bool:
        """Whether it is one of the nodes that ONNX Runtime puts between two devices."""
        return self.op.startswith("Memcpy")

    @property
    def small(self) -> bool:
        """Whether it sees nothing but a few integers."""
        return all(
            kind == "int64" and np.prod(shape, dtype=int) <= FEW for kind, shape in self.tensors
        )


def read_profile(path: Path) -> list[Ran]:
    """Every node's runs, in order."""
    ran = []
    for event in json.loads(path.read_text()):
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        given = event["args"]
        shapes = given.get("input_type_shape", []) + given.get("output_type_shape", [])
        tensors = tuple((kind, tuple(shape)) for each in shapes for kind, shape in each.items())
        name = event["name"].removesuffix("_kernel_time")
        ran.append(Ran(name, given["op_name"], given["provider"], tensors))
    return ran


def off_the_device(ran: list[Ran]) -> list[Ran]:
    """What runs on the CPU, or goes there or comes from there, and is no handful of integers."""
    return [each for each in ran if (each.provider == CPU or each.copies) and not each.small]


def event(
    op: str, provider: str, inputs: list[dict[str, list[int]]], outputs: list[dict[str, list[int]]],
    **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    args = {"op_name": op, "provider": provider}
    args |= {"input_type_shape": inputs, "output_type_shape": outputs}
    return {"cat": "Node", "name": f"{op.lower()}_kernel_time", "args": args, **changes}


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """By hand, as ONNX Runtime writes them."""
    integers = [{"int64": [1]}, {"int64": []}]
    events = [
        {"cat": "Session", "name": "model_loading", "dur": 3},
        event("Shape", CPU, [{"int64": [33, 20]}], [{"int64": [2]}]),  # looks at B and L
        event("Concat", CPU, integers, [{"int64": [2]}]),
        event("MatMul", CUDA, [{"float": [33, 64]}, {"float": [64, 64]}], [{"float": [33, 64]}]),
        event("MemcpyToHost", CUDA, [{"int64": [1]}], [{"int64": [1]}]),
        event("MemcpyFromHost", CUDA, [{"int64": [33, 18]}], [{"int64": [33, 18]}]),
        event("Pad", CPU, [{"int64": [33, 17]}, {"int64": [2]}], [{"int64": [33, 18]}]),
        event("Cast", CPU, [{"float": [1]}], [{"int64": [1]}]),  # small, but no integer
        event("Add", CUDA, [{"float": [33]}], [{"float": [33]}], name="add_fence_before"),
    ]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(events))
    return path


def test_a_profile_is_read_node_by_node(profile: Path) -> None:
    ran = read_profile(profile)
    assert [each.op for each in ran] == [
        "Shape", "Concat", "MatMul", "MemcpyToHost", "MemcpyFromHost", "Pad", "Cast",
    ]  # fmt: skip
    assert ran[1] == Ran("concat", "Concat", CPU, (("int64", (1,)), ("int64", ()), ("int64", (2,))))
    assert [each.op for each in ran if each.copies] == ["MemcpyToHost", "MemcpyFromHost"]


def test_what_leaves_the_device_is_found(profile: Path) -> None:
    found = off_the_device(read_profile(profile))
    assert [each.op for each in found] == ["Shape", "MemcpyFromHost", "Pad", "Cast"]


def test_onnxruntimes_own_profiles_are_read(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "x"], ["y"], name="square")],
        "small",
        [value("x", TensorProto.FLOAT, ["N", 3])],
        [value("y", TensorProto.FLOAT, ["N", 3])],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = profiled(tmp_path)
    session = onnxruntime.InferenceSession(built.SerializeToString(), options, providers=[CPU])
    session.run(None, {"x": np.ones((5, 3), np.float32)})
    (ran,) = read_profile(Path(session.end_profiling()))
    assert (ran.node, ran.op, ran.provider) == ("square", "Mul", CPU)
    assert set(ran.tensors) == {("float", (5, 3))}
    assert off_the_device([ran]) == [ran]


def profiled(folder: Path) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.log_severity_level = 3
    return options


# The benchmark


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)


@pytest.mark.slow
def test_the_benchmark_can_be_tried_on_a_cpu() -> None:
    done = benchmark(
        "--device", "cpu", "--items", "300", "--top-k", "10", "--batch-sizes", "128",
        "--rounds", "1", "--seconds", "0.01",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for side in ("fearec, cpu, fp32", "fearec, cpu, fp16", "torch, fp32", "torch, fp16"):
        assert re.search(rf"{side} +[\d,]+ users/s +batch +128 .*% of the bandwidth", done.stdout)
    assert re.search(r"same ids as torch for \d+\.\d+% of users", done.stdout)
    assert re.search(r"fearec fp16: \d+\.\d\dx torch fp16 \(target 1.5x\)", done.stdout)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_benchmark_says_so_in_one_line() -> None:
    done = benchmark()
    assert done.returncode == 1
    assert done.stderr.startswith("No CUDA device")
    assert done.stderr.count("\n") == 1


# On the device


@pytest.fixture(scope="module", params=CATALOGUES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network's recommenders of a catalogue."""
    torch.manual_seed(3)
    n_items = CATALOGUES[request.param]
    sizes = {"MAX_ITEM_LIST_LENGTH": L, "initializer_range": 0.1}
    network = FEARec(FEARecConfig.from_preset("paper", n_items=n_items, **sizes)).eval()
    target = tmp_path_factory.mktemp(request.param)
    export_both(network, target, fp16=True)
    return target


def opened(graph: Path, provider: Provider, top_k: int = TOP_K, **options: Any) -> Recommender:
    n_items = onnx.load(graph, load_external_data=False).graph.input[3].type.tensor_type.shape
    bias = np.zeros(n_items.dim[0].dim_value, np.float32)
    bias[::5] = -np.inf
    return load_recommender(graph, provider, item_bias=bias, top_k=top_k, **options)


def batch_of(users: int, excluded: int = EXCLUDED) -> ScoringBatch:
    random = np.random.default_rng(users)
    lengths = random.integers(1, L + 1, users)
    item_seq = random.integers(1, 2_000, (users, L)) * (np.arange(L) < lengths[:, None])
    exclude = random.integers(0, 2_000, (users, excluded))
    return ScoringBatch(np.arange(users), item_seq, lengths, exclude)


def assert_same(found: tuple[Array, Array], expected: tuple[Array, Array], near: float) -> None:
    """Scores agree, and ids do wherever the scores beside are not as near.

    Args:
        found: K items and scores per user.
        expected: K + 1.
        near: The difference of scores that counts as none.
    """
    (item, score), (expected_item, expected_score) = found, expected
    k = item.shape[1]
    assert expected_item.shape[1] == k + 1
    np.testing.assert_allclose(score, expected_score[:, :k], rtol=near, atol=near)
    apart = -np.diff(expected_score, axis=1) > 4 * near
    far = apart.copy()
    far[:, 1:] &= apart[:, :-1]
    assert far.mean() > 0.3
    np.testing.assert_array_equal(item[far], expected_item[:, :k][far])


@pytest.mark.gpu
@pytest.mark.parametrize("precision", FILES)
def test_nothing_but_a_few_integers_leaves_the_gpu(
    folder: Path, precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = profiled(tmp_path)
    monkeypatch.setattr(onnxruntime, "SessionOptions", lambda: options)
    recommender = opened(folder / FILES[precision], "cuda", precision=precision)
    recommender(batch_of(USERS))
    ran = read_profile(Path(recommender.session.end_profiling()))
    assert any(each.op == "TopK" and each.provider == CUDA for each in ran)
    assert off_the_device(ran) == []


@pytest.mark.gpu
@pytest.mark.parametrize("top_k", [1, 10, 100, 300])
def test_a_gpu_recommends_what_a_cpu_does(folder: Path, top_k: int) -> None:
    on_gpu = opened(folder / RECOMMENDER, "cuda", top_k)
    on_cpu = opened(folder / RECOMMENDER, "cpu", top_k + 1)
    assert (on_gpu.provider, on_cpu.provider) == (CUDA, CPU)
    for users, excluded in [(USERS, EXCLUDED), (1, 0), (USERS, 0), (7, 100)]:
        batch = batch_of(users, excluded)
        # 2e-5 is far below what TF32 would leave: float32 is float32.
        assert_same(on_gpu(batch), on_cpu(batch), 2e-5)


@pytest.mark.gpu
def test_float16_recommends_nearly_the_same(folder: Path) -> None:
    half = opened(folder / FLOAT16_RECOMMENDER, "cuda", precision="fp16")
    whole = opened(folder / RECOMMENDER, "cpu")
    batch = batch_of(500)
    (found, score), (expected, exact) = half(batch), whole(batch)
    assert score.dtype == np.float32
    assert (found[:, :, None] == expected[:, None, :]).any(2).mean() > 0.95
    assert np.quantile(np.abs(score - exact), 0.99) < 0.02  # all but where delays were near ties


@pytest.mark.gpu
@pytest.mark.parametrize("lowered", [(), ("BLOCKS_FROM",), ("BLOCKS_FROM", "TWO_PASS_FROM")])
@pytest.mark.parametrize("k", [10, 100, 300])
def test_of_equal_scores_the_best_are_found_and_sorted(
    lowered: tuple[str, ...], k: int, tmp_path: Path
) -> None:
    """Which of the items tied with the last place are among them is left to the device."""
    random = np.random.default_rng(1)
    table, users = (random.integers(-3, 4, (n, 16)).astype(np.float32) for n in (20_001, USERS))
    graph = helper.make_graph(
        [],
        "retrieval",
        [helper.make_tensor_value_info("user_embedding", TensorProto.FLOAT, ["B", 16])],
        [helper.make_tensor_value_info("user_embedding", TensorProto.FLOAT, ["B", 16])],
        [numpy_helper.from_array(table, ITEM_TABLE)],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BLOCKS_FROM", "TWO_PASS_FROM"):
            patch.setattr(model.export.retrieval, name, 0 if name in lowered else 10**9)
        add_retrieval(built, len(table))
    session = onnxruntime.InferenceSession(
        built.SerializeToString(), profiled(tmp_path), providers=[(CUDA, {"use_tf32": 0}), CPU]
    )
    assert session.get_providers()[0] == CUDA
    exclude = random.integers(1, 2_000, (USERS, EXCLUDED))
    feeds = {"user_embedding": users, "exclude": exclude, "k": np.array([k])}
    feeds["item_bias"] = np.zeros(len(table), np.float32)
    item_index, score = session.run(["item_index", "score"], feeds)
    sort_ties(item_index, score)
    scores = users @ table.T  # whole numbers: exact
    scores[:, 0] = -np.inf
    np.put_along_axis(scores, exclude, -np.inf, axis=1)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(score, np.take_along_axis(scores, expected, axis=1))
    np.testing.assert_array_equal(score, np.take_along_axis(scores, item_index, axis=1))
    assert all(len(set(items)) == k for items in item_index)
    free = score == score[:, -1:]
    np.testing.assert_array_equal(item_index[~free], expected[~free])
    again = session.run(["item_index", "score"], feeds)
    sort_ties(*again)
    np.testing.assert_array_equal(again[0], item_index)


@pytest.mark.gpu
def test_batches_at_once_get_what_each_alone_gets(folder: Path) -> None:
    recommender = opened(folder / RECOMMENDER, "cuda")
    batches = [batch_of(users, users % 40) for users in range(100, 400)]
    alone = [recommender(batch) for batch in batches]
    with ThreadPoolExecutor(recommender.at_once) as threads:
        for found, expected in zip(threads.map(recommender, batches), alone, strict=True):
            for values, right in zip(found, expected, strict=True):
                np.testing.assert_array_equal(values, right)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", FILES)
def test_tensorrt_recommends_what_a_cpu_does(
    folder: Path, precision: Precision, tmp_path: Path
) -> None:
    graph, options = folder / FILES[precision], {"batch_size": 64, "cache": tmp_path}
    try:
        recommender = opened(graph, "tensorrt", precision=precision, **options)
    except ConfigError as error:
        pytest.skip(str(error))
    assert recommender.provider == TENSORRT
    assert any(tmp_path.iterdir())  # engines
    whole = opened(folder / RECOMMENDER, "cpu", TOP_K + 1)
    for users in (64, USERS, 1):
        batch = batch_of(users)
        found, expected = recommender(batch), whole(batch)
        if precision == "fp32":
            assert_same(found, expected, 1e-3)  # it may use TF32
        else:
            same = found[0][:, :, None] == expected[0][:, None, :TOP_K]
            assert same.any(2).mean() > 0.9


@pytest.fixture
def sequences(tmp_path: Path) -> Iterator[Path]:
    random = np.random.default_rng(5)
    histories = [
        [f"item{item}" for item in random.integers(1, 39, random.integers(1, 9))]
        for _ in range(500)
    ]
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"user_id": range(500), "item_ids": histories}), path)
    return path


@pytest.mark.gpu
def test_every_gpu_together_writes_what_one_writes(
    tiny_bundle: Bundle, sequences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if count_devices("auto", CUDA) == 1:
        pytest.skip("one GPU only")
    monkeypatch.setattr("pipeline.scoring.scorer.PART_USERS", 50)
    tables = []
    for devices in (1, "auto"):
        out = tmp_path / str(devices)
        settings = ScoreSettings(provider="cuda", devices=devices)
        result = score(
            [str(sequences)], tiny_bundle, out, settings,
            logs=LogSettings(), run_date=date(2026, 11, 20), time_zone="UTC",
        )  # fmt: skip
        assert result.provider == CUDA
        tables.append(pq.read_table(out).drop(["generated_at"]))
    assert tables[0].equals(tables[1])
