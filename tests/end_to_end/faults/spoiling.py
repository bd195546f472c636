"""Damage: one file of a log, a bundle or a work folder is spoilt, then a command runs over it."""

import json
import pickle
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.schema import INTERACTIONS, QUARANTINE, SEQUENCES, TIMESTAMP
from pipeline.warehouse.tables import dataset_of, open_table
from tests.end_to_end.faults.commands import Ended, fearec, fearec_score
from tests.end_to_end.faults.kills import compared
from tests.end_to_end.faults.log_files import kind_of
from tests.end_to_end.faults.log_oracle import LogRows, write_rows_of_log
from tests.end_to_end.faults.small_logs import DAY
from tests.end_to_end.faults.tables import CHAMPION, output_of, tables_of
from tests.end_to_end.faults.verdicts import RIGHT, Verdict, wrong
from tests.end_to_end.faults.world import World
from tests.helpers.damages import DAMAGES


def damaged_log(world: World, number: int, chance: Random) -> Verdict:
    """Ingest and score a log of one file that is known already and one of many kinds.

    Args:
        world: Where.
        number: Of the kind.
        chance: What the file looks like.
    """
    kind = kind_of(number)
    assert world.bundle
    world.restore(world.one_log)
    good, spoilt = world.place / "logs" / "a.parquet", world.place / "logs" / "spoilt.parquet"
    kind.make(spoilt, chance)
    known, expected = _oracle(world, good), _oracle(world, spoilt)
    assert known is not None
    before = tables_of(world.warehouse)
    fresh = world.fresh and number % _FRESH_EVERY == 0
    for judge in (_ingested, _scored):
        verdict = judge(world, spoilt, known, expected, fresh)
        if verdict.outcome == "wrong":
            return wrong(f"{kind.name}: {verdict.why}")
        if kind.is_good and verdict.outcome == "refused":
            return wrong(f"{kind.name}: a good file is refused: {verdict.why}")
        if verdict.outcome == "refused" and tables_of(world.warehouse) != before:
            return wrong(f"{kind.name}: refused, but the tables have changed")
    return Verdict(verdict.outcome, f"{kind.name}: {verdict.why}")


def _oracle(world: World, path: Path) -> LogRows | None:
    result = world.folder / "oracle.pickle"
    ended = world.run(write_rows_of_log, [str(path), str(DAY), str(result)])
    assert ended.code == 0, ended
    rows: LogRows | None = pickle.loads(result.read_bytes())
    return rows


def _ingested(
    world: World, spoilt: Path, known: LogRows, expected: LogRows | None, fresh: bool
) -> Verdict:
    ended = world.run(fearec, world.ingest("logs"), fresh=fresh)
    if refused := _refused(ended, spoilt, expected):
        return refused
    assert expected is not None
    table = _table(world, INTERACTIONS)
    times = table[TIMESTAMP].cast(pa.int64()).to_pylist()
    found = sorted(
        zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), times, strict=True)
    )
    kept = sorted({*known.good, *expected.good})
    if found != kept:
        return wrong(f"{len(found)} events, not {len(kept)}: {set(found) ^ set(kept)}"[:300])
    bad = _table(world, QUARANTINE).select(["user_id", "item_id", "reason"]).to_pylist()
    quarantined = sorted((tuple(row.values()) for row in bad), key=repr)
    if quarantined != sorted([*known.bad, *expected.bad], key=repr):
        return wrong(f"{len(quarantined)} rows in quarantine, not {len(known.bad + expected.bad)}")
    done = json.loads((world.work / "ingest.json").read_text())["result"]
    rows = len(expected.good) + len(expected.bad)
    counted = done["added"] + done["duplicates"] + done["quarantined"]
    if not done["rows"] == counted == rows:
        return wrong(f"{rows} rows in, {done['rows']} counted, {counted} accounted for")
    return RIGHT


def _scored(
    world: World, spoilt: Path, known: LogRows, expected: LogRows | None, fresh: bool
) -> Verdict:
    ended = world.run(fearec_score, world.score(spoilt.parent, world.bundle), fresh=fresh)
    if refused := _refused(ended, spoilt, expected):
        return wrong(f"{world.out} is there") if world.out.exists() else refused
    assert expected is not None
    users = {event[0] for event in (*known.good, *expected.good)}
    found = set(ds.dataset(world.out).to_table(["user_id"])["user_id"].to_pylist())
    return RIGHT if found == users else wrong(f"{len(found)} users scored, not {len(users)}")


def _refused(ended: Ended, spoilt: Path, expected: LogRows | None) -> Verdict | None:
    """The verdict where the command refused the file or should have done so; else None."""
    if ended.is_refusal:
        names_file = str(spoilt) in ended.err
        return Verdict("refused", ended.error) if names_file else wrong(ended)
    if ended.code != 0 or "Traceback" in ended.err:
        return wrong(ended)
    return wrong("an unusable file was taken") if expected is None else None


def _table(world: World, name: str) -> pa.Table:
    table = open_table(str(world.warehouse / name))
    assert table is not None
    return dataset_of(table).to_table()


_DAMAGES_EACH = 3
_FRESH_EVERY = 10  # of the damaged logs, one is met by new interpreters
_FLIPPED = "flipped bits"
_BUCKET = "7.arrow"

Spoilt = tuple[str, str, str]  # a file, a kind of `DAMAGES`, and the state or command it is met in


def bundle_files(world: World, chance: Random) -> list[Spoilt]:
    """Every file of a bundle with every damage for `fearec-score`, and once for nights."""
    files = sorted(path.name for path in world.bundle.iterdir())
    for_scoring = [(file, kind, "fearec-score") for file in files for kind in DAMAGES]
    for_a_night = [
        (file, chance.choice(list(DAMAGES)), state)
        for file in files
        for state in world.damaged_states
    ]
    return for_scoring + for_a_night


def damaged_bundle(world: World, spoilt: Spoilt, chance: Random) -> Verdict:
    """Score over an earlier output, or end a night, with a bundle of which a file is damaged."""
    file, kind, state = spoilt
    if state != "fearec-score":
        return _night_over(world, world.bundle_in_place() / file, kind, state, chance)
    world.restore(world.scored)
    DAMAGES[kind](world.place / "bundle" / file, chance)
    arguments = [*world.scoring.arguments[:-1], "--overwrite"]
    ended = world.run(fearec_score, arguments)
    if output_of(world.out) != world.scoring.output:
        return wrong(f"{ended}, and other rows in {world.out}")
    return compared(world, world.scoring, ended)


def scratch_files(world: World, chance: Random) -> list[Spoilt]:
    """Every file that a night leaves in its work folder, but for records."""
    return _work_files(world, chance, records=False)


def record_files(world: World, chance: Random) -> list[Spoilt]:
    """Every record of a night: of its stages, and the list of published models.

    That list may be moved away, to start afresh. A flipped bit that leaves a number a number cannot
    be seen, as these files have no checksum.
    """
    kinds = [kind for kind in DAMAGES if kind not in (_FLIPPED, "removed")]
    champion = [(f"warehouse/{CHAMPION}", kind, world.finished) for kind in kinds]
    found = [case for case in _work_files(world, chance, records=True) if case[1] != _FLIPPED]
    return found + champion


def damaged_work(world: World, spoilt: Spoilt, chance: Random) -> Verdict:
    """Run a night again over a work folder in which a file is damaged."""
    file, kind, state = spoilt
    return _night_over(world, world.place / file, kind, state, chance)


def _work_files(world: World, chance: Random, *, records: bool) -> list[Spoilt]:
    """Every file in every state that has it, each with some of the damages.

    Of the buckets of users, which are alike, one.
    """
    found = []
    for state in world.damaged_states:
        folder = world.folder / "states" / state
        for path in sorted((folder / "work").rglob("*")):
            is_record = path.suffix == ".json" and path.parent.name == world.work.name
            is_another = path.parent.name == SEQUENCES and path.name != _BUCKET
            if is_another or is_record != records:
                continue
            if path.is_file() and path.stat().st_size:
                for kind in chance.sample(list(DAMAGES), _DAMAGES_EACH):
                    found.append((str(path.relative_to(folder)), kind, state))
    return found


def _night_over(world: World, path: Path, kind: str, state: str, chance: Random) -> Verdict:
    assert world.night
    world.restore(state)
    DAMAGES[kind](path, chance)
    damaged = tables_of(world.warehouse)
    return compared(world, world.night, world.run(fearec, world.nightly()), damaged)
