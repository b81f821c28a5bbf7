"""Writing configuration files: whole or not at all, with mode, owner and what was there before."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgegen.config.store import KEPT, backups, config_lock, replace_config
from edgegen.errors import StorageError


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text("old")
    return path


def test_mode_and_owner_stay_and_the_old_text_is_kept(config):
    config.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(config, 1234, 2345)
    before = config.stat()
    backup = replace_config(config, "new")
    for path in (config, backup):
        now = path.stat()
        assert (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode)) == (before.st_uid, before.st_gid, 0o640)
    assert (config.read_text(), backup.read_text()) == ("new", "old")
    assert sorted(entry.name for entry in config.parent.iterdir()) == ["config.toml", "history"]


def test_history_is_numbered_and_bounded(config):
    for number in range(KEPT + 5):
        replace_config(config, f"text {number}")
    kept = backups(config)
    assert len(kept) == KEPT
    assert [path.name for path in kept][:: KEPT - 1] == ["config.toml.6", f"config.toml.{KEPT + 5}"]
    assert kept[-1].read_text() == f"text {KEPT + 3}"


def test_a_new_file_has_no_backup(tmp_path):
    assert replace_config(tmp_path / "config.toml", "new") is None
    assert backups(tmp_path / "config.toml") == []


def test_a_link_stays_a_link(config, tmp_path):
    link = tmp_path / "etc/config.toml"
    link.parent.mkdir()
    link.symlink_to(config)
    replace_config(link, "new")
    assert link.is_symlink()
    assert config.read_text() == "new"


def test_a_byte_order_mark_stays(config):
    config.write_bytes(b"\xef\xbb\xbfold")
    replace_config(config, "new")
    assert config.read_bytes() == b"\xef\xbb\xbfnew"


def test_what_cannot_be_written_leaves_all_as_it_was(config):
    config.unlink()
    config.mkdir()
    with pytest.raises(StorageError, match="cannot be read: Is a directory"):
        replace_config(config, "new")
    assert [entry.name for entry in config.parent.iterdir()] == ["config.toml"]


KILLED = """
import os, sys
from pathlib import Path
from edgegen.config import store

step = int(sys.argv[2])
seen = 0
def counted(function):
    def call(*args, **kwargs):
        global seen
        seen += 1
        if seen == step:
            os.kill(os.getpid(), 9)
        return function(*args, **kwargs)
    return call
for name in ("fsync", "open", "fchmod"):
    setattr(os, name, counted(getattr(os, name)))
Path.replace = counted(Path.replace)
store.replace_config(Path(sys.argv[1]), "new" * 1000)
"""


def test_killed_at_any_step_it_is_the_old_file_or_the_new_one(config):
    for step in range(1, 40):
        config.write_text("old")
        shutil.rmtree(config.parent / "history", ignore_errors=True)
        done = subprocess.run([sys.executable, "-c", KILLED, config, str(step)], check=False)
        assert config.read_text() in ("old", "new" * 1000)
        if done.returncode == 0:
            break
    assert step > 11
    assert config.read_text() == "new" * 1000


def test_one_change_at_a_time(tmp_path):
    code = """
import sys
from pathlib import Path
from edgegen.config.store import config_lock
with config_lock(Path(sys.argv[1])):
    print("in", flush=True)
"""
    with config_lock(tmp_path):
        other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
        time.sleep(0.5)
        os.set_blocking(other.stdout.fileno(), False)
        assert not other.stdout.read()
    os.set_blocking(other.stdout.fileno(), True)
    assert other.communicate(timeout=60)[0] == b"in\n"
    assert list(tmp_path.iterdir()) == []
