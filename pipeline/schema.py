"""Column names and Arrow schemas of everything fearec reads and writes."""

import pyarrow as pa

PAD = 0  # item index of padding; real items are 1..V-1

USER_ID = "user_id"
ITEM_ID = "item_id"
TIMESTAMP = "timestamp"
EVENT_TYPE = "event_type"
VALUE = "value"
TITLE = "title"
ITEM_IDS = "item_ids"
ITEM_INDEX = "item_index"
RUN_DATE = "run_date"
SCORE = "score"
TIMESTAMPS = "timestamps"
EVENT_TYPE_INDEX = "event_type_index"
SOURCE = "source"
BECAUSE = "because"

# The Delta tables of the warehouse.
INTERACTIONS = "interactions"
QUARANTINE = "quarantine"
LOG_FILES = "log_files"
VOCABULARY = "vocabulary"
RECOMMENDATIONS = "recommendations"
RUNS = "runs"
RELATED_ITEMS = "related_items"
ITEM_EMBEDDINGS = "item_embeddings"
USER_EMBEDDINGS = "user_embeddings"

# What a prepared folder holds.
SEQUENCES = "sequences"  # a folder of one file per bucket of users
ITEMS_FILE = "items.parquet"
EVENT_TYPES_FILE = "event_types.parquet"  # only where `logs.event_type` is set

# Every time inside the warehouse: microseconds, UTC.
TIME = pa.timestamp("us", tz="UTC")


# The columns that are equal in every row of a run.
_RUN_COLUMNS = (("model_version", pa.string()), (RUN_DATE, pa.date32()), ("generated_at", TIME))


def is_id_type(kind: pa.DataType) -> bool:
    """Whether user or item ids may have this type: integers and strings keep theirs."""
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
    )


def interactions_schema(user: pa.DataType, item: pa.DataType) -> pa.Schema:
    """The Delta table `interactions/`: good rows, once each, and where they came from."""
    return pa.schema(
        [
            (USER_ID, user),
            (ITEM_ID, item),
            (TIMESTAMP, TIME),
            ("source_file", pa.string()),
            ("source_row", pa.int64()),
            ("source_stamp", pa.string()),  # which state of the file, and how it was read
            (EVENT_TYPE, pa.string()),  # these two null where the logs have no such column
            (VALUE, pa.float64()),
        ]
    )


# The Delta table `quarantine/`: bad rows as text, with the reason.
QUARANTINE_SCHEMA = pa.schema(
    [
        (USER_ID, pa.string()),
        (ITEM_ID, pa.string()),
        (TIMESTAMP, pa.string()),
        ("reason", pa.string()),
        ("source_file", pa.string()),
        ("source_row", pa.int64()),
        ("source_stamp", pa.string()),
        (RUN_DATE, pa.date32()),
        ("raw_timestamp", pa.string()),  # as the log has it, where the time is what is wrong
        (EVENT_TYPE, pa.string()),
        (VALUE, pa.string()),  # as the log has it, where it is what is wrong
    ]
)

# The Delta table `log_files/`: which log files, as they were then, the two tables above hold.
# Rows of version 0.1 have the first two columns alone.
LOG_FILES_SCHEMA = pa.schema(
    [
        ("source_file", pa.string()),
        ("source_stamp", pa.string()),
        ("location", pa.string()),  # absolute path or URI
        ("footer", pa.string()),  # sha256 of the file's footer
        ("n_not_kept", pa.int64()),  # its rows that `interactions` has from other files, or lacks
        ("n_rows", pa.int64()),  # its rows, without those that `logs.keep` leaves out
        ("read_on", pa.date32()),  # the run date that read it first in this state
        ("interactions_id", pa.string()),  # the tables that hold its rows, and since which version
        ("interactions_version", pa.int64()),
        ("quarantine_id", pa.string()),
        ("quarantine_version", pa.int64()),
        ("forgotten", pa.bool_()),  # by a person: in this state it is not read, and has no rows
    ]
)


def prepared_schema(user: pa.DataType, *, event_types: bool = False) -> pa.Schema:
    """The files of `sequences/` of a run: whole histories of item indices, oldest first."""
    lists = [(TIMESTAMPS, TIME), (ITEM_INDEX, pa.int32())]
    if event_types:  # of `event_types.parquet`; 0 for an event without a type
        lists.append((EVENT_TYPE_INDEX, pa.int32()))
    return pa.schema([(USER_ID, user), *((name, pa.list_(kind)) for name, kind in lists)])


# `event_types.parquet` of a run: one row per type of event, in the order of its index, from 1.
EVENT_TYPES_SCHEMA = pa.schema([(EVENT_TYPE, pa.string()), ("n_events", pa.int64())])


def vocabulary_schema(item: pa.DataType) -> pa.Schema:
    """`items.parquet`: one row per real item, in index order from 1; PAD has no row."""
    return pa.schema(
        [
            (ITEM_INDEX, pa.int64()),
            (ITEM_ID, item),
            ("popularity", pa.int64()),
            ("last_seen", TIME),
        ]
    )


def recommendations_schema(
    user: pa.DataType, item: pa.DataType, *, because: bool = False
) -> pa.Schema:
    """The long form of the output, one row per user and rank.

    Args:
        user: The type of user ids.
        item: The type of item ids.
        because: Whether it has the column of that name, the last one.
    """
    return pa.schema(
        [
            (USER_ID, user),
            ("rank", pa.int32()),
            (ITEM_ID, item),
            (SCORE, pa.float32()),
            (SOURCE, pa.string()),
            *_RUN_COLUMNS,
            *([(BECAUSE, item)] if because else []),
        ]
    )


def recommendation_lists_schema(
    user: pa.DataType, item: pa.DataType, *, sources: bool = False, because: bool = False
) -> pa.Schema:
    """The list form of the output, one row per user.

    Args:
        user: The type of user ids.
        item: The type of item ids.
        sources: Whether each entry of a list has its own `source`.
        because: Whether each entry has the field of that name.
    """
    entry = [(ITEM_ID, item), (SCORE, pa.float32())]
    entry += [(SOURCE, pa.string())] if sources else []
    entry += [(BECAUSE, item)] if because else []
    return pa.schema(
        [
            (USER_ID, user),
            ("recommendations", pa.list_(pa.struct(entry))),
            (SOURCE, pa.string()),
            *_RUN_COLUMNS,
        ]
    )


# Of the two schemas above: what the rows of some runs lack, also those of version 0.1.
OPTIONAL_COLUMNS = frozenset({BECAUSE})
OPTIONAL_FIELDS = frozenset({SOURCE, BECAUSE})  # of the entries of lists


def related_items_schema(item: pa.DataType) -> pa.Schema:
    """The Delta table `related_items/`, one row per item and rank."""
    return pa.schema(
        [
            (ITEM_ID, item),
            ("rank", pa.int32()),
            ("related_item_id", item),
            (SCORE, pa.float32()),
            ("source", pa.string()),  # what they are related by
            *_RUN_COLUMNS,
        ]
    )


def embeddings_schema(id_column: str, kind: pa.DataType) -> pa.Schema:
    """The Delta tables `item_embeddings/` and `user_embeddings/`, one row per item or user."""
    return pa.schema([(id_column, kind), ("embedding", pa.list_(pa.float32())), *_RUN_COLUMNS])


def audience_schema(user: pa.DataType, item: pa.DataType) -> pa.Schema:
    """What `fearec audience` finds: the best users of each item, one row per item and rank."""
    return pa.schema(
        [(ITEM_ID, item), ("rank", pa.int32()), (USER_ID, user), (SCORE, pa.float32())]
    )


_METRICS = pa.map_(pa.string(), pa.float64())
_CHECKS = pa.list_(
    pa.struct(
        [
            ("name", pa.string()),
            ("outcome", pa.string()),
            ("message", pa.string()),
            ("value", pa.float64()),
            ("limit", pa.float64()),
        ]
    )
)

# The Delta table `runs/`: a row per run; of a run date the newest is current.
RUNS_SCHEMA = pa.schema(
    [
        (RUN_DATE, pa.date32()),
        ("started_at", TIME),
        ("seconds", pa.float64()),  # of all stages, those done in an earlier run included
        ("stage_seconds", _METRICS),
        ("decision", pa.string()),
        ("model_version", pa.string()),
        ("parent", pa.string()),
        ("n_users", pa.int64()),
        ("n_items", pa.int64()),
        ("n_interactions", pa.int64()),
        ("n_added", pa.int64()),
        ("n_duplicates", pa.int64()),
        ("n_quarantined", pa.int64()),
        ("n_recommendations", pa.int64()),
        ("n_fallback", pa.int64()),
        ("protocol", pa.string()),
        ("metrics", _METRICS),
        ("metrics_low", _METRICS),  # 95% intervals of the model's
        ("metrics_high", _METRICS),
        ("popularity_metrics", _METRICS),
        ("co_occurrence_metrics", _METRICS),
        ("champion_metrics", _METRICS),  # for the same users; of the model before the run
        ("finished_at", TIME),
        ("results_key", pa.string()),  # hash of all results; of a failed run null
        ("reasons", pa.list_(pa.string())),  # why the run was held, or would have been
        ("error", pa.string()),  # of a failed run
        ("candidate", pa.string()),  # the run's own model
        ("champion", pa.string()),  # the model before the run
        ("checks", _CHECKS),  # of the data
        ("table_checks", _CHECKS),  # of the recommendations
        ("difference", _METRICS),  # of the headline metric, by the recommender it is taken from
        ("difference_low", _METRICS),  # its 95% interval
        ("difference_high", _METRICS),
        ("last_event", TIME),  # up to the run date: later ones are new to the next run
        ("realised", _METRICS),  # how often the night before's lists held what users then took
        ("n_filtered", pa.int64()),  # rows that `logs.keep` leaves out
    ]
)
