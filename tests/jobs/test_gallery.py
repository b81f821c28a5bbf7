"""The gallery on a real folder: names, retention, re-index, and bytes to publish."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgegen.errors import DiskFull, StorageError
from edgegen.jobs.gallery import Gallery
from edgegen.pack import replace_file
from edgegen.settings import GallerySettings
from tests.support import small_disk

DAY_S = 86_400
IN_2026 = 1_780_000_000.0


def saver(size: int = 10):
    return lambda path: path.write_bytes(b"x" * size)


def durable_saver(size: int):
    return lambda path: replace_file(path, b"x" * size)


@pytest.fixture
def make(tmp_path, queue, clock):
    def make(**settings) -> Gallery:
        return Gallery(tmp_path / "gallery", queue.database, GallerySettings(**settings), clock)

    return make


def test_names_do_not_rely_on_the_clock(make, clock):
    gallery = make()
    first = gallery.store("a", saver())
    clock.seconds = 0.0  # the battery is gone
    again = gallery.store("a", saver())
    other = gallery.store("..", saver())
    assert [p.name for p in (first, again, other)] == [
        "19700112-000001-a.png",
        "19700101-000002-a.png",
        "19700101-000003-...png",
    ]
    assert gallery.names() == [other.name, again.name, first.name]
    assert gallery.path(first.name) == first


def test_a_name_on_disk_is_never_given_again(make, queue):
    gallery = make()
    path = gallery.store("a", saver())
    with queue.database.transaction() as db:
        db.execute("DELETE FROM pictures")
    assert gallery.store("a", saver()) != path


def test_the_oldest_go_by_count(make):
    gallery = make(max_pictures=2)
    paths = [gallery.store(f"{number}", saver()) for number in range(4)]
    assert [p.exists() for p in paths] == [False, False, True, True]
    assert gallery.names() == [paths[3].name, paths[2].name]


def test_the_oldest_go_by_size_but_the_newest_stays(make):
    gallery = make(max_mb=1)
    small = gallery.store("a", saver(400_000))
    kept = gallery.store("b", saver(500_000))
    assert small.exists()
    third = gallery.store("c", saver(400_000))
    assert not small.exists()
    assert kept.exists()
    huge = gallery.store("d", saver(2_000_000))
    assert gallery.names() == [huge.name]
    assert not third.exists()


def test_the_oldest_go_by_age(make, clock):
    gallery = make(max_days=10)
    unset = gallery.store("unset", saver())  # the clock stands in 1970: its age is unknown
    clock.seconds = IN_2026
    old = gallery.store("old", saver())
    clock.seconds += 8 * DAY_S
    young = gallery.store("young", saver())
    clock.seconds += 5 * DAY_S
    assert gallery.apply_retention() == 1
    assert [p.exists() for p in (unset, old, young)] == [True, False, True]
    clock.seconds = 0.0
    assert gallery.apply_retention() == 0, "a clock that lost its time makes nothing old"
    clock.seconds = IN_2026 + 1000 * DAY_S
    assert gallery.apply_retention() == 0, "the newest stays, however old"


def test_making_room_takes_the_oldest_and_never_the_newest(make):
    gallery = make()
    paths = [gallery.store(f"{number}", saver(1000)) for number in range(4)]
    assert gallery.make_room(1500) == 2000
    assert [p.exists() for p in paths] == [False, False, True, True]
    assert gallery.make_room(10**9) == 1000
    assert gallery.names() == [paths[3].name]
    assert gallery.make_room(1) == 0


def test_a_full_disk_leaves_nothing_half_written(make, tmp_path):
    with small_disk(tmp_path / "gallery", 1) as folder:
        gallery = make()
        gallery.store("a", durable_saver(600_000))
        with pytest.raises(DiskFull, match="the disk is full: free some space, or set gallery"):
            gallery.store("b", durable_saver(600_000))
        with pytest.raises(DiskFull):
            gallery.store("c", saver(600_000))
        assert [p.name[-6:] for p in folder.iterdir()] == ["-a.png"]
        assert len(gallery.names()) == 1
        with pytest.raises(DiskFull):
            gallery.write_publish_copy(gallery.names()[0], b"x" * 600_000, ".webp")
        assert list((folder / ".publish").iterdir()) == []


def test_on_a_full_disk_the_oldest_make_room(make, tmp_path, caplog):
    with small_disk(tmp_path / "gallery", 1) as folder:
        gallery = make(make_room=True)
        for job_id in ("a", "b"):
            gallery.store(job_id, durable_saver(400_000))
        kept = gallery.store("c", durable_saver(400_000))
        assert gallery.names()[0] == kept.name
        assert not list(folder.glob("*-a.png"))
        assert "the disk is full: the 1 oldest pictures go" in caplog.text
        with pytest.raises(DiskFull):
            gallery.store("huge", durable_saver(2_000_000))


def test_a_row_that_cannot_be_written_takes_its_file_back(make, queue):
    gallery = make()
    with queue.database.transaction() as db:
        db.execute("CREATE TRIGGER no BEFORE INSERT ON pictures BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(StorageError):
        gallery.store("a", saver())
    assert list(gallery.folder.iterdir()) == []


def test_sweeping_removes_what_a_power_cut_left_half_written(make):
    gallery = make()
    kept = gallery.store("a", saver())
    gallery.write_publish_copy(kept.name, b"webp", ".webp")
    (gallery.folder / ".20260101-000002-b.png.x7_k2").write_bytes(b"half")
    (gallery.folder / ".publish/20260101-000002-b.webp.part").write_bytes(b"half")
    (gallery.folder / ".hidden").write_bytes(b"somebody else's")
    assert gallery.sweep() == 2
    left = {p.name for p in (*gallery.folder.iterdir(), *(gallery.folder / ".publish").iterdir())}
    assert left == {kept.name, f"{kept.stem}.webp", ".hidden", ".publish"}
    assert make().sweep() == 0


def test_reindex_mends_what_a_power_cut_left(make):
    gallery = make()
    lost = gallery.store("a", saver())
    lost.unlink()
    (gallery.folder / "20260101-000007-b.webp").write_bytes(b"12345")
    (gallery.folder / "holiday.png").write_bytes(b"not ours")
    (gallery.folder / "20260101-000008-c.png.part").write_bytes(b"half")
    assert gallery.reindex() == (1, 1)
    assert gallery.names() == ["20260101-000007-b.webp"]
    assert gallery.store("d", saver()).name.endswith("-000008-d.png")
    assert gallery.reindex() == (0, 0)


def test_reindex_of_nothing(make):
    assert make().reindex() == (0, 0)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "x.png", "20260101-000001-a/b.png"])
def test_names_that_are_not_ours(make, name):
    with pytest.raises(StorageError, match="no picture of the gallery"):
        make().path(name)


def test_publishable_prefers_the_prepared_copy(make):
    gallery = make()
    name = gallery.store("a", saver(500)).name
    assert gallery.publishable(name, 1000).content_type == "image/png"
    assert gallery.publishable(name, 100) is None
    gallery.write_publish_copy(name, b"webp", ".webp")
    found = gallery.publishable(name, 100)
    assert (found.name, found.data, found.content_type) == (name, b"webp", "image/webp")
    (gallery.folder / name).unlink()
    assert gallery.publishable(name, 100) == found


def test_only_the_newest_copies_are_kept(make):
    gallery = make()
    names = [gallery.store(f"{number}", saver(5)).name for number in range(20)]
    for name in names:
        gallery.write_publish_copy(name, b"w", ".webp")
    copies = sorted(p.stem for p in (gallery.folder / ".publish").iterdir())
    assert copies == [Path(name).stem for name in names[4:]]
    assert gallery.reindex() == (0, 0)


def test_a_folder_that_cannot_be_made(make, tmp_path):
    (tmp_path / "gallery").write_text("in the way")
    with pytest.raises(StorageError, match=r"gallery.*check space and permissions"):
        make().store("a", saver())
