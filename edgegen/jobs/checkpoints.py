"""Where a running job stands, on disk: a job whose engine died goes on there and not from its start.

One file a job in the data folder. A card wears out by writes, so a file is written at most every so many
seconds, and a job that is done sooner writes none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from ..pack import replace_file

log = logging.getLogger(__name__)

SUFFIX = ".checkpoint"
MAX_BYTES = 64 << 20


class Checkpoints:
    """Files in `folder`. No method raises for a disk that refuses: the job goes on, unprotected.

    Args:
        every_s: least seconds between two writes of a job, counted from its start; 0: none are written or
            read.
    """

    def __init__(self, folder: Path, every_s: float, monotonic: Callable[[], float] = time.monotonic):
        self.folder = folder
        self._every_s = every_s
        self._monotonic = monotonic
        self._at = 0.0

    def begin(self, job_id: str) -> bytes | None:
        """A job starts: what an earlier attempt left, None when it left nothing."""
        self._at = self._monotonic()
        if not self._every_s:
            return None
        try:
            with self._path(job_id).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as err:
            log.warning("job %s starts anew, its checkpoint cannot be read: %s", job_id, err)
            return None
        return data if len(data) <= MAX_BYTES else None

    def offer(self, job_id: str, make: Callable[[], bytes]) -> None:
        """The job reached a step: write when it is time."""
        if self._every_s and self._monotonic() - self._at >= self._every_s:
            self.write(job_id, make)

    def write(self, job_id: str, make: Callable[[], bytes]) -> None:
        """Write now: the job is given back. Durable when this returns."""
        if not self._every_s:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            data = make()
            if len(data) <= MAX_BYTES:
                replace_file(self._path(job_id), data)
        except OSError as err:
            log.warning("job %s has no new checkpoint: %s", job_id, err)
        self._at = self._monotonic()

    def remove(self, job_id: str) -> None:
        """The job has ended."""
        self._unlink(self._path(job_id))

    def sweep(self, is_wanted: Callable[[str], bool]) -> int:
        """Remove the files of jobs that nobody wants, and what is half-written; how many went."""
        try:
            found = list(self.folder.iterdir())
        except OSError:
            return 0
        gone = [path for path in found if not (self._every_s and self._is_wanted(path, is_wanted))]
        for path in gone:
            self._unlink(path)
        return len(gone)

    def _is_wanted(self, path: Path, is_wanted: Callable[[str], bool]) -> bool:
        return path.suffix == SUFFIX and is_wanted(path.stem)

    def _path(self, job_id: str) -> Path:
        return self.folder / f"{job_id}{SUFFIX}"

    def _unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as err:
            log.warning("%s: cannot be removed: %s", path, err)
