"""Sessions on execution providers, batch sizes, and the number of devices."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import model.export.graphs
from model.config import FEARecConfig
from model.errors import ConfigError
from model.export.files import INT8_TABLE, RECOMMENDER
from model.export.graphs import export_both
from model.export.quantize import CODES, TILE_ITEMS
from model.network.fearec import FEARec
from pipeline.bundles import sessions
from pipeline.bundles.sessions import (
    CPU,
    CUDA,
    TENSORRT,
    Precision,
    auto_batch_size,
    codes_without,
    count_devices,
    open_session,
    takes_codes,
)
from pipeline.errors import BundleError, MemoryShortError

pytestmark = pytest.mark.usefixtures("shared_traces")


class Session:
    """As much of an InferenceSession as opening one looks at."""

    opened: list["Session"]
    runs_fail = ""

    def __init__(
        self, path: str, options: onnxruntime.SessionOptions, *, providers: list[Any],
        enable_fallback: bool,
    ) -> None:  # fmt: skip
        assert not enable_fallback
        self.path, self.options, self.providers = path, options, providers
        self.fed: list[dict[str, Any]] = []
        Session.opened.append(self)

    def get_providers(self) -> list[str]:
        return [name for name, _ in self.providers]

    def get_inputs(self) -> list[Any]:
        shapes = {
            "item_seq": ["B", 50], "item_seq_len": ["B"], "exclude": ["B", "E"],
            "item_bias": [1000], "k": [1],
        }  # fmt: skip

        def given(name: str, shape: list[Any]) -> Any:
            kind = "tensor(float)" if name == "item_bias" else "tensor(int64)"
            return type("NodeArg", (), {"name": name, "shape": shape, "type": kind})

        return [given(name, shape) for name, shape in shapes.items()]

    def run(self, outputs: None, feed: dict[str, Any]) -> None:
        if self.runs_fail and self.get_providers()[0] != CPU:
            raise RuntimeError(self.runs_fail)
        self.fed.append(feed)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Session]]:
    """Sessions on whatever provider is asked for; all are part of this onnxruntime."""
    Session.opened, Session.runs_fail = [], ""
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    yield Session.opened
    Session.runs_fail = ""


def test_float32_on_cuda_is_no_tf32(opened: list[Session]) -> None:
    open_session(Path("recommender.onnx"), "cuda", device_id=3)
    assert opened[0].providers == [(CUDA, {"device_id": 3, "use_tf32": 0}), (CPU, {})]


def test_a_session_on_cuda_has_run(opened: list[Session]) -> None:
    open_session(Path("recommender.onnx"), "cuda", users=64)
    (feed,) = opened[0].fed
    shapes = {name: values.shape for name, values in feed.items()}
    assert shapes == {
        "item_seq": (1, 50), "item_seq_len": (1,), "exclude": (1, 1), "item_bias": (1000,),
        "k": (1,),
    }  # fmt: skip
    assert feed["item_seq_len"] == feed["k"] == 1
    assert not feed["item_bias"].any()


def test_a_session_on_a_cpu_need_not_run(opened: list[Session]) -> None:
    open_session(Path("recommender.onnx"), "cpu")
    assert opened[0].providers == [(CPU, {})]
    assert not opened[0].fed


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_builds_engines_for_every_shape_to_come(
    opened: list[Session], tmp_path: Path, precision: Precision
) -> None:
    cache = tmp_path / "tensorrt" / "model-1"
    graph = Path("recommender.onnx")
    open_session(graph, "tensorrt", precision=precision, device_id=1, users=64, cache=cache)
    (name, options), cuda, cpu = opened[0].providers
    assert (name, cuda, cpu) == (TENSORRT, (CUDA, {"device_id": 1, "use_tf32": 0}), (CPU, {}))
    assert options["trt_fp16_enable"] == (precision == "fp16")
    assert options["trt_engine_cache_path"] == str(cache)
    assert cache.is_dir()
    assert options["device_id"] == 1
    assert "TopK" in options["trt_op_types_to_exclude"].split(",")
    least, most = opened[0].fed
    assert (least["item_seq"].shape, least["item_seq_len"].tolist()) == ((1, 50), [1])
    assert (most["item_seq"].shape, set(most["item_seq_len"])) == ((64, 50), {50})


def test_tensorrt_without_a_cache_keeps_no_engine(opened: list[Session]) -> None:
    open_session(Path("recommender.onnx"), "tensorrt")
    assert not any("cache" in option for option in opened[0].providers[0][1])


def test_a_provider_that_loads_but_cannot_run_is_refused(opened: list[Session]) -> None:
    Session.runs_fail = "dlopen failed for libcudnn.so\nmore"
    with pytest.raises(ConfigError, match=r"libcudnn\.so\); expected cuda.*--provider cpu"):
        open_session(Path("recommender.onnx"), "cuda")


def test_auto_takes_cuda_where_it_runs_and_the_cpu_elsewhere(opened: list[Session]) -> None:
    assert open_session(Path("recommender.onnx"), "auto").get_providers()[0] == CUDA
    Session.runs_fail = "no kernel image is available for execution on the device"
    assert open_session(Path("recommender.onnx"), "auto").get_providers()[0] == CPU


def test_a_graph_that_cannot_be_loaded_is_the_bundles_fault(tmp_path: Path) -> None:
    path = tmp_path / "recommender.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(BundleError, match="cannot load the graph"):
        open_session(path, "cpu")


def test_a_graph_that_finds_no_memory_is_not_the_bundles_fault(
    opened: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **options: Any) -> None:
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(MemoryShortError):
        open_session(Path("recommender.onnx"), "cpu")


def test_float16_of_a_large_catalogue_is_no_matter_of_8_bits(
    opened: list[Session], tmp_path: Path
) -> None:
    (tmp_path / "recommender_cpu.onnx").touch()
    for name, expected in (
        ("recommender.onnx", "recommender_cpu.onnx"),
        ("recommender_fp16.onnx", "recommender_fp16.onnx"),
    ):
        open_session(tmp_path / name, "cpu")
        assert Path(opened[-1].path).name == expected


@given(n_items=st.integers(2, 10**8), provider=st.sampled_from([CPU, CUDA, TENSORRT]))
def test_an_automatic_batch_keeps_its_scores_in_memory(n_items: int, provider: str) -> None:
    batch = auto_batch_size(provider, n_items)
    assert batch == 1 or batch * n_items * 4 <= 4 * 2**30
    most = {sessions._CPU_BATCH, sessions._CPU_BATCH_LARGE, sessions._GPU_BATCH}
    assert batch in most or (batch + 1) * n_items > sessions._SCORES[provider]


def test_as_many_processes_as_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_count_cuda_devices", lambda: 4)
    assert [count_devices(requested, CUDA) for requested in (1, 3, "auto")] == [1, 3, 4]
    assert [count_devices(requested, CPU) for requested in (1, 3, "auto")] == [1, 3, 1]
    with pytest.raises(ConfigError, match="expected at most 4; found 5"):
        count_devices(5, CUDA)


def test_without_a_driver_there_are_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(library: str) -> None:
        raise OSError(f"{library}: cannot open shared object file")

    monkeypatch.setattr(sessions.ctypes, "CDLL", missing)
    assert sessions._count_cuda_devices() == 0


def test_a_first_pass_without_what_is_not_eligible_finds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_items = 2 * TILE_ITEMS + 77
    monkeypatch.setattr(model.export.graphs, "TWO_PASS_FROM", n_items)
    torch.manual_seed(1)
    sizes = {"MAX_ITEM_LIST_LENGTH": 6, "hidden_size": 8, "inner_size": 8, "n_layers": 1}
    config = FEARecConfig.from_preset("paper", n_items=n_items, contrast="none", **sizes)
    network = FEARec(config).eval()
    export_both(network, tmp_path)
    random = np.random.default_rng(2)
    item_bias = np.where(random.random(n_items) < 0.4, -np.inf, 0).astype(np.float32)
    item_bias[: TILE_ITEMS // 2] = -np.inf  # whole blocks
    lengths = random.integers(1, 7, 50)
    feeds = {
        "item_seq": random.integers(1, n_items, (50, 6)) * (np.arange(6) < lengths[:, None]),
        "item_seq_len": lengths,
        "exclude": random.integers(0, n_items, (50, 20)),
        "item_bias": item_bias,
        "k": np.array([30]),
    }
    graph = tmp_path / RECOMMENDER
    found = open_session(graph, "cpu", item_bias=item_bias).run(["item_index", "score"], feeds)
    expected = open_session(graph, "cpu").run(["item_index", "score"], feeds)
    for values, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(values, right)

    feeds["item_bias"] = np.where(random.random(n_items) < 0.9, -np.inf, item_bias)
    feeds["item_bias"] = feeds["item_bias"].astype(np.float32)
    session = open_session(graph, "cpu", item_bias=item_bias)
    assert takes_codes(session)
    codes = codes_without(graph, feeds["item_bias"] == -np.inf).numpy()
    narrowed = session.run(["item_index", "score"], {**feeds, CODES: codes})
    assert set(narrowed[0].ravel()) <= {0, *(feeds["item_bias"] == 0).nonzero()[0]}
    for values, right in zip(narrowed, session.run(["item_index", "score"], feeds), strict=True):
        np.testing.assert_array_equal(values, right)
    codes = np.fromfile(tmp_path / INT8_TABLE, np.uint8)
    without = codes_without(graph, item_bias == -np.inf).numpy()
    assert (without != codes.reshape(without.shape)).any()
