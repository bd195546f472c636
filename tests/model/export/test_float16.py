"""The float16 recommender: what is in it, what it computes, what it costs."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
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

import model.export.graphs
import model.export.retrieval
from model.config import FEARecConfig
from model.errors import ConfigError, ExportParityError
from model.export.files import FLOAT16_RECOMMENDER, FLOAT16_TABLE, RECOMMENDER
from model.export.float16 import _delay_choice, to_float16, with_every_rounding
from model.export.graphs import export_both, trace_encoder
from model.network.fearec import FEARec
from pipeline import schema
from pipeline.bundles.bundle import Bundle
from pipeline.config.export_section import ExportSettings
from pipeline.results import Float16Check, Prepared
from pipeline.schema import ITEMS_FILE
from pipeline.training.float16_check import check_float16
from tests.helpers.prepared_folders import sequences, write_histories

pytestmark = pytest.mark.usefixtures("shared_traces")

V, L, D = 200, 12, 16
FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16

Array = npt.NDArray[Any]


def network(**changes: Any) -> FEARec:
    torch.manual_seed(4)
    sizes = {"hidden_size": D, "inner_size": 32, "initializer_range": 0.2, **changes}
    config = FEARecConfig.from_preset("paper", n_items=V, MAX_ITEM_LIST_LENGTH=L, **sizes)
    return FEARec(config).eval()


@pytest.fixture(scope="module")
def trace() -> onnx.ModelProto:
    """Of `network()`; tracing takes seconds."""
    return trace_encoder(network(), "matmul")


@pytest.fixture
def traced(trace: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports take their trace from `trace`."""
    take_trace(trace, monkeypatch)


def take_trace(trace: onnx.ModelProto, patch: pytest.MonkeyPatch) -> None:
    def take(given: FEARec, fft: str) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(trace)
        return copy

    patch.setattr(model.export.graphs, "trace_encoder", take)
    patch.setattr(model.export.retrieval, "BLOCKS_FROM", 1)


@pytest.fixture(scope="module")
def exported(trace: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both recommenders, of blocks of items."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        take_trace(trace, patch)
        export_both(network(), folder, fp16=True)
    return folder


def session(graph: Path | onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    given = graph.SerializeToString() if isinstance(graph, onnx.ModelProto) else str(graph)
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def recommend(graph: Path, k: int = 10, users: int = 300) -> tuple[Array, Array]:
    random = np.random.default_rng(0)
    item_seq_len = random.integers(1, L + 1, users)
    item_seq = random.integers(1, V, (users, L)) * (np.arange(L) < item_seq_len[:, None])
    bias = np.where(np.arange(V) % 7, 0, -np.inf).astype(np.float32)
    feeds = {"item_seq": item_seq, "item_seq_len": item_seq_len, "exclude": item_seq}
    found = session(graph).run(None, {**feeds, "item_bias": bias, "k": np.array([k])})
    return found[0], found[1]


def kinds(graph: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    found = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        found[value.name] = value.type.tensor_type.elem_type
    return found


def test_inputs_outputs_and_metadata_are_those_of_the_float32_recommender(exported: Path) -> None:
    half, whole = (
        onnx.load(exported / name, load_external_data=False)
        for name in (FLOAT16_RECOMMENDER, RECOMMENDER)
    )
    onnx.checker.check_model(str(exported / FLOAT16_RECOMMENDER), full_check=True)
    assert list(half.graph.input) == list(whole.graph.input)
    assert list(half.graph.output) == list(whole.graph.output)
    assert list(half.metadata_props) == list(whole.metadata_props)
    assert {value.type.tensor_type.elem_type for value in half.graph.output} >= {FLOAT}


def test_the_item_table_is_stored_once_in_half_the_bytes(exported: Path) -> None:
    graph = onnx.load(exported / FLOAT16_RECOMMENDER, load_external_data=False).graph
    (table,) = (each for each in graph.initializer if each.external_data)
    assert list(table.dims) == [V, D]
    assert {entry.key: entry.value for entry in table.external_data}["location"] == FLOAT16_TABLE
    stored = np.fromfile(exported / FLOAT16_TABLE, np.float16).reshape(V, D)
    whole = np.fromfile(exported / "items.bin", np.float32).reshape(V, D)
    np.testing.assert_array_equal(stored, whole.astype(np.float16))
    # Nothing of the float32 weights is left beside their float16 forms.
    assert (exported / FLOAT16_RECOMMENDER).stat().st_size < (exported / RECOMMENDER).stat().st_size


def test_delays_are_chosen_in_float32_and_the_rest_is_float16(exported: Path) -> None:
    half = onnx.load(exported / FLOAT16_RECOMMENDER, load_external_data=False)
    kind = kinds(half)
    chosen = [kind[node.input[0]] for node in half.graph.node if node.op_type == "TopK"]
    layers = network().config.n_layers
    assert chosen[:layers] == [FLOAT] * layers
    assert FLOAT not in chosen[layers:]  # blocks, their indices, items
    products = [kind[node.output[0]] for node in half.graph.node if node.op_type == "MatMul"]
    assert products.count(FLOAT16) > 2 * products.count(FLOAT) > 0
    for node in half.graph.node:
        if node.op_type in ("Gelu", "Gemm", "LayerNormalization", "GatherND"):
            assert kind[node.output[0]] == FLOAT16, node.op_type
    casts = sum(node.op_type == "Cast" for node in half.graph.node)
    assert casts <= 3 * layers + 3  # in, weights and band out, a layer; item_bias, the outputs


@pytest.mark.usefixtures("traced")
def test_the_same_weights_give_the_same_bytes_anywhere(exported: Path, tmp_path: Path) -> None:
    export_both(network(), tmp_path, fp16=True)
    for name in (FLOAT16_RECOMMENDER, FLOAT16_TABLE):
        content = (tmp_path / name).read_bytes()
        assert content == (exported / name).read_bytes()
        assert str(Path(model.export.graphs.__file__).parents[1]).encode() not in content


def test_recommendations_are_nearly_those_of_float32(exported: Path) -> None:
    (found, score), (expected, exact) = (
        recommend(exported / name) for name in (FLOAT16_RECOMMENDER, RECOMMENDER)
    )
    assert score.dtype == np.float32
    shared = (found[:, :, None] == expected[:, None, :]).any(2)
    assert shared.mean() > 0.97
    # Some ids differ: had nothing been rounded, this test would show nothing.
    assert not (found == expected).all()
    # All but where other delays were as good.
    assert np.quantile(np.abs(score - exact), 0.99) < 0.01
    assert not (found % 7 == 0).any()  # item_bias reaches its end


@pytest.mark.usefixtures("traced")
def test_nothing_is_written_unless_asked_for(tmp_path: Path) -> None:
    export_both(network(), tmp_path)
    assert not list(tmp_path.glob("*fp16*"))


@pytest.mark.usefixtures("traced")
def test_an_item_beyond_float16_is_refused(tmp_path: Path) -> None:
    built = network()
    built.item_embedding.weight.data[5, 3] = 7e4
    with pytest.raises(ConfigError, match=r"weight: .*at most 65504; found 70000.*fp16 = false"):
        export_both(built, tmp_path, fp16=True)


def test_a_weight_beyond_float16_is_refused_and_infinity_is_not() -> None:
    node = helper.make_node("Add", ["x", "weight"], ["y"])
    value = helper.make_tensor_value_info
    for weight, refused in ((-7e4, True), (-np.inf, False)):
        tensor = numpy_helper.from_array(np.array([weight], np.float32), "weight")
        graph = helper.make_graph(
            [node], "one", [value("x", FLOAT, ["N"])], [value("y", FLOAT, ["N"])], [tensor]
        )
        built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        if refused:
            with pytest.raises(ConfigError, match="weight: a weight is beyond"):
                to_float16(built)
        else:
            to_float16(built)


def test_correlations_beyond_float16_choose_the_delays_of_float32(
    trace: onnx.ModelProto, tmp_path: Path
) -> None:
    """The form that correlations come from, a weight between query and key, grows beyond it."""
    graph = onnx.ModelProto()
    graph.CopyFrom(trace)
    forms = _delay_choice(graph.graph)
    grown = 0
    for node in graph.graph.node:
        for tensor in graph.graph.initializer:
            if (
                tensor.name in node.input
                and node.output[0] in forms
                and list(tensor.dims) == [D, D]
            ):
                values = numpy_helper.to_array(tensor) * np.float32(3e4)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
                grown += 1
    assert grown == network().config.n_layers
    half, naive = onnx.ModelProto(), onnx.ModelProto()
    half.CopyFrom(graph)
    naive.CopyFrom(graph)
    to_float16(half)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.export.float16._delay_choice", lambda graph: set())
        to_float16(naive)
    random = np.random.default_rng(0)
    feeds = {"item_seq": np.zeros((60, L), np.int64), "item_seq_len": random.integers(1, L, 60)}
    feeds["item_seq"][:, 0] = 1
    for each in (half, naive):
        with_every_rounding(each)
    exact, found, lost = (session(each).run(None, feeds)[0] for each in (graph, half, naive))
    np.testing.assert_allclose(found, exact, rtol=0.05, atol=0.05)
    assert not np.isfinite(lost).all()  # what would come of choosing in float16


# Rounding on a CPU


def small(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [value("a", FLOAT16, ["N"]), value("b", FLOAT16, ["N"])],
        [value("y", FLOAT16, ["N"])],
        [numpy_helper.from_array(np.array([3], np.float16), "three")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_every_value_is_rounded_as_float16_hardware_would() -> None:
    node = helper.make_node
    steps = (
        node("Mul", ["a", "b"], ["product"]),
        node("Mul", ["product", "three"], ["threefold"]),
        node("Sub", ["threefold", "a"], ["y"]),
    )
    a, b = (np.random.default_rng(i).standard_normal(500).astype(np.float16) for i in range(2))
    expected = (a * b) * np.float16(3) - a  # numpy rounds after every step
    graph = small(*steps)
    (careless,) = session(graph).run(None, {"a": a, "b": b})
    assert (careless != expected).any()  # what this is for: ONNX Runtime rounds at the end only
    with_every_rounding(graph)
    onnx.checker.check_model(graph, full_check=True)
    (found,) = session(graph).run(None, {"a": a, "b": b})
    np.testing.assert_array_equal(found, expected)


def test_a_value_wanted_in_both_precisions_is_cast_once() -> None:
    value, node = helper.make_tensor_value_info, helper.make_node
    graph = helper.make_graph(
        [
            node("Mul", ["x", "weight"], ["scaled"]),
            node("Cast", ["scaled"], ["whole"], to=TensorProto.INT64),  # wants float32, twice
            node("Cast", ["scaled"], ["again"], to=TensorProto.INT64),
            node("Add", ["scaled", "scaled"], ["y"]),
        ],
        "both",
        [value("x", FLOAT, ["N"])],
        [value("y", FLOAT, ["N"]), value("whole", TensorProto.INT64, ["N"]),
         value("again", TensorProto.INT64, ["N"])],
        [numpy_helper.from_array(np.array([2], np.float32), "weight")],
    )  # fmt: skip
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    to_float16(built)
    onnx.checker.check_model(built, full_check=True)
    widened = [each for each in built.graph.node if list(each.input) == ["scaled"]]
    assert len(widened) == 1
    found = session(built).run(None, {"x": np.array([1.25, 3], np.float32)})
    np.testing.assert_array_equal(found[0], np.array([5, 12], np.float32))
    np.testing.assert_array_equal(found[1], [2, 6])


# What it costs


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """100 users of items 1 to V-1, and one with a single item, who has none to be asked for."""
    folder = tmp_path / "prepared"
    folder.mkdir()
    random = np.random.default_rng(2)
    histories = [random.integers(0, V - 1, random.integers(2, 20)).tolist() for _ in range(100)]
    histories.append([3])
    noon = datetime(2026, 11, 1, 12, tzinfo=UTC)
    times = [[noon] * len(history) for history in histories]
    columns = schema.prepared_schema(pa.int64())
    index = [[item + 1 for item in history] for history in histories]
    table = pa.table([range(101), times, index], names=columns.names)
    write_histories(folder, table.cast(columns))
    columns = [range(1, V), range(V - 1), [1] * (V - 1), [noon] * (V - 1)]
    items = pa.table(columns, names=schema.vocabulary_schema(pa.int64()).names)
    pq.write_table(items.cast(schema.vocabulary_schema(pa.int64())), folder / ITEMS_FILE)
    values: dict[str, Any] = dict.fromkeys(Prepared.__dataclass_fields__, 0)
    return Prepared(**{**values, "folder": folder, "n_items": V})


def check(prepared: Prepared, folder: Path, **limits: Any) -> Float16Check:
    return check_float16(
        prepared, ExportSettings(fp16=True, **limits), folder, (), length=L, mask_seen=True
    )


def test_the_loss_is_measured_on_the_users_last_items(exported: Path, prepared: Prepared) -> None:
    before = {path.name for path in exported.iterdir()}
    loss = check(prepared, exported)
    assert loss.sequences == 100
    assert 0.97 < loss.agreement < 1
    assert abs(loss.ndcg) < 0.02
    assert {path.name for path in exported.iterdir()} == before


def test_identical_recommenders_lose_nothing(
    exported: Path, prepared: Prepared, tmp_path: Path
) -> None:
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / FLOAT16_RECOMMENDER).write_bytes((exported / RECOMMENDER).read_bytes())
    loss = check(prepared, tmp_path)
    assert (loss.ndcg, loss.agreement) == (0, 1)


def test_too_great_a_loss_is_refused(exported: Path, prepared: Prepared) -> None:
    with pytest.raises(ExportParityError, match=r"min_fp16_agreement = 1; found 0\.99"):
        check(prepared, exported, min_fp16_agreement=1)


def test_a_recommender_of_something_else_is_refused(
    exported: Path, prepared: Prepared, tmp_path: Path
) -> None:
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    np.random.default_rng(0).normal(size=(V, D)).astype(np.float16).tofile(tmp_path / FLOAT16_TABLE)
    with pytest.raises(ExportParityError, match="differs from the float32 one"):
        check(prepared, tmp_path)


def test_nobody_to_compare_is_no_loss(exported: Path, prepared: Prepared) -> None:
    last = sequences(prepared.folder).slice(100).select(schema.prepared_schema(pa.int64()).names)
    write_histories(prepared.folder, last)
    loss = check(replace(prepared, n_users=1), exported)
    assert (loss.ndcg, loss.agreement, loss.sequences) == (0, 1, 0)


# The bundle


def test_a_bundle_without_float16_says_what_to_do(tiny_bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"recommender_fp16\.onnx.*export\.fp16 = true") as raised:
        _ = tiny_bundle.float16_recommender
    assert raised.value.exit_code == 2


def test_a_bundle_with_float16_gives_its_path(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    files = {**bundle.description.files, FLOAT16_RECOMMENDER: "0"}
    described = bundle.description.model_copy(update={"files": files})
    found = replace(bundle, description=described).float16_recommender
    assert found == bundle.path / "recommender_fp16.onnx"
