"""The CPU's temperature as the kernel tells it."""

from __future__ import annotations

from edgegen.jobs.thermal import cpu_temperature


def zone(sys, number: int, kind: str, temp: str) -> None:
    folder = sys / f"class/thermal/thermal_zone{number}"
    folder.mkdir(parents=True)
    (folder / "type").write_text(f"{kind}\n")
    (folder / "temp").write_text(f"{temp}\n")


def test_the_hottest_zone_of_the_cpu_counts(tmp_path):
    assert cpu_temperature(tmp_path) is None
    zone(tmp_path, 0, "acpitz", "90000")
    assert cpu_temperature(tmp_path) == 90.0, "no zone is named after the CPU"
    zone(tmp_path, 1, "cpu-thermal", "51500")
    zone(tmp_path, 2, "x86_pkg_temp", "61500")
    assert cpu_temperature(tmp_path) == 61.5


def test_nonsense_is_unknown(tmp_path):
    zone(tmp_path, 0, "cpu-thermal", "hot")
    zone(tmp_path, 1, "cpu-thermal", "999000")
    assert cpu_temperature(tmp_path) is None
