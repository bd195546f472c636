"""The spectra of layers, against NumPy, and what their bands mean."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from model.config import FEARecConfig
from model.network import FEARec
from model.training.weights import save_weights
from pipeline.bundles.bundle import WEIGHTS, Bundle
from pipeline.reporting.spectrum import LayerSpectrum, layer_spectra
from tests.helpers.prepared_folders import write_prepared

LENGTH = 10
HISTORIES = [[f"i{(user + step) % 7}" for step in range(3 + user)] for user in range(9)]


def spectra(folder: Path, **changes: Any) -> tuple[FEARec, list[LayerSpectrum]]:
    torch.manual_seed(3)
    given = {"n_items": 8, "hidden_size": 8, "n_layers": 3, "MAX_ITEM_LIST_LENGTH": LENGTH}
    config = FEARecConfig(**given, global_ratio=0.5, **changes)
    network = FEARec(config).eval()
    (folder / "bundle").mkdir()
    save_weights(network, folder / "bundle" / WEIGHTS)
    described = SimpleNamespace(hyper_parameters=config.model_dump(), input_types=())
    bundle = cast(Bundle, SimpleNamespace(path=folder / "bundle", description=described))
    return network, layer_spectra(bundle, write_prepared(folder / "prepared", HISTORIES))


def test_the_first_layers_input_is_numpys_spectrum_of_the_embedded_sequences(
    tmp_path: Path,
) -> None:
    network, found = spectra(tmp_path)
    last = [history[-LENGTH:] for history in HISTORIES]
    item_seq = torch.zeros(len(last), LENGTH, dtype=torch.int64)
    for row, items in enumerate(last):
        item_seq[row, : len(items)] = torch.tensor([int(item[1:]) + 1 for item in items])
    with torch.inference_mode():
        hidden = network.embed(item_seq, torch.tensor([len(items) for items in last])).numpy()
    energy = (np.abs(np.fft.rfft(hidden.astype(np.float64), axis=1)) ** 2).mean((0, 2))
    np.testing.assert_allclose(found[0].before, energy / energy.sum(), rtol=1e-4)
    assert [len(each.after) for each in found] == [LENGTH // 2 + 1] * 3
    for each, following in pairwise(found):
        assert each.after == following.before
        assert sum(each.after) == pytest.approx(1)


def test_a_layer_goes_by_its_band_and_no_other_bin(tmp_path: Path) -> None:
    network, found = spectra(tmp_path)
    assert [each.layer for each in found] == [1, 2, 3]
    hidden = torch.randn(4, LENGTH, 8, generator=torch.Generator().manual_seed(1))
    spectrum = torch.fft.rfft(hidden, dim=1)
    for block, each in zip(network.item_encoder.blocks, found, strict=True):
        assert each.band is not None
        low, high = each.band
        assert each.kept == pytest.approx(sum(each.before[low : high + 1]))
        attention = block.hybrid_attention
        inside = torch.zeros(LENGTH // 2 + 1, dtype=torch.bool)
        inside[low : high + 1] = True
        outside = torch.fft.irfft(spectrum.where(inside[:, None], spectrum * 9), LENGTH, dim=1)
        changed = torch.fft.irfft(spectrum.where(~inside[:, None], spectrum * 9), LENGTH, dim=1)

        def delays(given: torch.Tensor, attention: Any = attention) -> torch.Tensor:
            return attention.correlation(attention.basis.T @ given)

        with torch.inference_mode():
            torch.testing.assert_close(delays(outside), delays(hidden), rtol=1e-3, atol=1e-6)
            assert not torch.allclose(delays(changed), delays(hidden), rtol=1e-1, atol=1e-8)
    assert found[0].band[1] == LENGTH // 2  # the ramp: the first layer has the highest bins
    assert found[0].band > found[1].band > found[2].band


@pytest.mark.parametrize(
    ("changes", "attended"),
    [
        ({"dual_domain": True, "std": True}, "the same band"),
        ({"dual_domain": True, "std": False}, "all bins"),
        ({"dual_domain": False}, "nothing"),
    ],
)
def test_what_the_attention_sees_is_said(
    tmp_path: Path, changes: dict[str, Any], attended: str
) -> None:
    assert {each.attended for each in spectra(tmp_path, **changes)[1]} == {attended}
