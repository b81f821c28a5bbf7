"""Files that let a job go on: when they are written, whom they serve, and that a bad disk harms nobody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgegen.engine.pipeline import Picture
from edgegen.jobs import renderer as renderer_module
from edgegen.jobs.checkpoints import Checkpoints
from edgegen.jobs.job import JobRequest
from edgegen.jobs.renderer import Drawing, PipelineRenderer
from edgegen.settings import EngineSettings, LimitSettings
from tests.support import small_disk

from .conftest import Clock

PACKS = Path(__file__).parent.parent / "packs"


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", 30.0, clock)


def test_written_at_most_every_so_many_seconds(store: Checkpoints, clock: Clock) -> None:
    assert store.begin("a") is None
    written = []
    for second in range(100):
        clock.seconds += 1
        store.offer("a", lambda at=second: written.append(at) or b"%d" % at)
    assert written == [29, 59, 89]
    assert store.begin("a") == b"89"
    store.remove("a")
    store.remove("a")
    assert store.begin("a") is None
    assert list(store.folder.iterdir()) == []


def test_a_short_job_writes_nothing_not_even_a_folder(store: Checkpoints) -> None:
    store.begin("a")
    store.offer("a", lambda: b"x")
    store.remove("a")
    assert store.sweep(lambda _: True) == 0
    assert not store.folder.exists()


def test_zero_seconds_switch_it_off(tmp_path: Path, clock: Clock) -> None:
    Checkpoints(tmp_path, 1, clock).write("a", lambda: b"x")
    off = Checkpoints(tmp_path, 0, clock)
    assert off.begin("a") is None
    clock.seconds += 1e6
    off.offer("b", lambda: b"x")
    off.write("b", lambda: b"x")
    assert off.sweep(lambda _: True) == 1
    assert list(tmp_path.iterdir()) == []


def test_sweeping_keeps_only_what_waits(store: Checkpoints) -> None:
    for job_id in ("a", "..", "b.c"):
        store.write(job_id, lambda: b"x")
    (store.folder / ".a.checkpoint.x7q").write_bytes(b"half")
    assert store.sweep(lambda job_id: job_id in ("a", "..")) == 2
    assert sorted(path.name for path in store.folder.iterdir()) == ["...checkpoint", "a.checkpoint"]


def test_a_full_disk_costs_only_the_checkpoint(tmp_path: Path, clock: Clock, caplog) -> None:
    with small_disk(tmp_path / "disk", 1) as folder:
        store = Checkpoints(folder, 1, clock)
        store.write("a", lambda: b"first")
        (folder / "hog").write_bytes(b"x" * (1020 * 1024))
        store.write("a", lambda: b"x" * 100_000)
        assert "job a has no new checkpoint: [Errno 28]" in caplog.text
        assert store.begin("a") == b"first"


def test_a_file_that_is_too_large_is_not_read(store: Checkpoints) -> None:
    store.folder.mkdir()
    with (store.folder / "a.checkpoint").open("wb") as file:
        file.truncate(65 << 20)
    assert store.begin("a") is None


@pytest.fixture(scope="module")
def renderer():
    settings = EngineSettings(pack="tiny", provider="cpu", threads=1)
    renderer = PipelineRenderer(settings, (PACKS,), LimitSettings())
    yield renderer
    renderer.unload()


@pytest.fixture(autouse=True)
def pictures(monkeypatch) -> list[Picture]:
    """The pictures that the renderer would have saved."""
    found: list[Picture] = []
    keep = renderer_module._drawing
    monkeypatch.setattr(renderer_module, "_drawing", lambda p: found.append(p) or keep(p))
    return found


def asked(**fields) -> JobRequest:
    return JobRequest("a", **{"prompt": "a red apple", "steps": 4, "sampler": "dpmpp_sde", **fields})


def saved_after(renderer: PipelineRenderer, request: JobRequest, step: int) -> bytes:
    parts = renderer.draw(request)
    for part in parts:
        if part.step == step:
            parts.close()
            return part.checkpoint()
    raise AssertionError("no such step")


def test_the_next_attempt_goes_on_with_the_same_random_seed(renderer, pictures, caplog) -> None:
    caplog.set_level("INFO")
    saved = saved_after(renderer, asked(), 2)
    *steps, drawing = renderer.draw(asked(), saved)
    assert [part.step for part in steps] == [2, 3, 4]
    assert isinstance(drawing, Drawing)
    assert "job a goes on at step 2" in caplog.text
    list(renderer.draw(asked(seed=drawing.seed)))
    assert np.array_equal(pictures[0].pixels, pictures[1].pixels)


@pytest.mark.parametrize(
    ("request_", "spoil", "why"),
    [
        (asked(seed=1), lambda data: data, "is of another pack, provider, version or request"),
        (asked(steps=5), lambda data: data, "is of another pack, provider, version or request"),
        (asked(), lambda data: data[:-1], "is damaged"),
        (asked(), lambda data: b"", "is no checkpoint of this version"),
    ],
)
def test_what_does_not_fit_starts_anew_and_is_logged(renderer, caplog, request_, spoil, why) -> None:
    saved = spoil(saved_after(renderer, asked(seed=5), 2))
    first = next(part for part in renderer.draw(request_, saved))
    assert (first.step, first.steps) == (0, request_.steps)
    assert f"job a starts anew: its checkpoint {why}" in caplog.text
