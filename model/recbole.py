"""Conversion of models trained with RecBole's FEARec."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from model.config import FEARecConfig
from model.network.fearec import FEARec


def from_recbole(
    config: Mapping[str, Any], state_dict: Mapping[str, Tensor], *, n_items: int
) -> FEARec:
    """Build the network from the configuration and weights of RecBole's FEARec, in eval mode.

    Args:
        config: RecBole's configuration; keys that are not FEARec hyper-parameters are ignored.
        state_dict: RecBole's weights; the unused ``item_encoder.layer_ramp.*`` are ignored.
        n_items: V, including PAD.

    Raises:
        ConfigError: a hyper-parameter is impossible.
        RuntimeError: the weights do not fit the configuration (torch's message).
    """
    names = FEARecConfig.model_fields.keys() - {"n_items"}
    known = {name: config[name] for name in names if name in config}
    for name in ("contrast", "fredom_type"):
        if known.get(name) is None:
            known[name] = "none"
    # RecBole leaves tau and sim null where no contrast needs them; defaults apply then.
    known = {name: value for name, value in known.items() if value is not None}
    # RecBole ignores fredom where it has no effect; FEARecConfig rejects it there.
    if known.get("contrast") != "us_x" or known["fredom_type"] == "none":
        known["fredom"] = False
    model = FEARec(FEARecConfig(n_items=n_items, **known))
    model.load_state_dict(
        {
            name: value
            for name, value in state_dict.items()
            if not name.startswith("item_encoder.layer_ramp.")
        }
    )
    return model.eval()
