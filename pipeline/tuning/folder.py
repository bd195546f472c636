"""The folder of a search: whose files it holds, who is at work in it, and its study's errors."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import OptunaError
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import ConfigError, StorageError
from pipeline.storage.locks import exclusive_lock
from pipeline.tuning.outputs import BEST_FILE, PLOTS_FILE, TRIALS_FILE
from pipeline.tuning.study import STUDY_FILE

DATA = "data"  # the search's copy of what was prepared
RUNS = "trials"  # a folder of checkpoints a trial

_LOCK = ".lock"
_MADE = {f"{STUDY_FILE}-journal", DATA, RUNS, TRIALS_FILE, PLOTS_FILE, BEST_FILE}


def refuse_foreign(out: Path) -> None:
    """Whatever is written or replaced must be a search's.

    Raises:
        ConfigError: the folder holds anything else.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError("the output must be a folder", str(out), found="a file")
    names = {entry.name for entry in out.iterdir()} if out.exists() else set()
    names = {name.removeprefix(".").removesuffix(".tmp") for name in names} - {_LOCK[1:]}
    foreign = sorted(names - _MADE - {STUDY_FILE} if STUDY_FILE in names else names)
    if foreign:
        raise ConfigError(
            "the output folder holds files that are no search's",
            str(out),
            found=", ".join(foreign[:3]),
            remedy="Give another folder with --out.",
        )


def clear(out: Path) -> None:
    """Remove an earlier search."""
    # The study last: without it, the rest would be anybody's.
    for name in [*_MADE, STUDY_FILE]:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)


def alone_on(out: Path) -> AbstractContextManager[None]:
    """Hold the search's lock.

    Raises:
        BusyError: another process holds it.
    """
    return exclusive_lock(out / _LOCK, "another process is at work on this search", out)


@contextmanager
def quiet_optuna(out: Path) -> Iterator[None]:
    """Without Optuna's log lines, and with what its storage raises in one line.

    Raises:
        StorageError: the study cannot be read or written.
    """
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    except (SQLAlchemyError, OptunaError) as error:
        raise StorageError(
            "the study cannot be read or written",
            str(out / STUDY_FILE),
            found=" ".join(str(error.__cause__ or error).split()),
            remedy="Make room and run the same command to go on, or begin again with --overwrite.",
        ) from error
    finally:
        optuna.logging.set_verbosity(level)
