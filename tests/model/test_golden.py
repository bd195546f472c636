"""Parity with RecBole's FEARec: embeddings, losses and gradients of 21 configurations."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from model.export.graphs import Form
from model.recbole import from_recbole
from model.reference import ReferenceFEARec
from model.training.losses import training_loss

COMMITTED = Path(__file__).parents[1] / "golden"
REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "golden"


class Case(NamedTuple):
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]
    answers: Mapping[str, Tensor]


def committed_cases() -> Iterator[str]:
    for path in sorted(COMMITTED.glob("*.npz")):
        for name in np.load(path).files:
            if name.endswith("/config"):
                yield f"{path.stem}/{name.removesuffix('/config')}"


def below(arrays: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): torch.from_numpy(np.asarray(arrays[name]))
        for name in arrays
        if name.startswith(prefix) and not name.endswith("config")
    }


def load_committed(name: str) -> Case:
    stem, case = name.split("/")
    with np.load(COMMITTED / f"{stem}.npz") as arrays:
        inputs = {key: value.long() for key, value in below(arrays, "in/").items()}
        config = json.loads(str(arrays[f"{case}/config"]))
        return Case(config, below(arrays, "w/"), inputs, below(arrays, f"{case}/"))


def load_reference(path: Path) -> Case:
    with np.load(path) as arrays:
        inputs = {**below(arrays, "in/"), **below(arrays, "same_target_")}
        inputs["same_target_seq"] = inputs.pop("seq")
        inputs["same_target_length"] = inputs.pop("length")
        config = json.loads(str(arrays["config"]))
        answers = {
            name: torch.from_numpy(np.asarray(arrays[name]))
            for name in ("user_embedding", "train_loss", "train_grad_item_embedding")
        }
        return Case(config, below(arrays, "w/"), inputs, answers)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def check(case: Case, form: Form) -> None:
    n_items = len(case.weights["item_embedding.weight"])
    model = from_recbole(case.config, case.weights, n_items=n_items)
    assert not model.training
    if form == "dft":
        weights = model.state_dict()
        model = ReferenceFEARec(model.config).eval()
        model.load_state_dict(weights)
    inputs, answers = case.inputs, case.answers
    with torch.no_grad():
        embedding = model(inputs["item_id_list"], inputs["item_length"])
    assert relative(embedding, answers["user_embedding"]) <= 1e-5

    loss = training_loss(
        model.train(),
        inputs["item_id_list"],
        inputs["item_length"],
        inputs["item_id"],
        neg_item_id=inputs["neg_item_id"],
        same_target_seq=inputs["same_target_seq"],
        same_target_len=inputs["same_target_length"],
    )
    assert abs(loss.item() - answers["train_loss"].item()) <= 1e-5
    loss.backward()
    gradient = model.item_embedding.weight.grad
    assert gradient is not None
    assert relative(gradient, answers["train_grad_item_embedding"]) <= 1e-4


FORMS: tuple[Form, ...] = ("matmul", "dft")


def test_every_option_of_the_reference_is_committed() -> None:
    names = [name.split("/")[1] for name in committed_cases()]
    assert len(names) == len(set(names)) == 21
    if REFERENCE.exists():
        assert sorted(names) == sorted(path.stem for path in REFERENCE.glob("*.npz"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", list(committed_cases()))
def test_committed_case(name: str, form: Form) -> None:
    check(load_committed(name), form)


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"needs {REFERENCE.name} beside the repository")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", sorted(REFERENCE.glob("*.npz")), ids=lambda path: path.stem)
def test_reference_case(path: Path, form: Form) -> None:
    check(load_reference(path), form)
