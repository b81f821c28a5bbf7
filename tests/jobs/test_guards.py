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
