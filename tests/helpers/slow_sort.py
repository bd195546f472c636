"""A worker that sorts slowly and notes its process, for the tests on a Ray cluster."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.ray_sort import RangeSorter


@dataclass(frozen=True)
class SlowSorter:
    """Notes each task in a folder, as a file `PID-FIRST USER`, and waits a second."""

    sorter: RangeSorter
    folder: Path

    def __call__(self, task: Any, progress: Any) -> Any:
        (self.folder / f"{os.getpid()}-{task.users.begin}").touch()
        time.sleep(1)
        return self.sorter(task, progress)


@dataclass(frozen=True)
class MakeSlowSorter:
    """Takes the place of `RangeSorter`."""

    folder: Path

    def __call__(self, *given: Any) -> SlowSorter:
        return SlowSorter(RangeSorter(*given), self.folder)
