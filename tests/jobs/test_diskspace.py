"""The reserve that keeps a disk from running full."""

from __future__ import annotations

import errno

import pytest

from edgegen.errors import DiskFull, StorageError
from edgegen.jobs.database import Database
from edgegen.jobs.diskspace import DiskReserve, free_bytes, is_disk_full
from edgegen.jobs.job import JobState
from edgegen.jobs.service import JobService
from edgegen.settings import GallerySettings
from tests.support import small_disk

from .conftest import request

MB = 1_000_000


def test_free_bytes_of_a_real_disk(tmp_path):
    with small_disk(tmp_path / "disk", 2) as folder:
        assert free_bytes(folder / "not/there/yet") == 2 * 1024 * 1024
        (folder / "file").write_bytes(b"x" * 1024 * 1024)
        assert free_bytes(folder) == 1024 * 1024


def test_below_the_reserve_new_jobs_are_refused_with_a_reason(queue, tmp_path):
    with small_disk(tmp_path / "disk", 4) as folder:
        reserve = DiskReserve([tmp_path, folder], GallerySettings(reserve_mb=2), lambda _: 0)
        service = JobService(queue, reserve=reserve)
        service.submit(request("a"))
        (folder / "hog").write_bytes(b"x" * 3 * MB)
        with pytest.raises(DiskFull, match=r"only 1 MB are free for .*/disk, and gallery.reserve_mb keeps 2"):
            service.submit(request("b"))
        assert not queue.knows("b")
        assert service.submit(request("a")).state == JobState.QUEUED, "accepted already: no word is broken"
        (folder / "hog").unlink()
        assert service.submit(request("b")).state == JobState.QUEUED


def test_old_pictures_go_first_only_where_configured(tmp_path):
    free = 5 * MB

    def make_room(missing: int) -> int:
        nonlocal free
        asked.append(missing)
        free += missing
        return missing

    asked: list[int] = []
    with pytest.raises(DiskFull):
        DiskReserve([tmp_path], GallerySettings(reserve_mb=8), make_room, lambda _: free).admit()
    assert asked == []
    DiskReserve([tmp_path], GallerySettings(reserve_mb=8, make_room=True), make_room, lambda _: free).admit()
    assert asked == [3 * MB]


def test_no_reserve_and_no_reading_refuse_nothing(tmp_path):
    DiskReserve([tmp_path], GallerySettings(reserve_mb=0), lambda _: 0, lambda _: 0).admit()
    DiskReserve([tmp_path], GallerySettings(), lambda _: 0, lambda _: None).admit()
    with pytest.raises(DiskFull, match="only 0 MB are free"):
        DiskReserve([tmp_path], GallerySettings(), lambda _: 0, lambda _: 0).admit()


def test_what_says_that_a_disk_is_full(tmp_path):
    wrapped = StorageError("cannot write")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert is_disk_full(wrapped)
    assert not is_disk_full(StorageError("permission denied"))
    with small_disk(tmp_path / "disk", 1) as folder:
        database = Database(folder / "edgegen.db")
        with pytest.raises(StorageError, match="the disk is full") as caught, database.transaction() as db:
            db.execute("CREATE TABLE hog AS SELECT zeroblob(3000000) AS x")
        assert is_disk_full(caught.value)
        database.close()
