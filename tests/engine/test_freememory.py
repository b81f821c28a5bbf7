"""Free memory, from fake /proc and /sys folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgegen.engine.freememory import FreeMemory, read_free_memory

MIB = 2**20


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    put(proc / "meminfo", "MemTotal: 4000000 kB\nMemAvailable: 1000000 kB\nSwapFree: 500000 kB\n")
    put(proc / "self/status", "VmRSS:  90000 kB\nRssAnon:\t  50000 kB\n")
    return proc, sys


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_machine_alone(roots) -> None:
    assert read_free_memory(*roots) == FreeMemory(1_075, 512, "this machine")


def test_a_kernel_that_tells_nothing(tmp_path: Path) -> None:
    assert read_free_memory(tmp_path, tmp_path) is None


def test_version_2_counts_file_pages_as_free(roots) -> None:
    proc, sys = roots
    put(proc / "self/cgroup", "0::/system.slice/engine\n")
    group = sys / "fs/cgroup/system.slice/engine"
    put(group / "memory.max", str(300 * MIB))
    put(group / "memory.current", str(200 * MIB))
    put(group / "memory.stat", f"anon {80 * MIB}\ninactive_file {90 * MIB}\nactive_file {30 * MIB}\n")
    free = (300 - 200 + 120) * MIB + 50_000 * 1024
    assert read_free_memory(*roots) == FreeMemory(free // 10**6, 0, "this process's cgroup")


def test_a_parents_limit_counts_and_max_is_none(roots) -> None:
    proc, sys = roots
    put(proc / "self/cgroup", "0::/kiosk/engine\n")
    for name, limit in (("kiosk/engine", "max"), ("kiosk", str(150 * MIB))):
        put(sys / "fs/cgroup" / name / "memory.max", limit)
        put(sys / "fs/cgroup" / name / "memory.current", str(100 * MIB))
    assert read_free_memory(*roots).ram_mb == (50 * MIB + 50_000 * 1024) // 10**6


@pytest.mark.parametrize("path", ["/engine", "/seen/only/by/the/host"])
def test_version_1_with_and_without_a_visible_path(roots, path: str) -> None:
    proc, sys = roots
    put(proc / "self/cgroup", f"5:cpu,cpuacct:/x\n4:memory:{path}\n0::/\n")
    group = sys / "fs/cgroup/memory" / (path.strip("/") if path == "/engine" else "")
    put(group / "memory.limit_in_bytes", str(200 * MIB))
    put(group / "memory.usage_in_bytes", str(120 * MIB))
    put(group / "memory.stat", f"inactive_file 0\ntotal_inactive_file {20 * MIB}\n")
    assert read_free_memory(*roots).ram_mb == (100 * MIB + 50_000 * 1024) // 10**6


def test_a_limit_above_the_machine_and_broken_numbers_change_nothing(roots) -> None:
    proc, sys = roots
    put(proc / "self/cgroup", "4:memory:/\n0::/../..\n")
    put(sys / "fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712")
    put(sys / "fs/cgroup/memory/memory.usage_in_bytes", "4096")
    put(sys / "fs/cgroup/memory.max", "plenty")
    assert read_free_memory(*roots).bound == "this machine"


def test_a_group_over_its_limit_has_nothing_free(roots) -> None:
    proc, sys = roots
    put(proc / "self/cgroup", "0::/\n")
    put(sys / "fs/cgroup/memory.max", str(10 * MIB))
    put(sys / "fs/cgroup/memory.current", str(900 * MIB))
    assert read_free_memory(*roots).ram_mb == 0
