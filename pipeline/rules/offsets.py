"""What is added to the scores of items: numbers from a column, and a boost of newer ones."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config.rule_tables import FreshnessBoost
from pipeline.config.score_section import ScoreSettings
from pipeline.dates import RunDay
from pipeline.errors import ConfigError
from pipeline.logs.conversion import normalise_timestamps
from pipeline.rules.attributes import column_of
from pipeline.schema import ITEM_ID

CREATED_AT = "created_at"


def item_offsets(
    settings: ScoreSettings, items: pa.Table, run_day: RunDay | None
) -> NDArray[np.float32]:
    """What is added to each item's scores; 0 where the settings ask for nothing.

    The age of an item, for `freshness`, is that at the end of the run date. One that is created
    later has the age 0.

    Args:
        settings: `offset` and `freshness` are used.
        items: What is known of some items, with the columns of `Attributes.table`.
        run_day: The run date; not needed without `freshness`.

    Returns:
        (rows,) float32.

    Raises:
        ConfigError: a column is absent or of another type, or a sum is not finite.
    """
    total = np.zeros(len(items))
    if settings.offset is not None:
        total += _numbers(items, settings.offset)
    if settings.freshness is not None:
        assert run_day is not None
        total += _boost(items, settings.freshness, run_day)
    with np.errstate(over="ignore"):
        offsets = total.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(offsets))
    if len(bad):
        raise ConfigError(
            "what is added to scores has to be finite",
            "score.offset" if settings.offset is not None else "score.freshness",
            expected="finite numbers in float32",
            found=f"{total[bad[0]]} for item {items[ITEM_ID][int(bad[0])].as_py()!r}"
            + (f", and {len(bad) - 1:,} more" if len(bad) > 1 else ""),
        )
    return offsets


def created_at(items: pa.Table, time_zone: str, setting: str) -> pa.Array:
    """The times in the column `created_at`, in UTC.

    Args:
        items: What is known of some items.
        time_zone: The IANA time zone of dates, and of times that name none.
        setting: The setting that needs them, for the error.

    Raises:
        ConfigError: there is no such column, or it holds something else.
    """
    column = column_of(items, CREATED_AT, setting)
    kind = column.type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_null(kind)):
        raise ConfigError(
            f"the column {CREATED_AT} holds no times",
            setting,
            expected="timestamps or dates",
            found=str(kind),
        )
    return normalise_timestamps(column, "us", time_zone)


def _boost(items: pa.Table, freshness: FreshnessBoost, run_day: RunDay) -> NDArray[np.float64]:
    created = created_at(items, run_day.time_zone, "score.freshness").to_numpy(zero_copy_only=False)
    age = (np.datetime64(run_day.end.replace(tzinfo=None)) - created) / np.timedelta64(1, "D")
    with np.errstate(over="ignore"):
        boost = freshness.weight * 2 ** (-np.maximum(age, 0) / freshness.half_life_days)
    return np.nan_to_num(boost)  # of no time


def _numbers(items: pa.Table, name: str) -> NDArray[np.float64]:
    column = column_of(items, name, "score.offset")
    kind = column.type
    are = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
    if not any(is_kind(kind) for is_kind in are):
        raise ConfigError(
            f"the column {name} holds no numbers",
            "score.offset",
            expected="integers, floats or decimals",
            found=str(kind),
        )
    numbers: NDArray[np.float64] = column.cast(pa.float64(), safe=False).fill_null(0).to_numpy()
    return numbers
