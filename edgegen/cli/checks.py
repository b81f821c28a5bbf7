"""What `edgegen doctor` looks at on the machine itself: each check returns what it saw and what to do."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from . import machine
from .machine import Roots

NEEDED = ("onnxruntime", "numpy", "pillow", "pydantic", "click", "paho-mqtt")
EARLIEST_S = 1_735_689_600  # 2025-01-01: a clock before this release is a clock that was never set
HOT_C, TOO_HOT_C = 80.0, 90.0  # a Raspberry Pi slows down at 80 to 85 °C, most PCs at 95 to 100 °C
LITTLE_DISK_MB, NO_DISK_MB = 500, 50


@dataclass(frozen=True)
class Check:
    """One finding. `advice` says what to do next, and is empty when all is well."""

    name: str
    state: Literal["ok", "warn", "bad"]
    message: str
    advice: str = ""


def check_python() -> Check:
    """The interpreter's version (pip refuses one that is too old)."""
    return Check("python", "ok", f"{platform.python_version()} on {platform.machine()}, {sys.prefix}")


def installed(package: str) -> str | None:
    """The package's version, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check_packages() -> Check:
    """Everything the device needs is installed, and nothing that overwrites it."""
    found = {package: installed(package) for package in NEEDED}
    said = ", ".join(f"{package} {number or 'missing'}" for package, number in found.items())
    if missing := [package for package, number in found.items() if number is None]:
        return Check("packages", "bad", said, f"pip install {' '.join(missing)}")
    if installed("onnxruntime-openvino"):
        advice = "pip uninstall onnxruntime-openvino and reinstall onnxruntime: one overwrites the other"
        return Check("packages", "bad", f"{said}, onnxruntime-openvino", advice)
    return Check("packages", "ok", said)


def check_memory(roots: Roots, min_ram_mb: int) -> Check:
    """Memory against what the pack was measured to need (MiB)."""
    memory = machine.memory_mb(roots)
    if memory is None:
        return Check("memory", "warn", "unknown: /proc/meminfo cannot be read")
    total, free = memory
    said = f"{total} MB, {free} MB free" + (f"; the pack needs at least {min_ram_mb}" if min_ram_mb else "")
    if total < min_ram_mb:
        return Check("memory", "bad", said, "choose a smaller pack or size, or a machine with more memory")
    if free < min_ram_mb:
        return Check("memory", "warn", said, "stop other programs, or add swap or zram")
    return Check("memory", "ok", said)


def check_temperature(roots: Roots) -> Check:
    """The CPU's temperature in °C, where the kernel tells."""
    celsius = machine.cpu_temperature(roots)
    if celsius is None:
        return Check("temperature", "ok", "this machine does not tell")
    state: Literal["ok", "warn", "bad"] = (
        "bad" if celsius >= TOO_HOT_C else "warn" if celsius >= HOT_C else "ok"
    )
    return Check(
        "temperature", state, f"{celsius:.0f} °C", "" if state == "ok" else "add a fan or a heat sink"
    )


def check_throttling(roots: Roots) -> Check:
    """Whether the CPU slows down, or did since boot, from heat or a weak supply."""
    from edgegen.jobs.throttling import UNDER_VOLTAGE

    found = machine.throttling(roots)
    if found is None:
        return Check("throttling", "ok", "this machine does not tell")
    under_voltage = UNDER_VOLTAGE in found.now + found.since_boot
    supply = "the supply is too weak: use the official one, a short cable and no power-hungry USB devices"
    advice = supply if under_voltage else "add a fan or a heat sink"
    if found.now:
        state: Literal["warn", "bad"] = "bad" if under_voltage else "warn"
        return Check("throttling", state, f"now: {', '.join(found.now)}", advice)
    if found.since_boot:
        return Check("throttling", "warn", f"since boot: {', '.join(found.since_boot)}", advice)
    return Check("throttling", "ok", "none")


def check_disk(folder: Path, reserve_mb: int = 0) -> Check:
    """Free space (MiB) where the data is or will be, against the reserve (MB) that must stay free."""
    free = machine.disk_free_mb(folder)
    if free is None:
        return Check(
            "disk", "bad", f"cannot tell for {folder}", "set node.data_dir to a folder on this machine"
        )
    said = f"{free} MB free for {folder}"
    if free * 1.048576 < reserve_mb:
        said += f"; new jobs are refused under gallery.reserve_mb, {reserve_mb}"
        return Check("disk", "bad", said, "free some space, lower gallery.max_mb, or set gallery.make_room")
    if free < NO_DISK_MB:
        return Check("disk", "bad", said, "free some space, or lower gallery.max_mb")
    if free < LITTLE_DISK_MB:
        return Check("disk", "warn", said, "free some space, or lower gallery.max_mb")
    return Check("disk", "ok", said)


def check_database(path: Path) -> Check:
    """Whether the jobs' database is sound, and whether one was ever lost. Looks only: mends nothing."""
    import sqlite3

    if not path.exists():
        return Check("database", "ok", f"{path} will be made")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            finding = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
            is_known = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'facts'").fetchone()
            lost = (
                is_known and database.execute("SELECT value FROM facts WHERE name = 'set_aside'").fetchone()
            )
    except sqlite3.Error as err:
        if err.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return Check("database", "warn", f"{path}: {err}", f"may {_user()} read it and its folder?")
        finding, lost = str(err), None
    if finding != "ok":
        advice = "start the daemon: it sets the file aside and reads the pictures' own records"
        return Check("database", "bad", f"{path}: {finding}", advice)
    if lost:
        return Check("database", "warn", f"{path}: {lost[0]}", "check the card or disk: dmesg, smartctl")
    return Check("database", "ok", f"{path} is sound")


def check_writable(name: str, folder: Path) -> Check:
    """Whether we may write into a folder, or make it. Leaves nothing behind."""
    advice = f"make it writable for {_user()}, or choose another folder"
    if not folder.exists():
        parent = next(place for place in folder.parents if place.exists())
        if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
            return Check(name, "ok", f"{folder} will be made")
        return Check(name, "bad", f"{folder} cannot be made in {parent}", advice)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check(name, "ok", f"{folder} is writable")
    except OSError as err:
        return Check(name, "bad", f"{folder} is not writable: {err.strerror}", advice)


def _user() -> str:
    import getpass

    try:
        return f"user {getpass.getuser()}"
    except (KeyError, OSError):
        return f"user id {os.getuid()}"


def check_clock(now: float, synchronised: bool | None) -> Check:
    """The clock: a Raspberry Pi has no battery clock, so pictures may carry wrong dates.

    Args:
        now: Unix seconds. synchronised: as `machine.clock_is_synchronised` says.
    """
    import datetime

    said = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    advice = "connect to a network with a time server, or add a clock module; jobs run all the same"
    if now < EARLIEST_S:
        return Check("clock", "warn", f"{said} is in the past", advice)
    if synchronised is False:
        return Check("clock", "warn", f"{said}, not synchronised", advice)
    return Check("clock", "ok", f"{said}, {'synchronised' if synchronised else 'synchronisation unknown'}")
