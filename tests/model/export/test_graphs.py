"""The exported graphs compute what PyTorch does, wherever and whenever they are written."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

import model.export.graphs
from model.config import FEARecConfig
from model.errors import ConfigError
from model.export.files import (
    CPU_RECOMMENDER,
    FLOAT16_RECOMMENDER,
    INT8_TABLE,
    RECOMMENDER,
)
from model.export.graphs import (
    Form,
    export_both,
    export_encoder,
    export_recommender,
    trace_encoder,
)
from model.export.parity import near_ties
from model.network.fearec import FEARec
from model.training.weights import ITEM_TABLE

V, L = 37, 11
FORMS: tuple[Form, ...] = ("matmul", "dft")
# By default the form that bundles have; the other one serves as a yardstick.
BY_DEFAULT = ("matmul", pytest.param("dft", marks=pytest.mark.slow))
TWINS = ((3, 17, 36), (5, 6))  # item rows that are equal

Array = npt.NDArray[Any]


def network(**changes: Any) -> FEARec:
    torch.manual_seed(4)
    sizes: dict[str, Any] = {"MAX_ITEM_LIST_LENGTH": L, "hidden_size": 16, "inner_size": 32}
    sizes["initializer_range"] = 0.2
    preset = changes.pop("preset", "paper")
    config = FEARecConfig.from_preset(preset, n_items=V, **{**sizes, **changes})
    built = FEARec(config)
    with torch.no_grad():
        table = built.item_embedding.weight
        for first, *others in TWINS:
            table[others] = table[first].clone()
    return built.eval()


NETWORK = network()


@cache
def traced_once(fft: Form) -> onnx.ModelProto:
    """The traced encoder; tracing takes seconds."""
    return trace_encoder(NETWORK, fft)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Exports of `NETWORK` take their trace from `traced_once`."""

    def take(given: FEARec, fft: Form) -> onnx.ModelProto:
        assert given is NETWORK
        copy = onnx.ModelProto()
        copy.CopyFrom(traced_once(fft))
        return copy

    with monkeypatch.context() as patch:
        patch.setattr(model.export.graphs, "trace_encoder", take)
        yield


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def sequences(length: int = L, each: int = 8) -> tuple[Tensor, Tensor]:
    """Some of every length from 1 to L."""
    generator = torch.Generator().manual_seed(1)
    item_seq_len = torch.arange(1, length + 1).repeat_interleave(each)
    item_seq = torch.randint(1, V, (len(item_seq_len), length), generator=generator)
    return item_seq.where(torch.arange(length) < item_seq_len[:, None], 0), item_seq_len


def embeddings(path: Path, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
    feeds = {"item_seq": item_seq.numpy(), "item_seq_len": item_seq_len.numpy()}
    (found,) = session(path).run(["user_embedding"], feeds)
    return torch.from_numpy(found)


def compare(built: FEARec, path: Path) -> None:
    item_seq, item_seq_len = sequences(built.config.MAX_ITEM_LIST_LENGTH)
    with torch.no_grad():
        expected = built(item_seq, item_seq_len)
    found = embeddings(path, item_seq, item_seq_len)
    assert found.dtype == torch.float32
    judged = ~near_ties(
        built, item_seq, item_seq_len
    )  # a correct program may choose other delays there
    assert judged.float().mean() > 0.95
    assert (found - expected)[judged].abs().max() <= 2e-5


# The encoder


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("fft", BY_DEFAULT)
def test_the_encoder_computes_pytorchs_embeddings(tmp_path: Path, fft: Form) -> None:
    export_encoder(NETWORK, tmp_path / "encoder.onnx", fft=fft)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]  # self-contained
    compare(NETWORK, tmp_path / "encoder.onnx")


def test_an_architecture_is_traced_once_for_all_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any, **options: Any) -> None:
        raise AssertionError("traced again")

    trace_encoder(NETWORK, "matmul")
    monkeypatch.setattr(torch.onnx, "export", refuse)
    other = network()
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if name != ITEM_TABLE:  # whose rows are planted
                weight.add_(0.3 * torch.randn_like(weight))
    export_encoder(other, tmp_path / "encoder.onnx")
    compare(other, tmp_path / "encoder.onnx")


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("fft", BY_DEFAULT)
def test_the_batch_is_dynamic(tmp_path: Path, fft: Form) -> None:
    export_encoder(NETWORK, tmp_path / "encoder.onnx", fft=fft)
    item_seq, item_seq_len = sequences()
    together = embeddings(tmp_path / "encoder.onnx", item_seq, item_seq_len)
    for rows in (1, 2, 7):
        part = embeddings(tmp_path / "encoder.onnx", item_seq[:rows], item_seq_len[:rows])
        torch.testing.assert_close(part, together[:rows], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("traced")
def test_the_encoders_interface_is_the_designs(tmp_path: Path) -> None:
    export_encoder(NETWORK, tmp_path / "encoder.onnx")
    encoder = session(tmp_path / "encoder.onnx")
    inputs = [(given.name, given.type, given.shape) for given in encoder.get_inputs()]
    assert inputs == [
        ("item_seq", "tensor(int64)", ["B", L]),
        ("item_seq_len", "tensor(int64)", ["B"]),
    ]
    (output,) = encoder.get_outputs()
    assert (output.name, output.type, output.shape[1]) == ("user_embedding", "tensor(float)", 16)


@pytest.mark.parametrize("fft", BY_DEFAULT)
def test_the_dft_form_alone_uses_the_standard_operator(fft: Form) -> None:
    graph = traced_once(fft)
    assert ("DFT" in {node.op_type for node in graph.graph.node}) == (fft == "dft")
    assert {(entry.domain, entry.version) for entry in graph.opset_import} == {("", 20)}
    assert not graph.functions


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("export", [export_encoder, export_recommender])
def test_the_file_is_a_valid_model(tmp_path: Path, export: Any) -> None:
    export(NETWORK, tmp_path / "graph.onnx")
    onnx.checker.check_model(str(tmp_path / "graph.onnx"), full_check=True)


@pytest.mark.usefixtures("traced")
def test_a_large_table_lies_beside_its_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.export.graphs, "SELF_CONTAINED_BYTES", 100)
    (tmp_path / "made").mkdir()
    export_encoder(NETWORK, tmp_path / "made" / "encoder.onnx")
    moved = shutil.move(tmp_path / "made", tmp_path / "moved")
    assert {path.name for path in Path(moved).iterdir()} == {"encoder.onnx", "items.bin"}
    compare(NETWORK, Path(moved) / "encoder.onnx")


@pytest.mark.usefixtures("traced")
def test_a_bundles_graphs_share_one_item_table(tmp_path: Path) -> None:
    export_both(NETWORK, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "encoder.onnx", "recommender.onnx", "items.bin"
    }  # fmt: skip
    table = np.fromfile(tmp_path / "items.bin", dtype=np.float32).reshape(V, 16)
    np.testing.assert_array_equal(table, NETWORK.item_embedding.weight.detach().numpy())
    for name in ("encoder.onnx", "recommender.onnx"):
        graph = onnx.load(str(tmp_path / name), load_external_data=False).graph
        external = [tensor for tensor in graph.initializer if tensor.external_data]
        assert [tensor.name for tensor in external] == ["item_embedding.weight"]
        entries = {entry.key: entry.value for entry in external[0].external_data}
        assert entries["location"] == "items.bin"
        assert (tmp_path / name).stat().st_size > 0
    compare(NETWORK, tmp_path / "encoder.onnx")
    check_recommender(tmp_path / "recommender.onnx", k=5)


def test_exporting_changes_nothing(tmp_path: Path) -> None:
    """And the bytes are the same from another folder."""
    given = network()
    given.train()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    export_encoder(given, tmp_path / "first.onnx")
    (tmp_path / "elsewhere").mkdir()
    with contextlib.chdir(tmp_path / "elsewhere"):
        export_encoder(given, "second.onnx")
    second = (tmp_path / "elsewhere" / "second.onnx").read_bytes()
    assert (tmp_path / "first.onnx").read_bytes() == second
    assert given.training
    for name, value in given.state_dict().items():
        assert value.equal(before[name])
        assert value.requires_grad == before[name].requires_grad
    assert all(parameter.requires_grad for parameter in given.parameters())


@pytest.mark.slow
def test_the_same_weights_give_the_same_bytes_anywhere(tmp_path: Path) -> None:
    """Another process, another folder, another place of the sources."""
    sources = Path(model.export.graphs.__file__).parents[1]
    code = """
import sys, torch
from model.config import FEARecConfig
from model.export.graphs import export_both
from model.network.fearec import FEARec
from pathlib import Path
torch.manual_seed(0)
export_both(FEARec(FEARecConfig.from_preset("paper", n_items=30)), Path(sys.argv[1]))
"""
    contents = []
    for name in ("a", "somewhere/else"):
        place = tmp_path / name
        place.mkdir(parents=True)
        shutil.copytree(sources, place / "model", ignore=shutil.ignore_patterns("__pycache__"))
        (place / "out").mkdir()
        command = [sys.executable, "-c", code, str(place / "out")]
        environment = {**os.environ, "PYTHONPATH": str(place)}
        subprocess.run(command, cwd=place, env=environment, check=True)
        files = sorted((place / "out").iterdir())
        contents.append({path.name: path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 3


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("fft", BY_DEFAULT)
@pytest.mark.parametrize("export", [export_encoder, export_recommender])
def test_no_trace_of_the_machine_is_left(tmp_path: Path, fft: Form, export: Any) -> None:
    export(NETWORK, tmp_path / "graph.onnx", fft=fft)
    content = (tmp_path / "graph.onnx").read_bytes()
    here = [str(Path(__file__).parents[3]), str(tmp_path), sys.prefix, str(Path.home()), "torch/"]
    assert [place for place in here if place.encode() in content] == []
    assert re.findall(rb"[\w/.-]+\.py\b", content) == []
    graph = onnx.load(str(tmp_path / "graph.onnx"))
    assert not any(node.metadata_props or node.doc_string for node in graph.graph.node)
    assert not graph.graph.metadata_props


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("fft", BY_DEFAULT)
def test_the_metadata_follow_from_weights_and_settings_alone(tmp_path: Path, fft: Form) -> None:
    export_encoder(NETWORK, tmp_path / "encoder.onnx", fft=fft)
    graph = onnx.load(str(tmp_path / "encoder.onnx"))
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    assert FEARecConfig(**json.loads(metadata.pop("hyper_parameters"))) == NETWORK.config
    assert metadata == {
        "fearec_format_version": "1", "fft": fft, "L": "11", "D": "16", "V": "37", "opset": "20"
    }  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["item_embedding.weight", "LayerNorm.bias"])
def test_diverged_weights_are_refused(tmp_path: Path, name: str, value: float) -> None:
    diverged = network()
    with torch.no_grad():
        diverged.get_parameter(name).flatten()[-1] = value
    with pytest.raises(ConfigError, match=f"{name}.*NaN or infinite"):
        export_recommender(diverged, tmp_path / "recommender.onnx")
    assert list(tmp_path.iterdir()) == []


MATRIX: list[dict[str, Any]] = [
    {"preset": "recbole"},
    {"n_layers": 1},
    {"n_layers": 3, "n_heads": 4, "global_ratio": 0.2},
    {"MAX_ITEM_LIST_LENGTH": 1},
    {"MAX_ITEM_LIST_LENGTH": 2, "n_layers": 4, "global_ratio": 0.2},  # empty bands
    {"MAX_ITEM_LIST_LENGTH": 50, "hidden_size": 64, "inner_size": 256, "initializer_range": 0.1},
    {"std": False, "hidden_act": "swish", "topk_factor": 2},
    {"hidden_act": "sigmoid", "spatial_ratio": 1.0},
    {"padding": "cyclic", "hidden_act": "relu"},
    {"padding": "reflect", "hidden_act": "tanh", "dual_domain": False},
    {"position_origin": "end", "padding": "cyclic", "MAX_ITEM_LIST_LENGTH": 50},
]


@pytest.mark.slow
@pytest.mark.parametrize("fft", FORMS)
@pytest.mark.parametrize("changes", MATRIX, ids=str)
def test_other_architectures_export_too(tmp_path: Path, changes: dict[str, Any], fft: Form) -> None:
    built = network(**changes)
    export_encoder(built, tmp_path / "encoder.onnx", fft=fft)
    compare(built, tmp_path / "encoder.onnx")


# The recommender


def check_recommender(
    path: Path,
    *,
    k: int,
    exclude: Array | None = None,
    item_bias: Array | None = None,
    built: FEARec = NETWORK,
) -> None:
    """Against sorting every score, computed in float64."""
    item_seq, item_seq_len = sequences(each=2)
    item_seq = item_seq[~near_ties(built, item_seq, item_seq_len)]
    item_seq_len = (item_seq > 0).sum(1)
    users = len(item_seq)
    exclude = np.zeros((users, 0), dtype=np.int64) if exclude is None else exclude[:users]
    item_bias = np.zeros(V, dtype=np.float32) if item_bias is None else item_bias
    index, score = session(path).run(
        ["item_index", "score"],
        {
            "item_seq": item_seq.numpy(),
            "item_seq_len": item_seq_len.numpy(),
            "exclude": exclude,
            "item_bias": item_bias,
            "k": np.array([k]),
        },
    )
    with torch.no_grad():
        embedding = built(item_seq, item_seq_len).double()
        # Equal rows are scored once: some processors' products differ in their last bits.
        table, row_of = built.item_embedding.weight.double().unique(dim=0, return_inverse=True)
        scores = (embedding @ table.T)[:, row_of].numpy() + item_bias
    np.put_along_axis(scores, np.pad(exclude, [(0, 0), (0, 1)]), -np.inf, axis=1)  # PAD too

    assert index.shape == score.shape == (users, k)
    assert (index.dtype, score.dtype) == (np.int64, np.float32)
    for row in range(users):
        eligible = [item for item in range(V) if scores[row, item] > -np.inf]
        gaps = np.diff(np.unique(scores[row, eligible]))
        assert gaps.size == 0 or gaps.min() > 1e-6  # so the order is no matter of rounding
        best = sorted(eligible, key=lambda item: (-scores[row, item], item))[:k]
        rest = k - len(best)
        assert index[row].tolist() == best + [0] * rest
        np.testing.assert_allclose(
            score[row], [*scores[row, best], *[-np.inf] * rest], rtol=1e-5, atol=2e-5
        )


@pytest.fixture(scope="session")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recommender") / "recommender.onnx"
    with pytest.MonkeyPatch.context() as patch:
        copy = onnx.ModelProto()
        copy.CopyFrom(traced_once("matmul"))
        patch.setattr(model.export.graphs, "trace_encoder", lambda given, fft: copy)
        export_recommender(NETWORK, path)
    return path


def test_the_recommenders_interface_is_the_designs(recommender: Path) -> None:
    graph = session(recommender)
    inputs = {given.name: (given.type, given.shape) for given in graph.get_inputs()}
    assert inputs == {
        "item_seq": ("tensor(int64)", ["B", L]),
        "item_seq_len": ("tensor(int64)", ["B"]),
        "exclude": ("tensor(int64)", ["B", "E"]),
        "item_bias": ("tensor(float)", [V]),
        "k": ("tensor(int64)", [1]),
    }
    assert {given.name: given.type for given in graph.get_outputs()} == {
        "item_index": "tensor(int64)",
        "score": "tensor(float)",
        "user_embedding": "tensor(float)",
    }


def test_no_score_matrix_is_copied_for_its_exclusions(recommender: Path) -> None:
    # ONNX Runtime writes over a value of known shape, (B, V), and copies one of an unknown shape.
    graph = onnx.shape_inference.infer_shapes(onnx.load(recommender)).graph
    (excluding,) = [
        node
        for node in graph.node
        if node.op_type == "ScatterElements" and node.output[0].startswith("retrieval")
    ]
    shapes = {
        value.name: [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]
        for value in graph.value_info
    }
    assert shapes[excluding.input[0]] == shapes[excluding.output[0]] == ["B", V]


@pytest.mark.parametrize("k", [1, 2, 10, V - 1, V])
def test_the_best_items_come_first(recommender: Path, k: int) -> None:
    check_recommender(recommender, k=k)


@pytest.mark.parametrize("k", [1, 10, V])
@pytest.mark.parametrize("width", [1, 3, 30])
def test_excluded_items_never_come(recommender: Path, k: int, width: int) -> None:
    generator = np.random.default_rng(width)
    exclude = generator.integers(0, V, size=(2 * L, width))  # 0 pads, and items may repeat
    check_recommender(recommender, k=k, exclude=exclude)


def test_a_bias_shifts_scores_and_minus_infinity_forbids(recommender: Path) -> None:
    generator = np.random.default_rng(0)
    bias = generator.normal(size=V).astype(np.float32)
    bias[0] = 1000  # PAD never comes all the same
    bias[list(TWINS[0] + TWINS[1])] = 0.25
    bias[generator.choice(V, size=12, replace=False)] = -np.inf
    check_recommender(recommender, k=V, item_bias=bias)
    check_recommender(recommender, k=5, item_bias=bias, exclude=np.full((2 * L, 2), 4))


@pytest.mark.parametrize("eligible", [0, 1, 3])
def test_fewer_eligible_items_leave_the_rest_empty(recommender: Path, eligible: int) -> None:
    bias = np.full(V, -np.inf, dtype=np.float32)
    bias[[9, 20, 31][:eligible]] = 0
    check_recommender(recommender, k=5, item_bias=bias)


def test_ties_go_to_the_smaller_index(recommender: Path) -> None:
    # Only the twins are eligible.
    bias = np.full(V, -np.inf, dtype=np.float32)
    bias[list(TWINS[0])] = 0
    check_recommender(recommender, k=3, item_bias=bias)
    check_recommender(recommender, k=2, item_bias=bias)


def test_a_large_catalogue_has_a_second_recommender_of_the_same_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.export.graphs, "TWO_PASS_FROM", NETWORK.config.n_items)
    model.export.graphs.export_both(NETWORK, tmp_path)
    assert (tmp_path / INT8_TABLE).stat().st_size % NETWORK.config.hidden_size == 0
    item_seq, item_seq_len = sequences(each=2)
    feeds = {
        "item_seq": item_seq.numpy(),
        "item_seq_len": item_seq_len.numpy(),
        "exclude": item_seq.numpy(),
        "item_bias": np.zeros(NETWORK.config.n_items, np.float32),
        "k": np.array([5]),
    }
    plain, fast = (
        session(tmp_path / name).run(["item_index", "score"], feeds)
        for name in (RECOMMENDER, CPU_RECOMMENDER)
    )
    np.testing.assert_allclose(fast[1], plain[1], rtol=1e-5, atol=1e-5)
    assert (fast[0] == plain[0]).mean() > 0.99  # rounding may swap what is tied to it


def test_positions_from_the_end_are_those_of_pytorch_in_a_bundles_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = network(position_origin="end", n_layers=1)
    monkeypatch.setattr(model.export.graphs, "TWO_PASS_FROM", V)
    export_both(built, tmp_path, fp16=True)
    compare(built, tmp_path / "encoder.onnx")
    check_recommender(tmp_path / RECOMMENDER, k=5, built=built)
    item_seq, item_seq_len = sequences(each=2)
    feeds = {
        "item_seq": item_seq.numpy(),
        "item_seq_len": item_seq_len.numpy(),
        "exclude": item_seq.numpy(),
        "item_bias": np.zeros(V, np.float32),
        "k": np.array([5]),
    }
    plain, fast, half = (
        session(tmp_path / name).run(["score"], feeds)[0]
        for name in (RECOMMENDER, CPU_RECOMMENDER, FLOAT16_RECOMMENDER)
    )
    np.testing.assert_allclose(fast, plain, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(half, plain, rtol=2e-2, atol=2e-2)
