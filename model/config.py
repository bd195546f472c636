"""Hyper-parameters of the architecture, its losses and its training.

Names and defaults are those of RecBole's FEARec page, plus those that its yaml leaves out
(``contrast``, ``tau``, ``sim``). This module imports no torch.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from model.errors import ConfigError
from model.pydantic_base import NO_RESULT_CHANGE, CountOrAuto, Frozen

Contrast = Literal["none", "un", "su", "us", "us_x"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "recbole": {},
    # The authors' script.
    "paper": {
        "contrast": "us_x",
        "sim": "dot",
        "tau": 1.0,
        "global_ratio": 0.6,
        "dual_domain": True,
        "std": True,
        "spatial_ratio": 0.1,
    },
    # The best on real data (tests/benchmarks/README.md): the paper's architecture, trained with the
    # delays of inference and by the cross-entropy alone.
    "best": {
        "global_ratio": 0.6,
        "dual_domain": True,
        "std": True,
        "spatial_ratio": 0.5,
        "delays": "sequence",
        "padding": "cyclic",
    },
}


class FEARecConfig(Frozen):
    """Hyper-parameters of one FEARec network and its losses.

    ``FEARecConfig(n_items=V)`` is the ``recbole`` preset. ``n_items`` counts PAD, as in RecBole.

    Raises:
        ConfigError: a value or a combination of values is impossible.
    """

    section = "model"

    n_items: int = Field(ge=2)
    MAX_ITEM_LIST_LENGTH: int = Field(
        50, ge=1, description="L, the last items of a history that the model sees"
    )
    n_layers: int = Field(2, ge=1, description="encoder layers")
    n_heads: int = Field(2, ge=1, description="H, attention heads")
    hidden_size: int = Field(64, ge=1, description="D")
    inner_size: int = Field(256, ge=1, description="width of the feed-forward layers")
    hidden_dropout_prob: float = Field(
        0.5, ge=0, lt=1, description="dropout of embeddings and layer outputs"
    )
    attn_dropout_prob: float = Field(0.5, ge=0, lt=1, description="dropout of attention weights")
    hidden_act: Literal["gelu", "relu", "swish", "tanh", "sigmoid"] = Field(
        "gelu", description="`gelu`, `relu`, `swish`, `tanh` or `sigmoid`"
    )
    layer_norm_eps: float = Field(1e-12, gt=0, description="epsilon of the layer normalisation")
    initializer_range: float = Field(
        0.02, gt=0, description="standard deviation of the initial weights"
    )

    global_ratio: float = Field(
        1.0, gt=0, le=1, description="share of the frequency bins that a layer keeps"
    )
    dual_domain: bool = Field(
        False, description="attention in the time domain beside the autocorrelation"
    )
    std: bool = Field(
        False, description="the attention in the time domain keeps the band only, too"
    )
    spatial_ratio: float = Field(
        0.0, ge=0, le=1, description="share of the attention in the time domain"
    )
    topk_factor: float = Field(1, gt=0, description="delays are this times ln L")
    delays: Literal["batch", "sequence"] = Field(
        "batch",
        description="delays in training: shared by the batch (the reference) or each sequence's "
        "own, as always in inference",
    )

    padding: Literal["zero", "cyclic", "reflect"] = Field(
        "zero",
        description="input of the transforms after the last item: zeros (the reference), or the "
        "sequence's items again",
    )
    position_origin: Literal["start", "end"] = Field(
        "start",
        description="positions counted from the sequence's oldest item (the reference) or its last",
    )

    loss_type: Literal["CE", "BPR"] = Field("CE", description="`CE` or `BPR`")
    sample_num: int = Field(1, ge=1, description="negative items per sample, for BPR")
    ce_chunk_size: int = Field(
        0, ge=0, description="items per chunk of the CE logits, to bound their memory; 0 for all"
    )
    ce_samples: int = Field(
        0,
        ge=0,
        description="items that the CE compares a batch's targets with, drawn anew for each batch; "
        "0 for all items",
    )
    contrast: Contrast = Field("none", description="`none`, `un`, `su`, `us` or `us_x`")
    tau: float = Field(1.0, gt=0, description="temperature of the contrast")
    sim: Literal["dot", "cos"] = Field(
        "dot", description="similarity in the contrast: `dot` or `cos`"
    )
    lmd: float = Field(0.1, ge=0, description="weight of the unsupervised contrast")
    lmd_sem: float = Field(0.1, ge=0, description="weight of the supervised contrast")
    fredom: bool = Field(False, description="regularise in the frequency domain")
    fredom_type: Contrast = Field("none", description="the views that `fredom` compares")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.hidden_size % self.n_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be divisible by n_heads ({self.n_heads})"
            )
        if self.delay_count > self.MAX_ITEM_LIST_LENGTH:
            raise ValueError(
                f"topk_factor ({self.topk_factor}) asks for {self.delay_count} delays, more than "
                f"MAX_ITEM_LIST_LENGTH {self.MAX_ITEM_LIST_LENGTH}"
            )
        if self.ce_samples and (self.ce_chunk_size or self.loss_type != "CE"):
            raise ValueError(
                "ce_samples is for loss_type CE without ce_chunk_size, which is for all items; "
                f"found loss_type {self.loss_type!r}, ce_chunk_size {self.ce_chunk_size}"
            )
        if self.fredom and self.contrast != "us_x":
            raise ValueError(
                "fredom compares the views of contrast 'us_x'; "
                f"contrast {self.contrast!r} does not have them"
            )
        if self.fredom and self.fredom_type == "none":
            raise ValueError("fredom needs a fredom_type: one of un, su, us, us_x")
        return self

    @classmethod
    def from_preset(cls, preset: str, *, n_items: int, **overrides: Any) -> Self:
        """Build the configuration of a preset (`PRESETS`) with some hyper-parameters overridden.

        Raises:
            ConfigError: the preset is unknown, or the combination is impossible.
        """
        if preset not in PRESETS:
            raise ConfigError(
                "unknown preset", "model.preset", expected=" or ".join(PRESETS), found=repr(preset)
            )
        return cls(n_items=n_items, **{**PRESETS[preset], **overrides})

    @property
    def delay_count(self) -> int:
        """K, the delays per sequence: ``int(topk_factor * ln L)``, at least 1 (paper, Eq. 14)."""
        return max(1, int(self.topk_factor * math.log(self.MAX_ITEM_LIST_LENGTH)))

    @property
    def needs_same_target(self) -> bool:
        """Whether a loss term compares sequences with the same target item."""
        return self.contrast in ("su", "us", "us_x")


class TrainingConfig(Frozen):
    """Settings of a training run; names are RecBole's where RecBole has one."""

    section = "train"

    epochs: int = Field(50, ge=1, description="at most")
    train_batch_size: int = Field(256, ge=2, description="samples per step")
    eval_batch_size: int = Field(
        512,
        ge=1,
        description="users per batch of validation and evaluation",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    learning_rate: float = Field(1e-3, gt=0, description="of Adam")
    learning_rate_schedule: Literal["constant", "cosine"] = Field(
        "constant", description="cosine falls to 0 at the last of `epochs`"
    )
    weight_decay: float = Field(0.0, ge=0, description="of Adam")
    item_start: Literal["random", "co_occurrence"] = Field(
        "co_occurrence",
        description="item embeddings before the first epoch: near to each other where the same "
        "users chose the items, or `random`",
    )
    item_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of a sequence's items that training leaves out, anew each time",
    )
    stopping_step: int = Field(
        5, ge=1, description="epochs without a better NDCG@10 before training stops"
    )
    clip_grad_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    seed: int = Field(2020, ge=0, description="of weights, order of samples, dropout and bootstrap")
    refit: bool = Field(
        True,
        description="train the published model on the held-out items too, for as many epochs",
    )
    warm_start: bool = Field(True, description="start from the champion's weights")
    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="`auto`, `cpu` or `gpu`", json_schema_extra=NO_RESULT_CHANGE
    )
    devices: CountOrAuto = Field(
        1, description="how many, or `auto`", json_schema_extra=NO_RESULT_CHANGE
    )
    threads: CountOrAuto = Field(
        "auto",
        description="CPU threads of PyTorch, shared by the processes of `train.devices`; `auto`: "
        "`OMP_NUM_THREADS`, or the cores that this process may use",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    strategy: Literal["auto", "ddp"] = Field(
        "auto",
        description="`auto` or `ddp`: either way several devices train by DDP, a process each",
        json_schema_extra=NO_RESULT_CHANGE,
    )
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed"] = Field(
        "32-true",
        description="`32-true`, `bf16-mixed`, `16-mixed`, or `auto`: bf16-mixed on a processor "
        "with instructions for it, else 32-true",
    )
    logger: Literal["csv", "tensorboard"] = Field(
        "csv",
        description="`csv`, or `tensorboard` with the extra of that name",
        json_schema_extra=NO_RESULT_CHANGE,
    )
