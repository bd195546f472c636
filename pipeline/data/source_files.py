"""Log files and what the warehouse knows of them: the Delta table `log_files`.

An entry vouches for a file's rows: it names the versions of `interactions` and `quarantine` that
hold them, so a table that lost its last commits, or was made anew, gets the rows again. That of a
forgotten file names those that are without its rows. Version 0.1 had a name and a stamp alone.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.config.sections import LogSettings
from pipeline.logs.log_content import footer_hash
from pipeline.logs.log_files import LogFile
from pipeline.logs.validation import IdTypes
from pipeline.results import Ingested
from pipeline.schema import (
    INTERACTIONS,
    ITEM_ID,
    LOG_FILES,
    LOG_FILES_SCHEMA,
    QUARANTINE,
    USER_ID,
)
from pipeline.storage.locations import RunLocations
from pipeline.warehouse.tables import (
    append,
    create_table,
    dataset_of,
    notes_since,
    open_table,
    read_rows,
    replace,
    table_id,
)

if TYPE_CHECKING:
    from deltalake import DeltaTable

Entry = dict[str, Any]  # a row of `log_files`


@dataclass(frozen=True)
class SourceFile:
    """A log file under the name that its rows have in the warehouse.

    Attributes:
        file: The file.
        name: The column `source_file` of its rows: the file's name below the folder that was first
            listed, or its whole location where another file has that name.
        stamp: The column `source_stamp`: the state of the file, and the settings it is read by.
        entry: Its row in `log_files`, of this state or an earlier one.
        is_known: Whether the tables hold its rows in this state, or it was forgotten in it.
    """

    file: LogFile
    name: str
    stamp: str
    entry: Entry | None
    is_known: bool

    @property
    def has_moved(self) -> bool:
        """Whether its entry has another location."""
        location = self.entry and self.entry["location"]
        return location is not None and location != self.file.location

    @property
    def may_repeat(self) -> bool:
        """Whether it is known, and may hold events that `interactions` has from other files."""
        return self.is_known and self.entry is not None and self.entry["n_not_kept"] != 0


class SourceFiles:
    """The listed log files, held against the entries of `log_files`.

    Args:
        files: The listed ones.
        logs: The settings that they are read by.
        log_files: The table of entries; None where there is none yet.
        holding: The tables of rows, `interactions` and `quarantine`; None where there is none yet.
    """

    def __init__(
        self,
        files: Sequence[LogFile],
        logs: LogSettings,
        log_files: "DeltaTable | None",
        holding: "Mapping[str, DeltaTable | None]",
    ) -> None:
        self._log_files = log_files
        entries = [] if log_files is None else read_rows(log_files).to_pylist()
        columns = dict.fromkeys(LOG_FILES_SCHEMA.names)
        self.entries: list[Entry] = [columns | entry for entry in entries]
        self._now = _versions({name: table for name, table in holding.items() if table})
        by_location: dict[str, list[Entry]] = {}
        by_name: dict[str, list[Entry]] = {}
        for entry in self.entries:
            by_name.setdefault(entry["source_file"], []).append(entry)
            if entry["location"]:
                by_location.setdefault(entry["location"], []).append(entry)
        self.files = [
            self._identified(file, source_stamp(file, logs), by_location, by_name) for file in files
        ]

    def _identified(
        self,
        file: LogFile,
        stamp: str,
        by_location: dict[str, list[Entry]],
        by_name: dict[str, list[Entry]],
    ) -> SourceFile:
        # Several where a link to the file was listed too, as earlier versions did.
        found = by_location.get(file.location, [])
        candidates = sorted(found, key=lambda entry: entry["source_file"] != file.name)[:1]
        candidates = candidates or by_name.get(file.name, [])
        if not found and any(entry["location"] for entry in candidates):
            # The same name below another folder: a copy that was moved, or another file.
            footer = footer_hash(file)
            candidates = [entry for entry in candidates if entry["footer"] == footer]
            if not candidates:
                return SourceFile(file, file.location, stamp, None, is_known=False)
        name = candidates[0]["source_file"] if candidates else file.name
        for entry in candidates:
            if entry["forgotten"] and entry["source_stamp"].split()[0] == file.stamp:
                return SourceFile(file, name, stamp, entry, is_known=True)
        same = [entry for entry in candidates if entry["source_stamp"] == stamp]
        known = next((entry for entry in same if self._vouches(entry)), None)
        earlier = next(iter(candidates), None)
        return SourceFile(file, name, stamp, known or earlier, is_known=known is not None)

    def _vouches(self, entry: Entry) -> bool:
        """Whether the tables are those that hold the file's rows."""
        now = self._now
        if "interactions_id" not in now:
            return False
        for name in (INTERACTIONS, QUARANTINE):
            key, version = f"{name}_id", f"{name}_version"
            if entry[key] is None and not entry["forgotten"]:  # of version 0.1
                continue
            if key not in now or now[key] != entry[key] or now[version] < entry[version]:
                return False
        return True

    @property
    def to_withdraw(self) -> list[Entry]:
        """The entries of forgotten files whose rows the tables may still have."""
        return [entry for entry in self.entries if entry["forgotten"] and not self._vouches(entry)]

    @property
    def recorded_version(self) -> int | None:
        """The last version of `interactions` that an entry names; None where none does."""
        there, entries = self._now.get("interactions_id"), self.entries
        of_it = (entry for entry in entries if there and entry["interactions_id"] == there)
        versions = [entry["interactions_version"] for entry in of_it]
        return max(versions, default=None)

    def write_entries(
        self,
        uri: str,
        holding: "Mapping[str, DeltaTable]",
        read: Mapping[str, Entry],
        run_date: date,
        withdrawn: Iterable[Entry],
        note: Mapping[str, Any] | None = None,
    ) -> None:
        """Note which files the tables hold now, and where files are that were moved.

        Args:
            uri: Of `log_files`.
            holding: The tables that hold the rows now.
            read: The counts of the files that were read, by name.
            run_date: The run date.
            withdrawn: The entries of forgotten files whose rows are gone now.
            note: Is kept with the commit.

        Raises:
            ConflictError: another run wrote to the table meanwhile; nothing was changed.
        """
        versions = _versions(holding)
        new = {entry["source_file"]: entry | versions for entry in withdrawn}
        for source in self.files:
            if source.name in read:
                before = (source.is_known and source.entry) or {"read_on": run_date}
                entry = _entry(source) | read[source.name] | {"read_on": before["read_on"]}
                new[source.name] = entry | versions
            elif source.has_moved and source.entry:
                entry = new.get(source.name, source.entry)
                new[source.name] = entry | {"location": source.file.location}
        self._write(uri, new, note)

    def forget(self, uri: str, names: Iterable[str], stamp: str | None = None) -> None:
        """Note that files are forgotten, as they are now; their rows are to be withdrawn.

        Args:
            uri: Of `log_files`.
            names: The files, of which each has an entry.
            stamp: The state in which they are forgotten, by default that which they have now.

        Raises:
            ConflictError: another run wrote to the table meanwhile; nothing was changed.
        """
        wanted = set(names)
        now = {each.name: _entry(each) for each in self.files if each.name in wanted}
        # Without a version of `quarantine` it vouches for nothing.
        noted: Entry = {"n_not_kept": 0, "quarantine_id": None, "forgotten": True}
        noted |= {"source_stamp": stamp} if stamp else {}
        new = {
            entry["source_file"]: entry | now.get(entry["source_file"], {}) | noted
            for entry in self.entries
            if entry["source_file"] in wanted
        }
        self._write(uri, new, None)

    def _write(self, uri: str, new: Mapping[str, Entry], note: Mapping[str, Any] | None) -> None:
        """Add entries by name, in the place of those of the same names."""
        if not new:
            return
        others = [entry for entry in self.entries if entry["source_file"] not in new]
        table = self._log_files or create_table(uri, LOG_FILES_SCHEMA)
        is_mended = len(others) < len(self.entries)
        rows = [*(others if is_mended else []), *new.values()]
        write = replace if is_mended else append
        write(table, pa.Table.from_pylist(rows, LOG_FILES_SCHEMA).to_reader(), note)


@dataclass(frozen=True)
class IngestTables:
    """The tables that ingest writes, opened once: it decides from these versions.

    Attributes:
        interactions: None where there is no such table yet.
        quarantine: Likewise.
        log_files: Likewise.
    """

    interactions: "DeltaTable | None"
    quarantine: "DeltaTable | None"
    log_files: "DeltaTable | None"

    @classmethod
    def of(cls, locations: RunLocations) -> "IngestTables":
        """Open them at their latest versions."""
        table = locations.warehouse.table
        return cls(*(open_table(table(name)) for name in (INTERACTIONS, QUARANTINE, LOG_FILES)))

    def sources(self, files: Sequence[LogFile], logs: LogSettings) -> SourceFiles:
        """The listed files, held against the entries; see `SourceFiles`."""
        holding = {INTERACTIONS: self.interactions, QUARANTINE: self.quarantine}
        return SourceFiles(files, logs, self.log_files, holding)

    @property
    def id_types(self) -> dict[str, IdTypes]:
        """The id types of `interactions`, by its path; empty where there is no such table."""
        if self.interactions is None:
            return {}
        columns = dataset_of(self.interactions).schema
        types = IdTypes(columns.field(USER_ID).type, columns.field(ITEM_ID).type)
        return {self.interactions.table_uri: types}

    def noted_results(self, run_date: date) -> list[tuple[Ingested, bool]]:
        """What the last ingest came to so far, if it is of the run date, and whether it ended."""
        notes = notes_since(self.log_files, self.log_files.version() - 1) if self.log_files else []
        mine = (note for note in notes if note["run_date"] == str(run_date))
        return [(Ingested(**note["done"]), note.get("ended", False)) for note in mine]


def _entry(source: SourceFile) -> Entry:
    return {
        "source_file": source.name,
        "source_stamp": source.stamp,
        "location": source.file.location,
        "footer": footer_hash(source.file),
    }


def _versions(holding: "Mapping[str, DeltaTable]") -> Entry:
    versions: Entry = {}
    for name, table in holding.items():
        versions |= {f"{name}_id": table_id(table), f"{name}_version": table.version()}
    return versions


def source_stamp(file: LogFile, logs: LogSettings) -> str:
    """The state of a file (size and time), and the settings it is read by."""
    reading: list[Any] = [logs.user_id, logs.item_id, logs.timestamp, logs.timestamp_unit]
    if logs.time_zone not in (None, "UTC"):  # version 0.1 knew no other
        reading.append(str(logs.time_zone))
    # Versions before these settings knew none of them.
    later = logs.optional | ({"keep": logs.keep} if logs.keep else {})
    return f"{file.stamp} {json.dumps([*reading, later] if later else reading)}"
