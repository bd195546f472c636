"""The types of events that a setting names, among those that events have."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError

_SHOWN = 10  # types of events in a message


def chosen_types(
    wanted: Sequence[str], names: pa.Array | None, needed_by: str, where: str
) -> NDArray[np.int64]:
    """The indices of types of events that a setting names, without those that no event has.

    Args:
        wanted: The types.
        names: (T,) those of the events; None where events have no types.
        needed_by: The setting, for errors.
        where: The events, likewise.

    Raises:
        ConfigError: events have no types, or none of these.
    """
    if names is None:
        raise no_event_types(needed_by, where)
    index = pc.index_in(pa.array(wanted, names.type), value_set=names).drop_null()
    if not len(index):
        raise no_such_types(wanted, names.to_pylist(), needed_by, where)
    return index.to_numpy().astype(np.int64) + 1


def no_event_types(needed_by: str, where: str) -> ConfigError:
    """A setting names types of events, where the events have none."""
    return ConfigError(
        f"{needed_by} names types of events, which this input does not have",
        where,
        expected="logs with the column that logs.event_type names",
        remedy=f"Take logs and set logs.event_type, or leave the types out of {needed_by}.",
    )


def no_such_types(
    wanted: Sequence[str], names: Sequence[str], needed_by: str, where: str
) -> ConfigError:
    """No event is of a type that a setting names."""
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return ConfigError(
        f"no event is of a type that {needed_by} names",
        where,
        expected=" or ".join(wanted),
        found=shown or "events without a type",
        remedy="Check the spelling of the types, and logs.event_type.",
    )
