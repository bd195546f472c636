"""What scoring would refuse, checked before the hours of training."""

from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

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
from pipeline.scoring.batches import excluded_keys
from pipeline.scoring.eligibility import Eligibility, eligible_items
from pipeline.scoring.prepared_reader import PreparedHistories
from pipeline.scoring.user_list_reader import read_user_lists
from pipeline.scoring.user_lists import UserLists, items_left, pair_keys
from pipeline.storage.resources import DEFAULT_RESOURCES, ResourceSettings


def check_scoring(
    prepared: Prepared,
    export: ExportSettings,
    score: ScoreSettings,
    retired_before: datetime | None,
    items_table: str | None = None,
    similar_by: tuple[str, ...] = (),
    run_day: RunDay | None = None,
    resources: ResourceSettings = DEFAULT_RESOURCES,
    users_table: str | None = None,
) -> None:
    """Check that a run's bundle could be scored with, on this machine and for these users.

    Args:
        prepared: The users and the items, which will be the bundle's.
        export: Whether the bundle will have a float16 recommender.
        score: What is asked for.
        retired_before: Items without an event from then on are not recommended; None for all.
        items_table: What is known of the items, for the rules that need it.
        similar_by: Columns of that table by which items are similar, likewise.
        run_day: The run date, for the rules that need it.
        resources: The memory and the threads to sort the items listed per user with.
        users_table: What is known of the users, for the segments that need it.

    Raises:
        ConfigError: the provider cannot work here, there will be no float16 recommender, more
            items are asked for than there are, none is left to recommend, to anybody, a condition
            cannot be used with the items table or the users table, no event is of a type that
            counts as seen, or nothing in a file of users and items is known.
        InputError: a file of ids, of users and items, or one of these tables cannot be read.
        SchemaError: its ids are of another kind than the logs', or its columns cannot be used.
    """
    with TemporaryDirectory(prefix="fearec-") as folder:
        check_provider(_small_graph(Path(folder)), score.provider, score.devices)
    if score.precision == "fp16" and not export.fp16 and score.candidates is None:
        raise ConfigError(
            "the bundle will have no recommender in float16",
            "score.precision",
            expected="export.fp16 = true, or fp32",
            found="fp16",
        )
    items = pq.read_table(prepared.folder / ITEMS_FILE)
    attributes = needed_attributes(items, score, items_table, similar_by)
    eligibility = eligible_items(items, score, retired_before, attributes, run_day)
    source = PreparedHistories(prepared.folder, None, score.seen_on(run_day))
    segments = user_segments(score, users_table, source.types.user, source.where)
    every_item = eligibility.with_others(items)
    user_lists = read_user_lists(score, source, every_item, resources)
    exclude_seen = bool(score.exclude_seen)
    if not _any_left(
        source, every_item, eligibility, segments, user_lists, exclude_seen=exclude_seen
    ):
        listed = ", ".join(["score.allow", "score.deny", "score.where", *score.user_lists])
        raise ConfigError(
            "nothing is left to recommend: every user has seen every eligible item"
            + (", or may not get it" if user_lists else ""),
            str(prepared.folder),
            found=f"{prepared.n_users} users, {prepared.n_items - 1} items",
            remedy=f"Set score.exclude_seen = false, or check {listed} and the logs.",
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


def _any_left(
    source: PreparedHistories,
    items: pa.Table,
    eligibility: Eligibility,
    segments: UserSegments,
    user_lists: UserLists,
    *,
    exclude_seen: bool,
) -> bool:
    """Whether some user may get some eligible item; the first batch nearly always answers."""
    if not (exclude_seen or user_lists):
        return True
    eligible, _ = eligibility.by_segment()
    n_items = eligible.shape[1]
    with source.open(items, source.folder) as (_, histories):
        for users in histories:
            never = excluded_keys(
                users, n_items, exclude_seen=exclude_seen, listed=user_lists.exclude
            )
            candidates = None
            if user_lists.candidates is not None:
                pairs = user_lists.candidates.pairs(users.user_id)
                candidates = pair_keys(*pairs, n_items)
            segment = segments.of(users.user_id)
            if items_left(segment, eligible, never, candidates).any():
                return True
    return False
