from __future__ import annotations

import pytest

from edgegen.engine.freememory import FreeMemory
from edgegen.engine.memory import FULL, LOW
from edgegen.engine.memorychoice import choose_memory, memory_for, memory_needs
from edgegen.engine.pipeline import GenerationSettings, TextToImage
from edgegen.engine.providers import ProviderChoice
from edgegen.errors import BadRequest, OutOfMemory
from edgegen.pack import Manifest, Pack, RamGrowth, RamNeeds


@pytest.fixture
def measured(tiny: Pack) -> Manifest:
    return tiny.manifest.model_copy(update={"ram_mb": RamNeeds(full=1400, mapped=700, low=180)})


def free(ram_mb: int, swap_mb: int = 0) -> FreeMemory:
    return FreeMemory(ram_mb, swap_mb, "this machine")


@pytest.mark.parametrize(
    ("ram_mb", "mode"), [(1400, "full"), (1399, "mapped"), (700, "mapped"), (699, "low"), (180, "low")]
)
def test_auto_takes_the_fastest_that_fits(measured: Manifest, ram_mb: int, mode: str) -> None:
    choice = choose_memory("auto", measured, free(ram_mb))
    assert choice.mode.name == mode
    assert f"of {ram_mb} MB that this machine has free" in choice.reason
    assert "estimated" not in choice.reason


def test_what_cannot_fit_is_refused_with_figures(measured: Manifest) -> None:
    with pytest.raises(
        OutOfMemory, match=r"tiny needs 180 MB at 64x64 .* has 179 MB free: take a smaller"
    ) as told:
        choose_memory("auto", measured, free(179))
    assert "width and height" in str(told.value)
    assert choose_memory("auto", measured, free(100, swap_mb=80)).mode is LOW, "swap can hold the rest"
    assert choose_memory("low", measured, free(10)).mode is LOW, "asked for by name"


def test_an_estimate_says_so_and_refuses_nothing(tiny: Pack) -> None:
    needs = memory_needs(tiny.manifest)
    assert needs.is_estimated
    assert needs.mb == {"full": 64, "mapped": 64, "low": 64}, "never more than was measured for full"
    assert "64 MB estimated" in choose_memory("auto", tiny.manifest, free(64)).reason
    choice = choose_memory("auto", tiny.manifest, free(10))
    assert (choice.mode, "estimated, more than the 10 MB" in choice.reason) == (LOW, True)


def test_an_estimate_from_bytes_alone(tiny: Pack) -> None:
    graphs = {role: g.model_copy(deep=True) for role, g in tiny.manifest.graphs.items()}
    unet = graphs["unet"].files
    unet[graphs["unet"].file] = unet[graphs["unet"].file].model_copy(update={"bytes": 10**9})
    mb = memory_needs(tiny.manifest.model_copy(update={"min_ram_mb": 0, "graphs": graphs})).mb
    assert (mb["full"], mb["mapped"], mb["low"]) == (2600, 1100, 600)


def test_other_providers_ignore_the_mode_and_say_so(measured: Manifest) -> None:
    choice = memory_for(measured, ProviderChoice("openvino", "asked for"), "low")
    assert choice.mode is FULL
    assert "openvino ignores memory modes" in choice.reason


def test_unknown_memory_means_full_and_unknown_modes_are_refused(measured: Manifest) -> None:
    assert choose_memory("auto", measured, None).mode is FULL
    with pytest.raises(BadRequest, match="'tiny' is no memory mode; known are auto, full, mapped, low"):
        choose_memory("tiny", measured, None)


def test_the_pipeline_runs_in_the_mode_it_was_given(tiny: Pack) -> None:
    with TextToImage(tiny, "cpu", 1, memory="low") as engine:
        assert (engine.memory.mode, engine.memory.reason) == (LOW, "asked for")
        engine.sessions.get("text_encoder")
        engine.sessions.get("unet")
        assert engine.sessions.loaded == ["unet"]


@pytest.fixture
def grown(measured: Manifest) -> Manifest:
    """Measured at two sizes: a million pixels more than 64x64 need 10 GB more in `full`, 5 in `low`."""
    growth = RamGrowth(full=10_000, mapped=8_000, low=5_000, tiled=1_000)
    ram = RamNeeds(full=1400, mapped=700, low=180, tiled=150, growth=growth)
    return measured.model_copy(update={"ram_mb": ram})


def test_needs_grow_with_the_picture(grown: Manifest) -> None:
    assert memory_needs(grown, (64, 64)).mb == memory_needs(grown).mb
    assert memory_needs(grown, (128, 128)).mb == {"full": 1523, "mapped": 798, "low": 241, "tiled": 162}
    assert memory_needs(grown, (32, 32)).mb["full"] == 1369
    assert choose_memory("auto", grown, free(1400), (128, 128)).mode.name == "mapped"
    assert choose_memory("auto", grown, free(240), (128, 128)).mode.name == "tiled"
    assert choose_memory("auto", grown, free(241), (128, 128)).mode.name == "low"


def test_without_measured_growth_larger_needs_more_and_smaller_no_less(measured: Manifest) -> None:
    assert memory_needs(measured, (128, 64)).mb == {"full": 1400 + 650, "mapped": 700 + 650, "low": 180 + 130}
    assert memory_needs(measured, (32, 32)).mb == {"full": 1400, "mapped": 700, "low": 180}


def test_a_refusal_names_the_size_that_would_fit(grown: Manifest) -> None:
    with pytest.raises(OutOfMemory, match=r"needs 179 MB at 256x128 .* mode tiled, and .* has 170 MB free: "):
        choose_memory("auto", grown, free(170), (256, 128))
    with pytest.raises(OutOfMemory, match=r"144x64 would fit \(155 MB\)"):
        choose_memory("auto", grown, free(155), (256, 128))
    with pytest.raises(OutOfMemory, match="no smaller size of this one would fit"):
        choose_memory("auto", grown, free(20), (256, 128))


def test_the_pipeline_looks_again_when_the_size_changes(tiny: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    growth = RamGrowth(full=100_000, mapped=10_000, low=5_000)
    ram = RamNeeds(full=400, mapped=300, low=200, growth=growth)
    pack = Pack(tiny.folder, tiny.manifest.model_copy(update={"ram_mb": ram}))
    monkeypatch.setattr("edgegen.engine.memorychoice.read_free_memory", lambda: free(420))

    def wanted(side: int) -> GenerationSettings:
        return GenerationSettings("a red apple", "", 1, 1, 1.0, side, side, "euler")

    with TextToImage(pack, "cpu", 1) as engine:
        for side, mode in ((96, "mapped"), (64, "full")):
            list(engine.generate(wanted(side)))
            assert (engine.memory.mode.name, engine.stages.memory.name) == (mode, mode)
        with pytest.raises(OutOfMemory, match=r"at 512x512 .* would fit"):
            list(engine.generate(wanted(512)))
