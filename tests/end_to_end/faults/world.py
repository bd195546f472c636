"""A small world to spoil: logs, nights and outputs as undisturbed runs leave them."""

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path

from pipeline.runner.stages import STAGES, Publish, Train
from pipeline.schema import INTERACTIONS, RECOMMENDATIONS, RUNS
from tests.end_to_end.faults.commands import (
    Ended,
    Running,
    fearec,
    fearec_in_batches,
    fearec_merging,
    fearec_score,
    fearec_spilling,
    start,
)
from tests.end_to_end.faults.small_logs import DAY, FIRST, USERS, write_log
from tests.end_to_end.faults.tables import (
    CHAMPION,
    Rows,
    Tables,
    names_in,
    output_of,
    results_of,
    size_of,
    tables_of,
    versions_of,
)

DISKS = ("warehouse", "work", "out", "scratch")  # folders in `place`
_FILES = 12  # that many batches take in
_MANY_USERS = 200 * USERS  # whose events do not fit into `SORT_MEMORY`
_SPILLED = {"ingest": 64_000_000, "prepare": 1_000_000}  # bytes at a time at most, about

Command = Callable[[list[str]], None]

_SETTINGS = """
warehouse = "{place}/warehouse"
work_dir = "{place}/work"
[logs]
path = "{logs}"
[model]
preset = "recbole"
hidden_size = 8
inner_size = 8
n_layers = 1
MAX_ITEM_LIST_LENGTH = 6
[train]
epochs = 1
accelerator = "cpu"
threads = 1
[evaluate]
topk = [5, 10]
bootstrap = 0
[export]
max_near_ties = 1.0
[gate]
tolerance = 1.0
[score]
top_k = 4
provider = "cpu"
threads = 1
"""


@dataclass(frozen=True)
class Undisturbed:
    """A command that nobody disturbed: what it started from and what it left.

    Attributes:
        before: The name of the state that it started from.
        command: It.
        arguments: Its arguments.
        seconds: How long it ran.
        first_change: Seconds until it changed a file.
        names: The files that it left, as of `names_in`.
        tables: The tables that it left.
        tables_before: Those that it started from.
        steps: The rows of `interactions` after each of its commits.
        results: Of the run date's work folder, as of `results_of`.
        output: The rows of the folder `out`.
        sizes: The bytes that the folders of `DISKS` take.
    """

    before: str
    command: Command
    arguments: list[str]
    seconds: float
    first_change: float
    names: set[str]
    tables: Tables
    tables_before: Tables
    steps: list[Rows]
    results: Tables
    output: Rows
    sizes: dict[str, int]


class World:
    """States of a folder `place`, each made when it is needed, and commands in it.

    Every case runs in `place` itself, as records hold the paths of the folder they were made in.

    Args:
        folder: An empty one for everything.
        small: Whether few seconds are to be enough: no command runs in a new interpreter, there is
            no night before the one that is disturbed, and no training and no export is.
    """

    def __init__(self, folder: Path, *, small: bool) -> None:
        self.folder, self.small, self.fresh = folder, small, not small
        self.place = folder / "place"
        self.warehouse, self.out = self.place / "warehouse", self.place / "out"
        self.work = self.place / "work" / f"run_date={DAY}"
        self.restore()
        self._log("first/a.parquet", FIRST, 1)
        self._log("changing/a.parquet", FIRST, 1)
        self._log("changing/b.parquet", DAY, 2)
        self._log("nightly/a.parquet", FIRST, 1)

    # --- commands

    def settings(self, logs: str = "nightly") -> str:
        """The settings file with one of the folders of logs, or the folder `logs` in `place`."""
        path = self.folder / f"{logs}.toml"
        where = (self.place if logs == "logs" else self.folder) / logs
        path.write_text(_SETTINGS.format(place=self.place, logs=where))
        return str(path)

    def nightly(self, day: date = DAY, *more: str) -> list[str]:
        """The arguments of a night."""
        return ["nightly", "--config", self.settings(), "--date", str(day), *more]

    def ingest(self, logs: str) -> list[str]:
        """The arguments of an ingest of one of the folders of logs."""
        return ["ingest", "--config", self.settings(logs), "--date", str(DAY)]

    def spilling(self, stage: str) -> list[str]:
        """The arguments of a stage of the large logs, which has a scratch folder of its own."""
        scratch = f"resources.scratch_dir={self.place}/scratch"
        return [stage, *self.ingest("large")[1:], "--set", scratch]

    def score(self, logs: Path, bundle: Path, *more: str) -> list[str]:
        """The arguments of `fearec-score`."""
        options = ["--model", str(bundle), "--output", str(self.out), "--run-date", str(DAY)]
        return [str(logs), *options, "--top-k=4", "--provider=cpu", "--threads=1", *more]

    def start(self, command: Command, arguments: list[str], *, fresh: bool) -> Running:
        """Start a command."""
        return start(command, arguments, self.folder / "printed", fresh=fresh)

    def run(self, command: Command, arguments: list[str], *, fresh: bool = False) -> Ended:
        """Run a command to its end."""
        return self.start(command, arguments, fresh=fresh).end()

    # --- states

    def keep(self, state: str) -> str:
        """Keep what is in `place` under a name."""
        kept = self.folder / "states" / state
        shutil.rmtree(kept, ignore_errors=True)  # of a case that ended before this was noted
        shutil.copytree(self.place, kept, symlinks=True)
        return state

    def restore(self, state: str | None = None) -> None:
        """Put a kept state into `place`; by default nothing.

        What cannot be removed is put aside, so that it spoils no case but the one that left it.
        """
        shutil.rmtree(self.place, ignore_errors=True)
        if self.place.exists():
            self.place.rename(self.folder / f"left-{time.monotonic_ns()}")
        if state:
            shutil.copytree(self.folder / "states" / state, self.place, symlinks=True)
        else:
            self.place.mkdir(parents=True)

    def undisturbed(
        self, before: str | None, command: Command, arguments: list[str]
    ) -> "Undisturbed":
        """Run a command on a state; `place` is then as it left it."""
        self.restore(before)
        tables_before = tables_of(self.warehouse)
        running = self.start(command, arguments, fresh=self.fresh)
        begun = time.time() - (time.monotonic() - running.begun)
        ended = running.end()
        assert ended.code == 0, ended
        changes = [path.stat().st_mtime - begun for path in self.place.rglob("*")]
        return Undisturbed(
            before or "",
            command,
            arguments,
            ended.seconds,
            min((change for change in changes if change > 0), default=0.0),
            names_in(self.place),
            tables_of(self.warehouse),
            tables_before,
            versions_of(self.warehouse / INTERACTIONS),
            results_of(self.work),
            output_of(self.out),
            {name: size_of(self.place / name) for name in DISKS}
            | {"scratch": _SPILLED.get(arguments[0], 0)},
        )

    @cached_property
    def first_ingest(self) -> Undisturbed:
        """Ingest into a new warehouse."""
        return self.undisturbed(None, fearec, self.ingest("first"))

    @cached_property
    def second_ingest(self) -> Undisturbed:
        """Ingest where one file has changed, one is new, and one has rows that are due now."""
        self.restore()
        assert self.run(fearec, [*self.ingest("changing")[:-1], str(FIRST)]).code == 0
        self.keep("ingested")
        self._log("changing/a.parquet", FIRST, 3)
        self._log("changing/c.parquet", DAY, 4)
        return self.undisturbed("ingested", fearec, self.ingest("changing"))

    @cached_property
    def first_load(self) -> Undisturbed:
        """Ingest of many files into a new warehouse, in several commits."""
        self._many_logs("many", range(_FILES))
        return self.undisturbed(None, fearec_in_batches, self.ingest("many"))

    @cached_property
    def corrections(self) -> Undisturbed:
        """Ingest in several commits where most files have changed, events going to other files."""
        self._many_logs("corrected", range(_FILES))
        self.restore()
        assert self.run(fearec, self.ingest("corrected")).code == 0
        self.keep("many ingested")
        self._many_logs("corrected", [*range(3, _FILES), 0, 1, _FILES])
        return self.undisturbed("many ingested", fearec_in_batches, self.ingest("corrected"))

    @cached_property
    def merged_prepare(self) -> Undisturbed:
        """Prepare of a date whose events come to the histories of the night before."""
        self._log("daily/a.parquet", FIRST, 1)
        self.restore()
        for stage in ("ingest", "prepare"):
            arguments = [stage, "--config", self.settings("daily"), "--date", str(FIRST)]
            assert self.run(fearec, arguments).code == 0
        self._log("daily/a.parquet", FIRST, 3)
        self._log("daily/b.parquet", DAY, 2)
        assert self.run(fearec, self.ingest("daily")).code == 0
        self.keep("prepared")
        arguments = ["prepare", *self.ingest("daily")[1:]]
        return self.undisturbed("prepared", fearec_merging, arguments)

    @cached_property
    def spilling_ingest(self) -> Undisturbed:
        """Ingest of a large file that has changed, by which most of its rows are replaced."""
        self._log("large/a.parquet", FIRST, 1, _MANY_USERS)
        self.restore()
        assert self.run(fearec, self.ingest("large")).code == 0
        self.keep("large ingested")
        self._log("large/a.parquet", FIRST, 2, _MANY_USERS)
        return self.undisturbed("large ingested", fearec_spilling, self.spilling("ingest"))

    @cached_property
    def spilling_prepare(self) -> Undisturbed:
        """Prepare of many events from the beginning."""
        assert self.spilling_ingest
        self.keep("large to prepare")
        return self.undisturbed("large to prepare", fearec_spilling, self.spilling("prepare"))

    @cached_property
    def finished(self) -> str:
        """The state of a finished night."""
        assert self.night
        return "finished"

    @cached_property
    def night(self) -> Undisturbed:
        """A whole night; what it left is the state `finished`."""
        self.restore()
        if not self.small:
            ended = self.run(fearec, self.nightly(FIRST))
            assert ended.code == 0, ended
        self.keep("before")
        self._log("nightly/b.parquet", DAY, 2)
        night = self.undisturbed("before", fearec, self.nightly())
        self.keep("finished")
        return night

    @cached_property
    def publish(self) -> Undisturbed:
        """The last stage of the night, which starts from the state `unpublished`."""
        assert self.night
        self.restore(self.finished)
        self._unpublish()
        self.keep("unpublished")
        arguments = ["publish", "--config", self.settings(), "--date", str(DAY)]
        return self.undisturbed("unpublished", fearec, arguments)

    @cached_property
    def disturbed_night(self) -> Undisturbed:
        """The night that is killed and raced for: all of it, or in a small world its end."""
        if not self.small:
            return self.night
        assert self.publish
        return self.undisturbed("unpublished", fearec, self.nightly())

    @property
    def damaged_states(self) -> tuple[str, ...]:
        """The states whose files are damaged."""
        return (self.finished,) if self.small else (self.finished, self.unfinished)

    @cached_property
    def unfinished(self) -> str:
        """The state of a night that needs all its files again: from training on nothing is done."""
        assert self.night
        self.restore(self.finished)
        self._unpublish()
        for stage in STAGES[STAGES.index(Train) :]:
            (self.work / f"{stage.name}.json").unlink(missing_ok=True)
        return self.keep("unfinished")

    @cached_property
    def scoring(self) -> Undisturbed:
        """`fearec-score` of many users by the night's bundle, which is in the state `bundle`."""
        self._log("scored/a.parquet", DAY, 5, users=10 * USERS)
        self.restore()
        shutil.copytree(self.bundle, self.place / "bundle")
        self.keep("bundle")
        arguments = self.score(self.folder / "scored", self.place / "bundle", "--resume")
        return self.undisturbed("bundle", fearec_score, arguments)

    @cached_property
    def scored(self) -> str:
        """The state of a finished scoring."""
        assert self.scoring
        self.restore("bundle")
        assert self.run(fearec_score, self.scoring.arguments).code == 0
        return self.keep("scored")

    @cached_property
    def one_log(self) -> str:
        """The state of a warehouse that has one log file, which is in the folder `logs`."""
        self.restore()
        self._log("place/logs/a.parquet", FIRST, 6)
        assert self.run(fearec, self.ingest("logs")).code == 0
        return self.keep("one log")

    @cached_property
    def bundle(self) -> Path:
        """The night's bundle, as it was written."""
        assert self.night
        models = self.folder / "states" / self.finished / "warehouse" / "models"
        return next(models.glob(f"{DAY:%Y%m%d}-*"))

    def bundle_in_place(self) -> Path:
        """The night's bundle in the warehouse of a state that has been restored."""
        return self.warehouse / "models" / self.bundle.name

    def _unpublish(self) -> None:
        before = self.folder / "states" / "before" / "warehouse"
        for name in (RECOMMENDATIONS, RUNS):
            shutil.rmtree(self.warehouse / name)
            if (before / name).exists():
                shutil.copytree(before / name, self.warehouse / name)
        (self.warehouse / CHAMPION).unlink()
        if (before / CHAMPION).exists():
            shutil.copy2(before / CHAMPION, self.warehouse / CHAMPION)
        (self.work / f"{Publish.name}.json").unlink()

    def _many_logs(self, folder: str, seeds: Iterable[int]) -> None:
        """A folder of many logs, of which some have the same events."""
        for number, seed in enumerate(seeds):
            self._log(f"{folder}/{number:02}.parquet", FIRST, seed % 9, users=USERS // 8)

    def _log(self, name: str, day: date, seed: int, users: int = USERS) -> None:
        write_log(self.folder / name, day, seed, users)
