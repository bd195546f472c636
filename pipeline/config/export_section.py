"""The section of `fearec.toml` for the export: when a graph is refused."""

from pydantic import Field

from model.pydantic_base import Frozen


class ExportSettings(Frozen):
    """When an exported graph is refused."""

    section = "export"

    parity_sequences: int = Field(2000, ge=1000, description="real sequences compared with PyTorch")
    max_parity_error: float = Field(
        1e-4, gt=0, description="largest difference from PyTorch an export may have"
    )
    max_near_ties: float = Field(
        1e-3, ge=0, le=1, description="share of sequences whose delays are tied to rounding"
    )
    fp16: bool = Field(False, description="also write a recommender in float16, for GPUs")
    min_fp16_agreement: float = Field(
        0.95, ge=0, le=1, description="share of the top 10 that float16 must leave as it is"
    )
