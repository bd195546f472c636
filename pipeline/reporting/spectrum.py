"""The frequencies that go into each layer, those it goes by, and those that come out of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import FEARecConfig
from model.network.fearec import FEARec
from model.training.histories import evenly_spaced
from model.training.weights import load_network
from pipeline.bundles.bundle import WEIGHTS, Bundle
from pipeline.data.prepared import read_histories
from pipeline.results import Prepared

_SEQUENCES = 256


@dataclass(frozen=True)
class LayerSpectrum:
    """The frequencies of one layer.

    Attributes:
        layer: From 1.
        band: First and last bin by which the layer chooses its delays (paper, Eq. 6-9); None where
            it has none.
        attended: What its attention in the time domain sees: `the same band`, `all bins` or
            `nothing`, where it has no such attention.
        before: Share of the input's energy in each of the F bins.
        after: Share of the output's.
        kept: Share of the input's energy in the band.
    """

    layer: int
    band: tuple[int, int] | None
    attended: str
    before: tuple[float, ...]
    after: tuple[float, ...]
    kept: float


def layer_spectra(bundle: Bundle, prepared: Prepared) -> list[LayerSpectrum]:
    """Measure a bundle's layers on the last items of some users, evenly spread.

    Args:
        bundle: Whose weights are measured.
        prepared: The sequences, in the bundle's item indices.
    """
    config = FEARecConfig(**bundle.description.hyper_parameters)
    network = load_network(config, bundle.path / WEIGHTS)
    histories = read_histories(prepared.folder, bundle.description.input_types)
    ends = histories.offsets[1:][histories.offsets.diff() > 0]
    ends = ends[histories.with_inputs(ends)]
    some = evenly_spaced(ends, _SEQUENCES)
    item_seq, item_seq_len = histories.windows(some, config.MAX_ITEM_LIST_LENGTH)
    with torch.inference_mode():
        return _measure(network, item_seq, item_seq_len)


def _measure(network: FEARec, item_seq: Tensor, item_seq_len: Tensor) -> list[LayerSpectrum]:
    """The layers' spectra of sequences int64 (B, L) with their lengths int64 (B,)."""
    hidden = network.embed(item_seq, item_seq_len)
    length = network.config.MAX_ITEM_LIST_LENGTH
    mask = network.attention_mask(item_seq_len, length, hidden.dtype)
    attended = "the same band" if network.config.std else "all bins"
    if not network.config.dual_domain:
        attended = "nothing"
    spectra = []
    for number, block in enumerate(network.item_encoder.blocks, start=1):
        before, hidden = _energy(hidden), block(hidden, mask, 1)
        band = block.hybrid_attention.band
        spectra.append(
            LayerSpectrum(
                number,
                (band[0], band[-1]) if band else None,
                attended,
                tuple(before.tolist()),
                tuple(_energy(hidden).tolist()),
                float(before[list(band)].sum()),
            )
        )
    return spectra


def _energy(hidden: Tensor) -> Tensor:
    """The share of the energy of (B, L, D) in each frequency along time, (F,)."""
    energy = torch.fft.rfft(hidden.float(), dim=1).abs().square().mean((0, 2))
    return energy / energy.sum()
