"""Memory by mode, measured on the committed tiny pack through the device's own command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgegen.errors import EngineError
from edgegen.pack import Pack, RamNeeds, read_manifest, write_manifest
from quantize.ram import PAGES_MB, Peak, measure_ram, peaks_as_json, ram_needs

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


def test_a_pack_that_does_not_draw_is_an_engine_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"in memory mode full failed: .*pack\.json"):
        measure_ram(tmp_path / "nothing", "a red apple", 1)


def test_an_old_pack_has_no_figures_and_is_written_without_the_field(tmp_path: Path) -> None:
    assert read_manifest(TINY).ram_mb is None
    assert "ram_mb" not in write_manifest(tmp_path, read_manifest(TINY)).read_text("utf-8").replace(
        "min_ram_mb", ""
    )
