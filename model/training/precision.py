"""The processor that a training runs on, and the precision that it computes in."""

import logging
from typing import Literal

import torch

from model.config import TrainingConfig

_log = logging.getLogger(__name__)

_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # the last of ARM


def choose_accelerator(training: TrainingConfig) -> Literal["auto", "cpu", "cuda"]:
    """The accelerator that `train.accelerator` means on this machine, by Lightning's name.

    A GPU is a CUDA device: Apple's have no float64, which the network needs.
    """
    if training.accelerator == "auto":
        return "cpu" if torch.backends.mps.is_available() else "auto"
    return "cuda" if training.accelerator == "gpu" else "cpu"


def choose_precision(training: TrainingConfig) -> Literal["32-true", "16-mixed", "bf16-mixed"]:
    """The precision that `train.precision` means on this machine.

    Reason for `auto`: speed. On a CPU with instructions for bfloat16, bf16-mixed is up to twice as
    fast as 32-true; on one without it has a ninth of the speed (AMD EPYC with AVX2). On a GPU
    32-true computes products in TF32.
    """
    on_cpu = choose_accelerator(training) == "cpu" or not torch.accelerator.is_available()
    capabilities = torch.cpu.get_capabilities()
    has_bfloat16 = any(capabilities.get(name, False) for name in _BFLOAT16)
    if training.precision == "auto":
        return "bf16-mixed" if on_cpu and has_bfloat16 else "32-true"
    if training.precision != "32-true" and on_cpu and not has_bfloat16:
        _log.warning(
            "train.precision = %s is several times slower than 32-true on this processor, which "
            "has no instructions for bfloat16; auto takes 32-true there",
            training.precision,
        )
    return training.precision
