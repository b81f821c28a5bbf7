"""The gallery on a real folder: names, retention, re-index, and bytes to publish."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgegen.errors import StorageError
from edgegen.jobs.gallery import Gallery
from edgegen.settings import GallerySettings


def saver(size: int = 10):
    return lambda path: path.write_bytes(b"x" * size)


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
