"""A hot machine rests: decided by a pure function, read from a fake /sys and /proc, bounded in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgegen.jobs.guards import LOOK_EVERY_S, Guard, Health, read_health, why_pause
from edgegen.settings import GuardSettings

SETTINGS = GuardSettings(hot_c=80, cool_by_c=8, min_free_mb=100, max_pause_s=60)


@pytest.mark.parametrize(
    ("celsius", "free_mb", "is_paused", "said"),
    [
        (79.9, 500, False, None),
        (80.0, 500, False, "paused: the CPU has 80 °C; goes on below 72 °C"),
        (75.0, 500, True, "paused: the CPU has 75 °C; goes on below 72 °C"),
        (71.9, 500, True, None),
        (75.0, 500, False, None),
        (None, None, False, None),
        (20.0, 99, False, "paused: 99 MiB of memory are free; goes on with 100"),
        (20.0, 100, True, None),
    ],
)
def test_why_a_job_pauses(celsius, free_mb, is_paused, said):
    assert why_pause(Health(celsius, free_mb), SETTINGS, is_paused) == said


def test_zero_switches_a_guard_off():
    off = GuardSettings(hot_c=0, min_free_mb=0)
    assert why_pause(Health(150.0, 0), off, False) is None


def machine(folder: Path, milli: str, meminfo: str) -> Health:
    zone = folder / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text(milli)
    (folder / "proc").mkdir()
    (folder / "proc/meminfo").write_text(meminfo)
    return read_health(folder / "proc", folder / "sys")


def test_the_kernels_files_are_read(tmp_path):
    assert machine(tmp_path, "83500\n", "MemTotal: 9 kB\nMemAvailable:  204800 kB\n") == Health(83.5, 200)


def test_files_of_nonsense_are_unknown(tmp_path):
    assert machine(tmp_path, "hot", "MemAvailable:\n") == Health(None, None)
    assert read_health(tmp_path / "none", tmp_path / "none") == Health(None, None)


class Weather:
    """A machine's temperatures, one a look, and a clock that waiting moves."""

    def __init__(self, *celsius: float):
        self.celsius = list(celsius)
        self.now = 1000.0
        self.told: list[str] = []
        self.guard = Guard(SETTINGS, self.wait, self.read, lambda: self.now)

    def read(self) -> Health:
        return Health(self.celsius.pop(0) if len(self.celsius) > 1 else self.celsius[0], None)

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def hold(self, must_end=lambda: False) -> float:
        """How long it held."""
        began = self.now
        self.guard.hold(self.told.append, must_end)
        return self.now - began


def test_a_hot_machine_waits_until_it_is_cool_and_tells_at_every_look():
    weather = Weather(81, 79, 75, 71)
    assert weather.hold() == 3 * LOOK_EVERY_S
    assert [said[:27] for said in weather.told] == [
        f"paused: the CPU has {n} °C; "[:27] for n in (81, 79, 75)
    ]


def test_a_machine_that_is_well_is_looked_at_now_and_then():
    weather = Weather(50, 90)
    assert weather.hold() == 0
    assert weather.hold() == 0, "steps of milliseconds do not read files each time"
    weather.now += LOOK_EVERY_S
    assert weather.hold() == SETTINGS.max_pause_s


def test_a_sensor_that_is_wrong_costs_one_pause_not_one_a_step(caplog):
    weather = Weather(99)
    assert weather.hold() == SETTINGS.max_pause_s
    assert "guards.max_pause_s is over" in caplog.text
    weather.now += LOOK_EVERY_S
    assert weather.hold() == 0
    weather.celsius = [50, 99]
    weather.now += LOOK_EVERY_S
    assert weather.hold() == 0
    weather.now += LOOK_EVERY_S
    assert weather.hold() == SETTINGS.max_pause_s, "once it was well it is believed again"


def test_a_stop_or_a_cancel_ends_the_pause():
    weather = Weather(99)
    assert weather.hold(must_end=lambda: len(weather.told) == 3) == 3 * LOOK_EVERY_S


FLAGS = "devices/platform/soc/soc:firmware/get_throttled"


class Board:
    """A Raspberry Pi as its kernel shows it, in a tree of files, and a clock that work and waiting move."""

    def __init__(self, folder: Path, settings: GuardSettings = SETTINGS):
        self.sys = folder / "sys"
        self.flags = self.sys / FLAGS
        self.flags.parent.mkdir(parents=True)
        self.now = 1000.0
        self.told: list[str] = []
        self.recovers_after = 10**9
        self.guard = Guard(
            settings, self.wait, lambda: read_health(folder / "proc", self.sys), lambda: self.now
        )

    def wait(self, seconds: float) -> None:
        self.now += seconds
        if len(self.told) >= self.recovers_after:
            self.flags.write_text("50000\n")

    def step(self, seconds: float) -> float:
        """Works so long; returns how long the guard then held."""
        self.now += seconds
        began = self.now
        self.guard.hold(self.told.append, lambda: False)
        return self.now - began


@pytest.fixture
def board(tmp_path):
    return Board(tmp_path)


def test_a_throttled_board_works_half_of_the_time(board):
    board.flags.write_text("0\n")
    assert board.step(10) == 0
    board.flags.write_text("50005\n")
    assert board.step(10) == 10
    assert set(board.told) == {"eased: the board reports under-voltage, throttled"}
    assert board.step(600) == SETTINGS.max_pause_s, "never longer than a pause"


def test_it_goes_on_when_the_board_has_recovered(board, caplog):
    board.flags.write_text("0\n")
    board.step(10)
    board.flags.write_text("0x50001\n")
    board.recovers_after = 2
    assert board.step(10) == 2 * LOOK_EVERY_S
    assert caplog.text.count("eased: the board reports under-voltage") == 1
    assert board.step(10) == 0, "what was since boot is no reason"


def test_steps_of_milliseconds_are_eased_by_the_work_of_several(board):
    board.flags.write_text("4\n")
    assert board.step(0.5) == 0, "the first step of a job has no work behind it"
    assert sum(board.step(0.5) for _ in range(8)) == 4


def test_easing_can_be_switched_off(tmp_path):
    board = Board(tmp_path, GuardSettings(ease_throttled=False))
    board.flags.write_text("50005\n")
    assert board.step(10) == board.step(10) == 0


@pytest.mark.parametrize(
    ("files", "now"),
    [
        ({"devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "1"}, ("under-voltage",)),
        (
            {"class/hwmon/hwmon2/name": "rpi_volt", "class/hwmon/hwmon2/in0_lcrit_alarm": "1"},
            ("under-voltage",),
        ),
        ({"class/hwmon/hwmon2/name": "rpi_volt", "class/hwmon/hwmon2/in0_lcrit_alarm": "0"}, ()),
        ({"class/hwmon/hwmon0/name": "coretemp", "class/hwmon/hwmon0/in0_lcrit_alarm": "1"}, ()),
        ({FLAGS: "nonsense"}, ()),
        ({"devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "9"}, ()),
        ({}, ()),
    ],
)
def test_where_throttling_is_told(tmp_path, files, now):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    assert read_health(tmp_path / "proc", tmp_path).throttled == now
