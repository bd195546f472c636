"""What scoring would refuse, checked before the hours of training."""

from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.bundles.sessions import check_provider
from pipeline.config.export_section import ExportSettings
from pipeline.config.score_section import ScoreSettings
from pipeline.dates import RunDay
from pipeline.errors import ConfigError
from pipeline.results import Prepared
from pipeline.rules.attributes import needed_attributes
from pipeline.rules.user_segments import UserSegments, user_segments
from pipeline.schema import ITEMS_FILE
from pipeline.scoring.eligibility import Eligibility, eligible_items
from pipeline.scoring.prepared_reader import PreparedHistories


def check_scoring(
    prepared: Prepared,
    export: ExportSettings,
    score: ScoreSettings,
    retired_before: datetime | None,
    items_table: str | None = None,
    run_day: RunDay | None = None,
    users_table: str | None = None,
) -> None:
    """Check that a run's bundle could be scored with, on this machine and for these users.

    Args:
        prepared: The users and the items, which will be the bundle's.
        export: Whether the bundle will have a float16 recommender.
        score: What is asked for.
        retired_before: Items without an event from then on are not recommended; None for all.
        items_table: What is known of the items, for the rules that need it.
        run_day: The run date, for the rules that need it.
        users_table: What is known of the users, for the segments that need it.

    Raises:
        ConfigError: the provider cannot work here, there will be no float16 recommender, more
            items are asked for than there are, none is left to recommend, to anybody, a condition
            cannot be used with the items table or the users table, or no event is of a type that
            counts as seen.
        InputError: a file of ids or one of these tables cannot be read.
        SchemaError: its ids are of another kind than the logs', or its columns cannot be used.
    """
    with TemporaryDirectory(prefix="fearec-") as folder:
        check_provider(_small_graph(Path(folder)), score.provider, score.devices)
    if score.precision == "fp16" and not export.fp16:
        raise ConfigError(
            "the bundle will have no recommender in float16",
            "score.precision",
            expected="export.fp16 = true, or fp32",
            found="fp16",
        )
    items = pq.read_table(prepared.folder / ITEMS_FILE)
    attributes = needed_attributes(items, score, items_table)
    eligibility = eligible_items(items, score, retired_before, attributes, run_day)
    source = PreparedHistories(prepared.folder, None, score.seen_on(run_day))
    segments = user_segments(score, users_table, source.types.user, source.where)
    if score.exclude_seen and not _any_unseen(source, items, eligibility, segments):
        raise ConfigError(
            "nothing is left to recommend: every user has seen every eligible item",
            str(prepared.folder),
            found=f"{prepared.n_users} users, {prepared.n_items - 1} items",
            remedy="Set score.exclude_seen = false, or check score.allow, score.deny, score.where"
            " and the logs.",
        )


def _small_graph(folder: Path) -> Path:
    """The file of a graph to try a provider with: the product of a matrix with itself."""
    from onnx import TensorProto, helper

    matrices = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [8, 8]) for name in ("a", "b")
    ]
    nodes = [helper.make_node("MatMul", ["a", "a"], ["b"])]
    graph = helper.make_graph(nodes, "product", matrices[:1], matrices[1:])
    # Versions of a bundle's graphs: those that onnx takes by default may be too new to be run.
    opsets = [helper.make_opsetid("", 20)]
    path = folder / "product.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    )
    return path


def _any_unseen(
    source: PreparedHistories, items: pa.Table, eligibility: Eligibility, segments: UserSegments
) -> bool:
    """Whether some user has not seen some eligible item; the first batch nearly always answers."""
    eligible = np.array([eligibility.eligible, *(each.eligible for each in eligibility.segments)])
    n_items, n_eligible = eligible.shape[1], eligible.sum(axis=1)
    with source.open(items, source.folder) as (_, batches):
        for histories in batches:
            seen, segment = histories.seen(), segments.of(histories.user_id)
            rows = np.repeat(np.arange(len(seen)), seen.lengths)
            mine = eligible[segment[rows], seen.items]
            pairs = np.unique((rows * n_items + seen.items)[mine])
            if (np.bincount(pairs // n_items, minlength=len(seen)) < n_eligible[segment]).any():
                return True
    return False
