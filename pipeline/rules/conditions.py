"""Conditions on items and users: expressions of DuckDB over their attributes."""

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config.row_conditions import as_condition, check_condition, sealed_database
from pipeline.errors import ConfigError, first_line


def rows_that(where: str, table: pa.Table, setting: str) -> NDArray[np.bool_]:
    """Which rows of a table fulfil a condition.

    Args:
        where: A Boolean expression of DuckDB over the table's columns. Times without a zone are in
            UTC.
        table: The table.
        setting: The name of the setting that holds the expression, for errors.

    Returns:
        (N,) whether the expression is true; where it is null it is not.

    Raises:
        ConfigError: it is not one Boolean expression over these columns whose value follows from
            one row alone, or it cannot be computed for some row.
    """
    with sealed_database() as db:
        types = _column_types(table.schema, db)
        try:
            check_condition(where, types)
            db.register("rows", table.select(list(types)))
            query = f"SELECT coalesce({as_condition(where)}, false) AS chosen FROM rows"
            rows = db.sql(query).to_arrow_table()
        except duckdb.OutOfMemoryException:  # which the expression is not to blame for
            raise
        except (ValueError, duckdb.Error) as error:
            raise ConfigError(first_line(error), setting, found=repr(where)) from error
    chosen: NDArray[np.bool_] = rows["chosen"].to_numpy()
    return chosen


def _column_types(schema: pa.Schema, db: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """The types in DuckDB of all columns whose type it has."""
    types = {}
    for field in schema:
        try:
            described = db.from_arrow(pa.schema([field]).empty_table()).types
        except duckdb.NotImplementedException:  # of 16-bit floats, for one
            continue
        types[field.name] = str(described[0])
    return types
