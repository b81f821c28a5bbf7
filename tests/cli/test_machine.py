"""Facts of the machine, read from fake /proc and /sys folders."""

import pytest

from edgegen.cli import machine
from edgegen.cli.machine import Roots
from edgegen.jobs.throttling import Throttling

MEMINFO = "MemTotal:        8000000 kB\nMemFree:          100000 kB\nMemAvailable:    4000000 kB\n"


@pytest.fixture
def roots(tmp_path):
    return Roots(proc=tmp_path / "proc", sys=tmp_path / "sys")


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_machine_that_tells_nothing(roots):
    assert machine.memory_mb(roots) is None
    assert machine.cpu_temperature(roots) is None
    assert machine.throttling(roots) is None
    assert machine.board(roots) is None


def test_memory_is_available_memory(roots):
    put(roots.proc / "meminfo", MEMINFO)
    assert machine.memory_mb(roots) == (7812, 3906)


def test_a_cgroup_limit_below_the_machine_wins(roots):
    put(roots.proc / "meminfo", MEMINFO)
    put(roots.proc / "self/cgroup", "0::/system.slice/edgegen.service\n")
    put(roots.sys / "fs/cgroup/system.slice/edgegen.service/memory.max", f"{512 * 2**20}\n")
    assert machine.memory_mb(roots) == (512, 512)


def test_broken_meminfo_is_unknown(roots):
    put(roots.proc / "meminfo", "MemTotal: lots\n")
    assert machine.memory_mb(roots) is None


def test_the_cpu_zone_counts_not_the_hottest_other(roots):
    for i, (kind, temp) in enumerate([("acpitz", "95000"), ("cpu-thermal", "61500")]):
        put(roots.sys / f"class/thermal/thermal_zone{i}/type", kind)
        put(roots.sys / f"class/thermal/thermal_zone{i}/temp", temp)
    assert machine.cpu_temperature(roots) == 61.5


def test_senseless_temperatures_are_ignored(roots):
    put(roots.sys / "class/thermal/thermal_zone0/temp", "-274000")
    assert machine.cpu_temperature(roots) is None


def test_firmware_flags_of_a_raspberry_pi(roots):
    put(roots.sys / "devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    both = ("under-voltage", "throttled")
    assert machine.throttling(roots) == Throttling(now=both, since_boot=both)


def test_throttle_counters_of_a_pc(roots):
    put(roots.sys / "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "0\n")
    assert machine.throttling(roots) == Throttling((), ())
    put(roots.sys / "devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", "7\n")
    assert machine.throttling(roots) == Throttling((), ("7 times too hot",))


def test_board_name_without_its_final_zero_byte(roots):
    put(roots.proc / "device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    assert machine.board(roots) == "Raspberry Pi 5 Model B Rev 1.0"


def test_disk_of_a_folder_that_is_still_to_be_made(tmp_path):
    assert machine.disk_free_mb(tmp_path / "a/b") == pytest.approx(machine.disk_free_mb(tmp_path), abs=2000)


def test_real_clock_answers_or_says_nothing():
    assert machine.clock_is_synchronised() in (True, False, None)
