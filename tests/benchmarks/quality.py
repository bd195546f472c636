"""Figures on real data, from the file to the table, by the product's own stages.

    .venv/bin/python tests/benchmarks/quality.py beauty PATH/Beauty.txt
    .venv/bin/python tests/benchmarks/quality.py lastfm PATH/LastFM.txt
    .venv/bin/python tests/benchmarks/quality.py ml-100k PATH/ml-100k.inter

Settings are sample_data/NAME.toml; `--set` overrides them. `--seeds 1 2 3` trains once per seed and
ends with means and standard deviations; `--validation` leaves the test unread. ml-100k may also be
RecBole's own split (.npz: `{train,valid,test}_{user,target}`, `train_seq` and the token lists): its
order of events of the same second is another than the file's. A run that was killed goes on.
"""

import argparse
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from machine import describe

from flows.console.night import print_stage
from pipeline.config.settings import load_settings
from pipeline.logs.imports.importer import import_logs
from pipeline.logs.imports.options import Format
from pipeline.runner.nightly import run_stage
from pipeline.runner.stages import CheckData, Evaluate, Ingest, Prepare, Train

ROOT = Path(__file__).parents[2]
FORMATS: dict[str, Format] = {".inter": "recbole", ".txt": "sequences"}
RUN_DATE = date(2001, 1, 1)  # after the last event of them all


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


def print_seeds(rows: Mapping[int, Mapping[str, float]]) -> None:
    """Print one row per seed, then mean and standard deviation."""
    names = list(next(iter(rows.values())))
    print(f"{'seed':>8}", *(f"{name:>13}" for name in names))
    table = {str(seed): list(row.values()) for seed, row in rows.items()}
    if len(rows) > 1:
        columns = list(zip(*table.values(), strict=True))
        table |= {"mean": [*map(mean, columns)], "st. dev.": [*map(stdev, columns)]}
    for name, row in table.items():
        print(f"{name:>8}", *(f"{value:13.4f}" for value in row))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=["beauty", "lastfm", "ml-100k"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="K=V")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020])
    parser.add_argument("--validation", action="store_true", help="leave the test unread")
    parser.add_argument("--work", type=Path, help="default: work/quality/NAME")
    options = parser.parse_args()
    work = options.work or Path("work/quality", options.name)
    work.mkdir(parents=True, exist_ok=True)
    logs, file = work / "logs", options.file
    if not logs.exists():
        if file.suffix == ".npz":
            file = recbole_split(file, work / "sequences.txt")
        import_logs(file, logs, FORMATS[file.suffix])
    print(describe("fearec", "torch"))
    rows: dict[int, dict[str, float]] = {}
    for seed in options.seeds:
        settings = load_settings(
            ROOT / "sample_data" / f"{options.name}.toml",
            [
                *options.overrides,
                f"train.seed={seed}",
                f"warehouse={work}/warehouse",
                f"work_dir={work}/work",
                f"logs.path={logs}",
                "checks.freshness.action=off",  # the events are of another century
            ],
        )
        for stage in (Ingest, Prepare, CheckData):
            run_stage(settings, RUN_DATE, stage)
        trained = run_stage(settings, RUN_DATE, Train)
        print_stage(trained)
        rows[seed] = {
            "minutes": trained.seconds / 60,
            "epoch": trained.result.best_epoch,
            "valid NDCG@10": trained.result.valid_ndcg_at_10 or 0.0,
        }
        if not options.validation:
            evaluated = run_stage(settings, RUN_DATE, Evaluate)
            print_stage(evaluated)
            rows[seed] |= {name: evaluated.result.model[name] for name in ("HR@10", "NDCG@10")}
    print_seeds(rows)


if __name__ == "__main__":
    main()
