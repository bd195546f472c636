"""The precision of a training on processors of several kinds, and on a GPU."""

import logging

import pytest
import torch

from model.config import TrainingConfig
from model.training.precision import choose_accelerator, choose_precision

OLD = {"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}
AMD, INTEL, ARM = {"avx512_bf16": True}, {"amx_bf16": True}, {"neon": True, "bf16": True}


def chosen(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], has_gpu: bool, **settings: str
) -> str:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: has_gpu)
    return choose_precision(TrainingConfig.model_validate(settings))


@pytest.mark.parametrize(
    ("capabilities", "has_gpu", "accelerator", "expected"),
    [
        (OLD, False, "auto", "32-true"),
        ({}, False, "cpu", "32-true"),
        (AMD, False, "auto", "bf16-mixed"),
        (INTEL, False, "cpu", "bf16-mixed"),
        (ARM, False, "auto", "bf16-mixed"),
        (AMD, True, "auto", "32-true"),
        (AMD, True, "gpu", "32-true"),
        (AMD, True, "cpu", "bf16-mixed"),
        (OLD, True, "cpu", "32-true"),
    ],
)
def test_auto_takes_bfloat16_where_a_processor_has_it(
    capabilities: dict[str, bool],
    has_gpu: bool,
    accelerator: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = chosen(monkeypatch, capabilities, has_gpu, accelerator=accelerator, precision="auto")
    assert found == expected


@pytest.mark.parametrize(
    ("accelerator", "expected", "on_apple"),
    [("auto", "auto", "cpu"), ("cpu", "cpu", "cpu"), ("gpu", "cuda", "cuda")],
)
def test_apples_gpu_is_none(
    accelerator: str, expected: str, on_apple: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = TrainingConfig.model_validate({"accelerator": accelerator})
    assert choose_accelerator(training) == expected
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_accelerator(training) == on_apple


@pytest.mark.parametrize(
    ("capabilities", "has_gpu", "precision", "warns"),
    [
        (OLD, False, "bf16-mixed", True),
        (OLD, False, "16-mixed", True),  # for which Lightning takes bfloat16 there
        (OLD, False, "32-true", False),
        (OLD, True, "bf16-mixed", False),
        (INTEL, False, "bf16-mixed", False),
    ],
)
def test_what_is_slow_here_is_taken_and_warned_of(
    capabilities: dict[str, bool],
    has_gpu: bool,
    precision: str,
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    assert chosen(monkeypatch, capabilities, has_gpu, precision=precision) == precision
    assert (f"train.precision = {precision} is several times slower" in caplog.text) == warns
