"""Models trained with RecBole's FEARec, taken as they are."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from model.config import FEARecConfig
from model.network.fearec import FEARec


def from_recbole(
    config: Mapping[str, Any], state_dict: Mapping[str, Tensor], *, n_items: int
) -> FEARec:
    """Build the network of a RecBole FEARec's configuration and weights, in eval mode.

    Args:
        config: RecBole's configuration; keys that are not FEARec hyper-parameters are ignored.
        state_dict: RecBole's weights; the unused ``item_encoder.layer_ramp.*`` are ignored.
        n_items: V, PAD included.

    Raises:
        ConfigError: a hyper-parameter is impossible.
        RuntimeError: the weights are not of that configuration (torch's own message).
    """
    names = FEARecConfig.model_fields.keys() - {"n_items"}
    known = {name: config[name] for name in names if name in config}
    for name in ("contrast", "fredom_type"):
        if known.get(name) is None:
            known[name] = "none"
    # Without tau and sim RecBole does not start a contrast; its keys may be there and null.
    known = {name: value for name, value in known.items() if value is not None}
    # RecBole ignores fredom wherever it has no effect; FEARecConfig refuses it there.
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
