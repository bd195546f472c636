"""Figures on real data, from the file to the table, by the product's own stages.

    .venv/bin/python tests/benchmarks/quality.py beauty PATH/Beauty.txt
    .venv/bin/python tests/benchmarks/quality.py lastfm PATH/LastFM.txt
    .venv/bin/python tests/benchmarks/quality.py ml-100k PATH/ml-100k.inter
    .venv/bin/python tests/benchmarks/quality.py ml-100k-nights PATH/ml-100k.inter

Settings are sample_data/NAME.toml; `--set` overrides them. `--seeds 1 2 3` trains once per seed and
ends with means and standard deviations; `--validation` leaves the test unread. ml-100k may also be
RecBole's own split (.npz: `{train,valid,test}_{user,target}`, `train_seq` and the token lists): its
order of events of the same second is another than the file's. A run that was killed goes on.

ml-100k-nights replays the last days: a whole night of each, from the champion of the night before
with a quarter of the epochs, and at the end the last night again from no earlier model.
"""

import argparse
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from machine import describe

from flows.console.night import print_stage
from pipeline.config.settings import Settings, load_settings
from pipeline.logs.imports.importer import import_logs
from pipeline.logs.imports.options import Format
from pipeline.results import Evaluated, Trained
from pipeline.runner.cache import StageRecord
from pipeline.runner.nightly import nightly, run_stage
from pipeline.runner.stages import CheckData, Evaluate, Ingest, Prepare, Train

ROOT = Path(__file__).parents[2]
FORMATS: dict[str, Format] = {".inter": "recbole", ".txt": "sequences"}
RUN_DATE = date(2001, 1, 1)  # after the last event of them all
NIGHTS, NIGHT_EPOCHS = 10, 5


def recbole_split(path: Path, out: Path) -> Path:
    """A split as the file of sequences that it was made from."""
    split = np.load(path)
    first = split["train_len"] == 1
    user = [split["train_user"][first], *(split[f"{part}_user"] for part in PARTS)]
    item = [split["train_seq"][first, 0], *(split[f"{part}_target"] for part in PARTS)]
    length = [np.zeros(first.sum()), split["train_len"], *(split[f"{p}_len"] for p in PARTS[1:])]
    # A window is at most L long, so validation and test are put last by their kind.
    kind = np.repeat(np.arange(4), [len(each) for each in user])
    users, items = np.concatenate(user), split["item_token"][np.concatenate(item)]
    order = np.lexsort((np.arange(len(users)), np.concatenate(length) * (kind < 2), kind, users))
    starts = np.flatnonzero(np.diff(users[order], prepend=-1))
    rows = zip(users[order][starts], np.split(items[order], starts[1:]), strict=True)
    lines = [" ".join([split["user_token"][user], *tokens]) for user, tokens in rows]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return out


PARTS = ("train", "valid", "test")


def print_rows(name: str, rows: Mapping[str, Mapping[str, float]], *, mean_too: bool) -> None:
    """Print a table, with mean and standard deviation of its rows if wanted."""
    names = list(next(iter(rows.values())))
    width = max(len(row) for row in [name, *rows, "st. dev."])
    print(f"{name:>{width}}", *(f"{name:>13}" for name in names))
    table = {row: list(values.values()) for row, values in rows.items()}
    if mean_too and len(rows) > 1:
        columns = list(zip(*table.values(), strict=True))
        table |= {"mean": [*map(mean, columns)], "st. dev.": [*map(stdev, columns)]}
    for name, row in table.items():
        print(f"{name:>{width}}", *(f"{value:13.4f}" for value in row))


def settings_of(options: argparse.Namespace, work: Path, *more: str) -> Settings:
    """The data set's settings, in a folder of this benchmark."""
    return load_settings(
        ROOT / "sample_data" / f"{options.name}.toml",
        [
            *options.overrides,
            *more,
            f"warehouse={work}/warehouse",
            f"work_dir={work}/work",
            f"logs.path={options.work}/logs",
            "checks.freshness.action=off",  # the events are of another century
        ],
    )


def row_of(trained: StageRecord[Trained]) -> dict[str, float]:
    """What a table shows of a training."""
    return {
        "minutes": trained.seconds / 60,
        "epoch": trained.result.best_epoch,
        "valid NDCG@10": trained.result.valid_ndcg_at_10 or 0.0,
    }


def tested(evaluated: StageRecord[Evaluated]) -> dict[str, float]:
    """What a table shows of an evaluation."""
    return {name: evaluated.result.model[name] for name in ("HR@10", "NDCG@10")}


def train_seeds(options: argparse.Namespace) -> None:
    """Train and evaluate once per seed."""
    rows: dict[str, dict[str, float]] = {}
    for seed in options.seeds:
        settings = settings_of(options, options.work, f"train.seed={seed}")
        for stage in (Ingest, Prepare, CheckData):
            run_stage(settings, RUN_DATE, stage)
        trained = run_stage(settings, RUN_DATE, Train)
        print_stage(trained)
        rows[str(seed)] = row_of(trained)
        if not options.validation:
            evaluated = run_stage(settings, RUN_DATE, Evaluate)
            print_stage(evaluated)
            rows[str(seed)] |= tested(evaluated)
    print_rows("seed", rows, mean_too=True)


def night_row(options: argparse.Namespace, folder: str, day: date, *more: str) -> dict[str, float]:
    """Run a night, in a warehouse of this name; its row of the table."""
    results = nightly(settings_of(options, options.work / folder, *more), day).results
    trained, evaluated = results.get(Train), results.get(Evaluate)
    assert trained
    assert evaluated
    print_stage(trained)
    print_stage(evaluated)
    return row_of(trained) | tested(evaluated)


def replay_nights(options: argparse.Namespace) -> None:
    """Replay the last days, a night each, then the last once more from no earlier model."""
    times = pq.read_table(options.work / "logs", columns=["timestamp"])["timestamp"]
    last = pc.max(times).as_py().date()
    first, *nights = (last - timedelta(days=NIGHTS - n) for n in range(NIGHTS + 1))
    short = f"train.epochs={NIGHT_EPOCHS}"
    rows = {
        f"{first}, anew": night_row(options, "nights", first),
        **{str(day): night_row(options, "nights", day, short) for day in nights},
        f"{last}, anew": night_row(options, "scratch", last),
    }
    print_rows("night", rows, mean_too=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=["beauty", "lastfm", "ml-100k", "ml-100k-nights"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="K=V")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020])
    parser.add_argument("--validation", action="store_true", help="leave the test unread")
    parser.add_argument("--work", type=Path, help="default: work/quality/NAME")
    options = parser.parse_args()
    if options.name == "ml-100k-nights" and (
        options.validation or len(options.seeds) > 1 or options.file.suffix == ".npz"
    ):
        parser.error("ml-100k-nights has times, a test and one seed: give it ml-100k.inter alone")
    if not options.file.exists():
        parser.error(f"no such file: {options.file}")
    options.work = options.work or Path("work/quality", options.name)
    options.work.mkdir(parents=True, exist_ok=True)
    file, logs = options.file, options.work / "logs"
    if not logs.exists():
        if file.suffix == ".npz":
            file = recbole_split(file, options.work / "sequences.txt")
        import_logs(file, logs, FORMATS[file.suffix])
    print(describe("fearec", "torch"))
    if options.name == "ml-100k-nights":
        replay_nights(options)
    else:
        train_seeds(options)


if __name__ == "__main__":
    main()
