"""The doctor's judgement of this machine."""

from pathlib import Path

import pytest

from edgegen.cli import checks
from edgegen.cli.machine import Roots
from edgegen.jobs.database import Database


@pytest.fixture
def roots(tmp_path):
    (tmp_path / "proc").mkdir()
    return Roots(proc=tmp_path / "proc", sys=tmp_path / "sys")


@pytest.mark.parametrize(("needs", "state"), [(0, "ok"), (300, "ok"), (600, "warn"), (2000, "bad")])
def test_memory_against_the_pack(roots, needs, state):
    (roots.proc / "meminfo").write_text("MemTotal: 1024000 kB\nMemAvailable: 512000 kB\n")
    found = checks.check_memory(roots, needs)
    assert found.state == state
    assert bool(found.advice) == (state != "ok")


def test_unknown_memory_is_a_warning(roots):
    assert checks.check_memory(roots, 100).state == "warn"


@pytest.mark.parametrize(("milli", "state"), [("45000", "ok"), ("82000", "warn"), ("93000", "bad")])
def test_temperature(roots, milli, state):
    zone = roots.sys / "class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text(milli)
    assert checks.check_temperature(roots).state == state


@pytest.mark.parametrize(("flags", "state"), [("0", "ok"), ("1", "bad"), ("4", "warn"), ("10000", "warn")])
def test_throttling(roots, flags, state):
    path = roots.sys / "devices/platform/soc/soc:firmware/get_throttled"
    path.parent.mkdir(parents=True)
    path.write_text(flags)
    found = checks.check_throttling(roots)
    assert found.state == state
    assert ("supply" in found.advice) == (flags in ("1", "10000"))


@pytest.mark.parametrize(
    ("now", "synchronised", "state"),
    [(0.0, True, "warn"), (1.9e9, False, "warn"), (1.9e9, True, "ok"), (1.9e9, None, "ok")],
)
def test_clock(now, synchronised, state):
    assert checks.check_clock(now, synchronised).state == state


def test_writable_folder_is_left_as_it_was(tmp_path):
    assert checks.check_writable("data_dir", tmp_path).state == "ok"
    assert checks.check_writable("data_dir", tmp_path / "new/folder").state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        found = checks.check_writable("gallery", folder)
        assert (found.state, bool(found.advice)) == ("bad", True)


def test_folder_that_nobody_may_write_into():
    assert checks.check_writable("gallery", Path("/proc")).state == "bad"  # not even root


def test_disk_of_this_machine(tmp_path):
    assert "MB free" in checks.check_disk(tmp_path).message
    refused = checks.check_disk(tmp_path, reserve_mb=10**9)
    assert refused.state == "bad"
    assert "new jobs are refused under gallery.reserve_mb, 1000000000" in refused.message


def test_packages_of_this_environment():
    found = checks.check_packages()
    assert "onnxruntime 1." in found.message
    assert "missing" not in found.message


def test_the_database_is_looked_at_and_left_alone(tmp_path):
    path = tmp_path / "edgegen.db"
    assert checks.check_database(path).message == f"{path} will be made"
    Database(path).close()
    assert checks.check_database(path).state == "ok"
    path.write_bytes(b"no database at all " * 100)
    found = checks.check_database(path)
    assert found.state == "bad"
    assert "start the daemon" in found.advice
    assert path.read_bytes().startswith(b"no database"), "looking mends nothing"
    Database(path).close()
    found = checks.check_database(path)
    assert found.state == "warn"
    assert "the damaged file is kept as edgegen.db.damaged-" in found.message


def test_a_database_that_cannot_be_opened_is_not_called_damaged(tmp_path):
    (tmp_path / "edgegen.db").mkdir()
    found = checks.check_database(tmp_path / "edgegen.db")
    assert found.state == "warn"
    assert "read it and its folder" in found.advice
