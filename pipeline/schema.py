"""Column names and Arrow schemas of everything fearec reads and writes."""

import pyarrow as pa

PAD = 0  # item index of padding; real items are 1..V-1

USER_ID = "user_id"
ITEM_ID = "item_id"
TIMESTAMP = "timestamp"
TITLE = "title"
ITEM_IDS = "item_ids"
ITEM_INDEX = "item_index"
RUN_DATE = "run_date"
SCORE = "score"

# Every time inside the warehouse: microseconds, UTC.
TIME = pa.timestamp("us", tz="UTC")


def is_id_type(kind: pa.DataType) -> bool:
    """Whether user or item ids may have this type: integers and strings keep theirs."""
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
    )


def interactions(user: pa.DataType, item: pa.DataType) -> pa.Schema:
    """The Delta table `interactions/`: good rows, once each, and where they came from."""
    return pa.schema(
        [
            (USER_ID, user),
            (ITEM_ID, item),
            (TIMESTAMP, TIME),
            ("source_file", pa.string()),
            ("source_row", pa.int64()),
            ("source_stamp", pa.string()),  # which state of the file, and how it was read
        ]
    )


# The Delta table `quarantine/`: bad rows as text, with the reason.
QUARANTINE = pa.schema(
    [
        (USER_ID, pa.string()),
        (ITEM_ID, pa.string()),
        (TIMESTAMP, pa.string()),
        ("reason", pa.string()),
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
        ("source_stamp", pa.string()),
        (RUN_DATE, pa.date32()),
    ]
)

# The Delta table `log_files/`: which log files, as they were then, the two tables above hold.
LOG_FILES = pa.schema([("source_file", pa.string()), ("source_stamp", pa.string())])


def sequences(user: pa.DataType, item: pa.DataType) -> pa.Schema:
    """Whole histories, oldest first; also what `fearec-score` takes as sequences."""
    return pa.schema([(USER_ID, user), (ITEM_IDS, pa.list_(item)), ("timestamps", pa.list_(TIME))])


def vocabulary(item: pa.DataType) -> pa.Schema:
    """`items.parquet`: one row a real item, in index order from 1; PAD has no row."""
    return pa.schema(
        [
            (ITEM_INDEX, pa.int64()),
            (ITEM_ID, item),
            ("popularity", pa.int64()),
            ("last_seen", TIME),
        ]
    )


def recommendations(user: pa.DataType, item: pa.DataType) -> pa.Schema:
    """The long form of the output, one row a user and rank."""
    return pa.schema(
        [
            (USER_ID, user),
            ("rank", pa.int32()),
            (ITEM_ID, item),
            (SCORE, pa.float32()),
            ("source", pa.string()),
            ("model_version", pa.string()),
            (RUN_DATE, pa.date32()),
            ("generated_at", TIME),
        ]
    )


def recommendation_lists(user: pa.DataType, item: pa.DataType) -> pa.Schema:
    """The list form of the output, one row a user."""
    entry = pa.struct([(ITEM_ID, item), (SCORE, pa.float32())])
    return pa.schema(
        [
            (USER_ID, user),
            ("recommendations", pa.list_(entry)),
            ("source", pa.string()),
            ("model_version", pa.string()),
            (RUN_DATE, pa.date32()),
            ("generated_at", TIME),
        ]
    )
