"""The Python code in the documents of scoring and of the model runs, and does what it says."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from pipeline.bundles.bundle import Bundle

ROOT = Path(__file__).parents[2]
VERSION = "20260701-aa"
WITHOUT_TORCH = """
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "lightning", "prefect", "model", "pipeline", "flows"):
            raise ImportError(f"{name} is forbidden")

sys.meta_path.insert(0, Forbidden())
"""


def python_in(document: str) -> list[str]:
    """The blocks of Python in a document, without their fences."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.S)


def run(code: str, **names: Any) -> dict[str, Any]:
    """The names that a block leaves, run with some others."""
    namespace: dict[str, Any] = dict(names)
    exec(compile(code, "README.md", "exec"), namespace)
    return namespace


def test_a_bundles_graphs_run_with_onnxruntime_alone(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    embedding = np.random.default_rng(1).normal(size=(301, 64)).astype(np.float32)
    embedding[0] = 0  # of no item
    make_bundle(
        tmp_path / "warehouse/models" / VERSION, item_ids=range(1, 301), embedding=embedding
    )
    (code,) = python_in("pipeline/scoring/README.md")
    *before, last = code.replace("<version>", VERSION).strip().splitlines()
    call, shape, dtype = re.fullmatch(r"(.*)  # (\(.*\)) (\w+)", last).groups()  # type: ignore[union-attr]
    shown = "import json\n(found,) = _\nprint(json.dumps([str(found.dtype), found.tolist()]))"
    whole = "\n".join([WITHOUT_TORCH, *before, f"_ = {call}", shown])
    done = subprocess.run(
        [sys.executable, "-c", whole], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found_dtype, found = json.loads(done.stdout)
    assert (str(np.shape(found)), found_dtype) == (shape, dtype)
    np.testing.assert_allclose(found[0], embedding[[17, 4, 231]].mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("shared_traces")
def test_a_network_is_used_and_exported_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, _ = python_in("model/README.md")
    left = run(first)
    assert left["user_embedding"].shape == (1, 64)
    assert left["scores"].shape == (1, 1000)
    graph = onnxruntime.InferenceSession("encoder.onnx", providers=["CPUExecutionProvider"])
    given = {"item_seq": left["item_seq"].numpy(), "item_seq_len": np.array([3])}
    (exported,) = graph.run(None, given)
    expected = left["user_embedding"].detach().numpy()
    np.testing.assert_allclose(exported, expected, atol=1e-5)


def test_weights_of_recbole_are_taken_as_shown() -> None:
    _, second = python_in("model/README.md")
    with np.load(ROOT / "tests/golden/four_layers.npz") as arrays:
        case = next(name for name in arrays.files if name.endswith("/config"))
        config = json.loads(str(arrays[case]))
        weights = {
            name.removeprefix("w/"): torch.from_numpy(arrays[name])
            for name in arrays.files
            if name.startswith("w/")
        }
    weights["item_encoder.layer_ramp.0"] = torch.zeros(1)  # of no use, as the document says
    items = weights["item_embedding.weight"]
    config |= {"contrast": config.get("contrast"), "learning_rate": 0.001, "fredom_type": None}
    network = run(
        second,
        config=config,
        state_dict=weights,
        dataset=SimpleNamespace(item_num=len(items)),
    )["network"]
    assert torch.equal(network.item_embedding.weight, items)
    assert not network.training
