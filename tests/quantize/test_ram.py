"""Memory by mode, measured on the committed tiny pack through the device's own command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgegen.errors import EngineError
from edgegen.pack import Pack, RamGrowth, RamNeeds, read_manifest, write_manifest
from quantize.ram import (
    PAGES_MB,
    Peak,
    measure_needs,
    measure_ram,
    peaks_as_json,
    ram_growth,
    ram_needs,
    smaller_size,
)

TINY = Path(__file__).parent.parent / "packs" / "tiny"
STATUS = "Name:\tpython\nVmHWM:\t  200000 kB\nVmRSS:\t 1 kB\nRssAnon:\t   50000 kB\n"


def test_a_sample_only_raises_the_peak() -> None:
    peak = Peak().with_sample(STATUS)
    assert peak == Peak(50_000 * 1024, 200_000 * 1024)
    assert peak.with_sample(STATUS.replace("50000", "40000").replace("200000", "100000")) == peak
    assert peak.with_sample("Name:\tpython\nState:\tZ\n") == peak, "a process that just ended has no memory"


def test_needs_are_all_of_full_and_what_cannot_be_dropped_of_the_others() -> None:
    peaks = {"full": Peak(900_000_000, 1_400_000_001), "mapped": Peak(10**9, 3 * 10**9), "low": Peak(1, 2)}
    assert ram_needs(peaks) == RamNeeds(full=1401, mapped=1000 + PAGES_MB, low=1 + PAGES_MB)
    assert peaks_as_json(peaks)["full"] == {"anonymous_mb": 900, "total_mb": 1401}


@pytest.mark.timeout(1200)
def test_the_tiny_pack_is_measured_and_the_pack_remembers(tmp_path: Path) -> None:
    pack = Path(shutil.copytree(TINY, tmp_path / "tiny"))
    needs = ram_needs(measure_ram(pack, "a red apple", 1))
    assert 30 < needs.low < needs.full < 1000
    write_manifest(pack, read_manifest(pack).model_copy(update={"ram_mb": needs}))
    assert Pack.open(pack).manifest.ram_mb == needs


@pytest.mark.timeout(1200)
def test_growth_is_measured_at_a_second_size(tmp_path: Path) -> None:
    pack = Path(shutil.copytree(TINY, tmp_path / "tiny"))
    needs, told = measure_needs(pack, "a red apple", 1, enough_mb=1)
    assert set(told) == {"full", "mapped", "low", "tiled", "at_32x32"}
    assert set(told["at_32x32"]) == {"full", "mapped", "low", "tiled"}
    assert needs.growth is not None
    assert needs.tiled is not None
    write_manifest(pack, read_manifest(pack).model_copy(update={"ram_mb": needs}))
    assert read_manifest(pack).ram_mb == needs


def test_growth_is_never_less_than_nothing_and_only_of_what_was_measured() -> None:
    usual, small = RamNeeds(full=500, mapped=300, low=100), RamNeeds(full=300, mapped=200, low=101)
    growth = ram_growth(usual, small, 0.25)
    assert growth == RamGrowth(full=800, mapped=400, low=0)
    needs = RamNeeds(full=500, mapped=300, low=100, growth=growth)
    assert needs.model_copy(update={"growth": None}) == usual


def test_the_smaller_size_is_half_the_default_as_far_as_the_pack_allows() -> None:
    manifest = read_manifest(TINY)
    assert smaller_size(manifest) == (32, 32)
    only = manifest.sizes.model_copy(update={"min": 64})
    assert smaller_size(manifest.model_copy(update={"sizes": only})) == (64, 64)


def test_a_pack_that_does_not_draw_is_an_engine_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"in memory mode full failed: .*pack\.json"):
        measure_ram(tmp_path / "nothing", "a red apple", 1)


def test_an_old_pack_has_no_figures_and_is_written_without_the_field(tmp_path: Path) -> None:
    assert read_manifest(TINY).ram_mb is None
    assert "ram_mb" not in write_manifest(tmp_path, read_manifest(TINY)).read_text("utf-8").replace(
        "min_ram_mb", ""
    )
