"""What the first of several workers gives to the driver: files of the training, log records."""

import logging
from dataclasses import dataclass
from pathlib import Path

from pipeline.storage.atomic_files import replace_bytes


@dataclass(frozen=True)
class SentFile:
    """A file of a training.

    Attributes:
        attempt: The number of the worker's gang.
        name: Where it belongs, below the training's folder, with `/`.
        content: The whole content.
    """

    attempt: int
    name: str
    content: bytes


class DriverDesk:
    """Runs in a process on the driver's node.

    Args:
        folder: The training's folder, where a training on this machine has its files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._attempt = 0
        self._records: list[logging.LogRecord] = []

    def __call__(
        self, delivery: SentFile | logging.LogRecord | None = None
    ) -> list[logging.LogRecord]:
        """Take a delivery; without one, give out the log records that have come.

        A worker that could not be reached, and so not ended, may still send files. They count for
        nothing once a later gang has sent any.
        """
        if delivery is None:
            records, self._records = self._records, []
            return records
        if isinstance(delivery, logging.LogRecord):
            self._records.append(delivery)
        elif delivery.attempt >= self._attempt:
            self._attempt = delivery.attempt
            path = self._folder / delivery.name
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_bytes(path, delivery.content)
        return []
