"""The engine's lock: proof of life."""

from __future__ import annotations

import pytest

from edgegen.errors import StorageError
from edgegen.jobs.enginelock import engine_lock, no_engine


def test_held_while_the_engine_lives(tmp_path):
    with no_engine(tmp_path) as is_free:
        assert is_free
    with engine_lock(tmp_path):
        with no_engine(tmp_path) as is_free:
            assert not is_free
        with (
            pytest.raises(StorageError, match="another engine works on this queue"),
            engine_lock(tmp_path, 0),
        ):
            pass
    with no_engine(tmp_path) as is_free:
        assert is_free


def test_no_engine_starts_while_its_orphans_are_collected(tmp_path):
    with (
        no_engine(tmp_path),
        no_engine(tmp_path) as is_free,
        pytest.raises(StorageError),
        engine_lock(tmp_path, timeout_s=0),
    ):
        pass
    assert is_free
    with engine_lock(tmp_path, timeout_s=0):
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="file"), engine_lock(tmp_path / "file" / "data"):
        pass
