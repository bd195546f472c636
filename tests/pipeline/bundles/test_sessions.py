"""Sessions on execution providers, buffers on devices, and a process a device."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from model.errors import ConfigError
from model.export.files import FLOAT16_RECOMMENDER, RECOMMENDER
from pipeline.bundles import sessions as providers
from pipeline.bundles.bundle import DESCRIPTION, Bundle, publish_bundle
from pipeline.bundles.sessions import CPU, CUDA, TENSORRT, auto_batch_size, n_devices, open_session
from pipeline.config.sections import LogSettings, ScoreSettings
from pipeline.engines.process_pool import Devices, MakeScorer
from pipeline.errors import BundleError, PublishError, ResumeError
from pipeline.schema import PAD
from pipeline.scoring import recommender
from pipeline.scoring.cli import app
from pipeline.scoring.eligibility import eligible_items
from pipeline.scoring.output_rows import Ranked
from pipeline.scoring.recommender import Buffers, Recommender, load_recommender
from pipeline.scoring.run import score
from pipeline.scoring.scorer import open_scorer
from pipeline.scoring.user_histories import ScoringBatch, UserHistories

TOP_K = 5


@pytest.fixture
def on_cpu(tiny_bundle: Bundle) -> Recommender:
    bias = np.zeros(tiny_bundle.n_items, np.float32)
    bias[PAD] = -np.inf
    return load_recommender(tiny_bundle.recommender, "cpu", item_bias=bias, top_k=TOP_K)


def batch_of(users: int, excluded: int, seed: int = 0) -> ScoringBatch:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 6, users)
    item_seq = random.integers(1, 39, (users, 5)) * (np.arange(5) < lengths[:, None])
    return ScoringBatch(
        np.arange(users), item_seq, lengths, random.integers(0, 39, (users, excluded))
    )


# Buffers: the same code as on a device, their memory here


def test_a_batch_in_buffers_that_are_too_large_gets_the_same(on_cpu: Recommender) -> None:
    buffers = Buffers(on_cpu, users=40, excluded=16)
    for seed, (users, excluded) in enumerate([(40, 16), (3, 0), (17, 9), (1, 16), (40, 1)]):
        batch = batch_of(users, excluded, seed)
        for found, expected in zip(buffers.run(batch), on_cpu(batch), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_what_was_found_stays_when_the_buffers_are_used_again(on_cpu: Recommender) -> None:
    buffers = Buffers(on_cpu, users=8, excluded=16)
    first = buffers.run(batch_of(8, 3, seed=1))
    kept = [values.copy() for values in first]
    buffers.run(batch_of(8, 3, seed=2))
    for found, expected in zip(first, kept, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_buffers_are_made_once_a_shape(
    on_cpu: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int]] = []

    class Counted(Buffers):
        def __init__(self, whose: Recommender, users: int, excluded: int) -> None:
            made.append((users, excluded))
            super().__init__(whose, users, excluded)

    monkeypatch.setattr(recommender, "Buffers", Counted)
    monkeypatch.setattr(Recommender, "provider", CUDA)
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", _to_cpu)
    device = Recommender(on_cpu.session, np.zeros(41, np.float32), TOP_K, 64)
    assert device.where == ("cuda", 0)
    device.where = ("cpu", 0)
    assert device.at_once == 1
    for users, excluded in [(64, 3), (64, 9), (61, 16), (64, 17), (64, 30), (64, 5)]:
        device(batch_of(users, excluded))
    assert made == [(64, 16), (64, 32)]


_ortvalue_from_numpy = onnxruntime.OrtValue.ortvalue_from_numpy


def _to_cpu(values: np.ndarray[Any, Any], *_: Any) -> onnxruntime.OrtValue:
    return _ortvalue_from_numpy(values)


def test_a_device_that_gives_up_is_told_in_one_line(
    on_cpu: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(self: Buffers, batch: ScoringBatch) -> None:
        raise RuntimeError("Available memory of 0 is smaller than requested\nstack trace")

    monkeypatch.setattr(Recommender, "provider", CUDA)
    monkeypatch.setattr(Buffers, "run", out_of_memory)
    with pytest.raises(ConfigError, match=r"^a batch of 7 users: CUDA.*smaller than") as raised:
        on_cpu(batch_of(7, 2))
    assert "\n" not in str(raised.value)
    assert "--batch-size" in str(raised.value)


@given(users=st.integers(1, 10**6), excluded=st.integers(0, 10**6))
def test_shapes_are_little_larger_than_the_batch(users: int, excluded: int) -> None:
    rows, columns = recommender._rows(users), recommender._columns(excluded)
    assert users <= rows <= users * 1.125
    assert max(excluded, 16) <= columns <= max(16, 2 * excluded)


def test_shapes_are_few() -> None:
    assert len({recommender._rows(users) for users in range(2048, 4097)}) == 9


@pytest.mark.parametrize("users", [1, 64, 256, 1024, 4096])
def test_a_full_batch_is_not_padded(users: int) -> None:
    assert recommender._rows(users) == users


# Sessions


class Session:
    """As much of an InferenceSession as opening one looks at."""

    opened: list["Session"]
    runs_fail = ""

    def __init__(
        self, path: str, options: onnxruntime.SessionOptions, *, providers: list[Any],
        enable_fallback: bool,
    ) -> None:  # fmt: skip
        assert not enable_fallback
        self.path, self.options, self.wanted = path, options, providers
        self.fed: list[dict[str, Any]] = []
        Session.opened.append(self)

    def get_providers(self) -> list[str]:
        return [name for name, _ in self.wanted]

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
    assert opened[0].wanted == [(CUDA, {"device_id": 3, "use_tf32": 0}), (CPU, {})]


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
    assert opened[0].wanted == [(CPU, {})]
    assert not opened[0].fed


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_builds_engines_for_every_shape_to_come(
    opened: list[Session], tmp_path: Path, precision: providers.Precision
) -> None:
    cache = tmp_path / "tensorrt" / "model-1"
    graph = Path("recommender.onnx")
    open_session(graph, "tensorrt", precision=precision, device_id=1, users=64, cache=cache)
    (name, options), cuda, cpu = opened[0].wanted
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
    assert not any("cache" in option for option in opened[0].wanted[0][1])


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


# Several devices


def test_as_many_processes_as_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_n_cuda_devices", lambda: 4)
    assert [n_devices(wanted, CUDA) for wanted in (1, 3, "auto")] == [1, 3, 4]
    assert [n_devices(wanted, CPU) for wanted in (1, 3, "auto")] == [1, 3, 1]
    with pytest.raises(ConfigError, match="expected at most 4; found 5"):
        n_devices(5, CUDA)


def test_devices_are_counted_without_a_driver() -> None:
    assert providers._n_cuda_devices() >= 0


def write_sequences(path: Path, users: int) -> Path:
    random = np.random.default_rng(5)
    histories = [
        [f"item{item}" for item in random.integers(1, 46, random.integers(0, 12))]
        for _ in range(users)
    ]
    pq.write_table(pa.table({"user_id": [f"u{i:04}" for i in range(users)], "item_ids": histories}),
                   path)  # fmt: skip
    return path


def run(inputs: Path, bundle: Bundle, out: Path, resume: bool = False, **options: Any) -> Any:
    settings = ScoreSettings(provider="cpu", top_k=TOP_K, batch_size=8, **options)
    return score(
        [str(inputs)], bundle, out, settings,
        logs=LogSettings(), run_date=date(2026, 11, 20), time_zone="UTC", resume=resume,
    )  # fmt: skip


def test_two_processes_write_what_one_writes(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.scoring.scorer.PART_USERS", 10)
    inputs = write_sequences(tmp_path / "s.parquet", 75)
    one, two = (run(inputs, tiny_bundle, tmp_path / str(count), devices=count) for count in (1, 2))
    assert (one.devices, two.devices) == (1, 2)
    assert (one.n_rows, one.n_fallback) == (two.n_rows, two.n_fallback)
    parts = sorted(path.name for path in (tmp_path / "1").glob("*.parquet"))
    assert parts == sorted(path.name for path in (tmp_path / "2").glob("*.parquet"))
    assert len(parts) == 8
    for name in parts:
        expected, found = (
            pq.read_table(tmp_path / count / name).drop(["generated_at"]) for count in "12"
        )
        assert found.equals(expected)


@pytest.fixture
def both(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle with a float16 recommender, which is the float32 one under its name."""
    staging = tmp_path / "staging"
    shutil.copytree(tiny_bundle.path, staging)
    shutil.copyfile(staging / RECOMMENDER, staging / FLOAT16_RECOMMENDER)
    (staging / DESCRIPTION).unlink()
    return publish_bundle(staging, tmp_path / "both", tiny_bundle.description)


def test_a_run_may_be_resumed_on_other_devices_but_not_in_another_precision(
    both: Bundle, tmp_path: Path
) -> None:
    inputs = write_sequences(tmp_path / "s.parquet", 20)
    run(inputs, both, tmp_path / "out", devices=1)
    assert run(inputs, both, tmp_path / "out", devices=2, resume=True).devices == 2
    with pytest.raises(ResumeError, match="precision"):
        run(inputs, both, tmp_path / "out", precision="fp16", resume=True)


def test_the_command_says_that_float16_is_not_for_cpus(both: Bundle, tmp_path: Path) -> None:
    inputs = write_sequences(tmp_path / "s.parquet", 20)
    command = [str(inputs), "--model", str(both.path), "--output", str(tmp_path / "out")]
    command += ["--provider", "cpu", "--run-date", "2026-11-20"]
    done = CliRunner().invoke(app, [*command, "--precision", "fp16"])
    assert done.exit_code == 0, done.output
    assert "model tiny-1 on CPUExecutionProvider in fp16" in done.stdout
    assert "fp16 brings nothing on a CPU" in done.stdout
    done = CliRunner().invoke(app, [*command, "--overwrite", "--devices", "2"])
    assert done.exit_code == 0, done.output
    assert "model tiny-1 on 2 x CPUExecutionProvider" in done.stdout
    assert "fp16" not in done.stdout


@pytest.mark.parametrize(("flag", "value"), [("--precision", "fp8"), ("--devices", "0")])
def test_an_impossible_flag_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, flag: str, value: str
) -> None:
    command = ["s.parquet", "--model", str(tiny_bundle.path), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*command, flag, value])
    assert done.exit_code == 2
    assert flag.strip("-") in done.stderr


def ranked(make: MakeScorer) -> list[Ranked]:
    part = UserHistories(pa.array(["u"]), np.array([1, 2, 3]), np.array([0, 3]))
    return list(Devices(make, 1, TOP_K).ranked([part], lambda users: None))


def test_an_error_in_a_process_is_told_as_itself(
    tiny_bundle: Bundle, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    embedding = np.ones((41, 16), np.float32)
    embedding[:, 1::2] = -1
    embedding[1:4] = 3e38  # finite, but their sum is not
    huge = make_bundle(tmp_path / "huge", embedding=embedding)
    for bundle, precision, error, told in (
        (tiny_bundle, "fp16", ConfigError, "no recommender in float16"),  # opening it
        (huge, "fp32", BundleError, "no numbers"),  # running it
    ):
        settings = ScoreSettings(provider="cpu", top_k=TOP_K, precision=precision)
        eligibility = eligible_items(bundle.items(), settings)
        make = partial(open_scorer, bundle, settings, eligibility, None)
        with pytest.raises(error, match=told):
            ranked(make)


WAITING = """
import time
import numpy as np
import pyarrow as pa
from pipeline.engines.process_pool import Devices
from pipeline.scoring.user_histories import UserHistories

def make(device):
    print("begun", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    part = UserHistories(pa.array(["u"]), np.array([1]), np.array([0, 1]))
    list(Devices(make, 1, 1).ranked([part], print))
"""


def test_a_killed_run_leaves_no_process_on_a_device(tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text(WAITING)
    command = [sys.executable, str(tmp_path / "waiting.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "begun\n"
        parent.kill()
        parent.communicate(timeout=30)  # ends when nobody holds the other end of the pipe


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(PublishError, match=r"a scoring process died.*--resume"):
        ranked(os._exit)  # with the number of its device
