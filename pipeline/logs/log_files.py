"""The files of an interaction log, found by paths and globs."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.errors import InputError, raised_as
from pipeline.logs.text_files import (
    ENDINGS,
    text_format,
)
from pipeline.storage.credentials import check_no_credentials
from pipeline.storage.folders import open_filesystem, resolved
from pipeline.storage.local_files import files_below

# As in Spark: names with a dot, or an underscore unless they are a partition's (_dt=2026-06-01).
_HIDDEN = re.compile(r"(^|/)(\.|_[^/=]*(/|$))")
# What lies beside the Parquet files of a table of Delta, Hudi or Iceberg.
_TABLE = re.compile(r"(^|.*/)(_delta_log|\.hoodie|metadata/[^/]*\.metadata\.json)(/.*)?")


@dataclass(frozen=True, order=True)
class LogFile:
    """One file of a log."""

    path: str  # in its filesystem
    name: str  # relative to the listed folder
    size: int  # bytes
    modified: int  # nanoseconds since the epoch; 0 where the store does not say
    filesystem: pafs.FileSystem = field(compare=False, repr=False)

    @property
    def stamp(self) -> str:
        """Size and modification time, which change when the file does."""
        return f"{self.size}-{self.modified}"

    @property
    def format(self) -> str:
        """What it is by its ending: ``CSV``, ``JSON lines`` or else ``Parquet``."""
        return text_format(self.path) or "Parquet"

    @property
    def is_link(self) -> bool:
        """Whether it is a link, or lies in one below the listed folder."""
        return not f"/{self.location}".endswith(f"/{self.name}")

    @cached_property
    def location(self) -> str:
        """The absolute path with symbolic links resolved, or the URI."""
        if isinstance(self.filesystem, pafs.LocalFileSystem):
            return resolved(self.filesystem, self.path)
        return f"{self.filesystem.type_name}://{self.path}"


def list_log_files(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> list[LogFile]:
    """The log files under one or more paths, each once, sorted by path.

    A link to a file that is listed too, or a second link to one, is passed over.

    A path is a file, a folder tree or a glob (``*``, ``?``, ``**/``), local or on ``s3://``,
    ``gs://`` or ``abfs://``. In folders and globs only ``*.parquet`` files and those
    of `text_files` count, and names
    that begin with a dot or an underscore are skipped, but for partitions such as
    ``_dt=2026-06-01``.

    Raises:
        InputError: a path does not exist, cannot be listed, has no log file, or lies in a table
            of Delta, Hudi or Iceberg or holds one: of its files some may be deleted.
    """
    several = [paths] if isinstance(paths, str | os.PathLike) else paths
    found = {file.path: file for path in several for file in _list(os.fspath(path))}
    links_first = sorted(found.values(), key=lambda file: (file.is_link, file), reverse=True)
    return sorted({file.location: file for file in links_first}.values())


def would_list(path: str, filesystem: pafs.FileSystem, file: str) -> bool:
    """Whether `list_log_files` would list a file under a path if the file existed.

    Args:
        path: As for `list_log_files`.
        filesystem: The file's Arrow file system.
        file: Its absolute path there.
    """
    listed = _parse(path)
    if not listed.filesystem.equals(filesystem):
        return False
    try:
        name = PurePosixPath(file).relative_to(resolved(filesystem, listed.root))
    except ValueError:
        return False
    return _matches(str(name), listed.pattern)


def location_regex(path: str) -> re.Pattern[str]:
    """A regular expression of the locations of the files that a path or glob stands for.

    Args:
        path: As for `list_log_files`; the files need not be there any more.
    """
    filesystem, root, pattern = _parse(path)
    root = resolved(filesystem, root)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        root = f"{filesystem.type_name}://{root}"
    return re.compile(f"{re.escape(root)}(?:/(?:{pattern.pattern}))?")


class _Listing(NamedTuple):
    filesystem: pafs.FileSystem
    root: str
    pattern: re.Pattern[str]  # of names relative to the root


def _parse(path: str) -> _Listing:
    """Split a path or glob into the folder to list and the pattern of names below it."""
    check_no_credentials(path)  # here, because a query would be taken for a wildcard
    wildcard = re.search(r"[*?]", path)
    end = path.rfind("/", 0, wildcard.start()) + 1 if wildcard else len(path)
    filesystem, root = open_filesystem(path[:end])
    return _Listing(filesystem, root, glob_regex(path[end:] or "**/*"))


def _matches(name: str, pattern: re.Pattern[str]) -> bool:
    is_log = name.lower().endswith(".parquet") or text_format(name) is not None
    return is_log and not _HIDDEN.search(name) and pattern.fullmatch(name) is not None


def _list(path: str) -> list[LogFile]:
    if not path:  # from an unset shell variable; it must not mean the current folder
        raise InputError("an empty path", expected="a file, a folder or a glob")
    with raised_as(InputError, (OSError, pa.ArrowException), "cannot be listed", path):
        filesystem, root, pattern = _parse(path)
        top = filesystem.get_file_info(root)
        _check_no_table(path, filesystem, root)
        if top.is_file:
            return [_log_file(top, PurePosixPath(root).name, filesystem)]
        if top.type == pafs.FileType.NotFound:
            remedy = "Check the path; a night's is logs.path, in the settings that --config names."
            raise InputError("no such file or folder", path, remedy=remedy)
        below = _files_below(filesystem, root)
    for file in below:
        if _TABLE.fullmatch(file.name):
            raise _is_table(path, file.name)
    files = [file for file in below if _matches(file.name, pattern)]
    if not files:
        raise InputError(
            "no log files",
            path,
            expected=f"*.parquet, {ENDINGS}, in folders at any depth",
            found=f"{len(below)} other files",
        )
    return files


def _check_no_table(path: str, filesystem: pafs.FileSystem, root: str) -> None:
    """Check that a path is not below a table's root."""
    parents = PurePosixPath(resolved(filesystem, root)).parents
    names = [str(parent / name) for parent in parents for name in ("_delta_log", ".hoodie")]
    with suppress(OSError):  # of folders that we may not look into
        for info in filesystem.get_file_info(names):
            if info.type == pafs.FileType.Directory:
                raise _is_table(path, info.path)


def _is_table(path: str, found: str) -> InputError:
    return InputError(
        "a table, of whose Parquet files some may hold deleted rows",
        path,
        expected="log files alone",
        found=found,
        remedy="Write the table's rows to a folder of their own, and give that.",
    )


def _files_below(filesystem: pafs.FileSystem, root: str) -> list[LogFile]:
    """Every file in a folder tree; a broken link is one that cannot be read, not a missing one."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        return [
            LogFile(str(PurePosixPath(root, name)), name, size, modified, filesystem)
            for name, size, modified in files_below(root)
        ]
    below = filesystem.get_file_info(pafs.FileSelector(root, recursive=True))
    return [
        _log_file(info, str(PurePosixPath(info.path).relative_to(root)), filesystem)
        for info in below
        if info.is_file
    ]


def glob_regex(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression, which also matches everything below a folder it matches."""
    parts = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    split = re.split(r"(\*\*/|\*|\?)", pattern)
    return re.compile("".join(parts.get(part, re.escape(part)) for part in split) + "(?:/.*)?")


def _log_file(info: pafs.FileInfo, name: str, filesystem: pafs.FileSystem) -> LogFile:
    path = str(PurePosixPath(info.path))
    return LogFile(path, name, info.size or 0, info.mtime_ns or 0, filesystem)
