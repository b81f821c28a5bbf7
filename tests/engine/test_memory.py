from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgegen.engine.memory import FULL, LOW, MODES, MemoryMode, apply_mode, tune_malloc
from edgegen.engine.pipeline import GenerationSettings, TextToImage
from edgegen.engine.providers import choose_provider
from edgegen.engine.runtime import onnxruntime
from edgegen.engine.sessioncache import SessionCache
from edgegen.pack import Pack, builtin_packs_dir, find_pack

ROOT = Path(__file__).parent.parent.parent
CPU = choose_provider("cpu")
PICTURE = """
import hashlib, sys
from edgegen.engine.pipeline import GenerationSettings, TextToImage
from edgegen.pack import Pack
pack = Pack.open(sys.argv[1])
d = pack.manifest.defaults
with TextToImage(pack, "cpu", int(sys.argv[3]), memory=sys.argv[2]) as engine:
    wanted = GenerationSettings("a red apple", "", 1, 2, 3.0, d.width, d.height, d.sampler)
    *_, picture = engine.generate(wanted)
    print(hashlib.sha256(picture.pixels.tobytes()).hexdigest(), ",".join(engine.sessions.loaded))
"""


def picture_in_a_fresh_process(pack: Path, mode: str, threads: int) -> tuple[str, str]:
    """Its hash and what was loaded at the end: malloc's tuning must not leak from mode to mode."""
    done = subprocess.run(
        [sys.executable, "-c", PICTURE, str(pack), mode, str(threads)],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    digest, loaded = done.stdout.split()
    return digest, loaded


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["tiny", "pocket"])
def test_the_same_picture_in_every_mode_and_with_any_threads(name: str) -> None:
    pack = find_pack(name, [ROOT / "tests" / "packs", builtin_packs_dir()])
    ways = [("full", 1), ("mapped", 2), ("low", 1), ("low", 2)]
    found = [picture_in_a_fresh_process(pack.folder, *way) for way in ways]
    assert len({digest for digest, _ in found}) == 1, found
    everything = "text_encoder,unet,vae_decoder"
    assert [loaded for _, loaded in found] == [everything, everything, "vae_decoder", "vae_decoder"]
    assert len(found[0][0]) == 2 * hashlib.sha256().digest_size


def test_low_frees_a_stage_before_it_loads_the_next(tiny: Pack) -> None:
    cache = SessionCache(tiny, CPU, 1, LOW)
    encoder = cache.get("text_encoder")
    assert cache.get("text_encoder") is encoder
    cache.get("unet")
    assert cache.loaded == ["unet"]
    assert cache.get("text_encoder") is not encoder
    assert encoder._session is None


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_what_onnx_runtime_is_told(mode: MemoryMode) -> None:
    options = onnxruntime().SessionOptions()
    apply_mode(options, mode)
    told = (options.enable_cpu_mem_arena, options.enable_mem_pattern, options.enable_mem_reuse)
    wanted = {"full": (True,) * 3, "mapped": (False, True, True), "low": (False,) * 3, "tiled": (False,) * 3}
    assert told == wanted[mode.name]
    if mode is not FULL:
        assert options.get_session_config_entry("session.disable_prepacking") == "1"


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_float_graphs_keep_their_weights_as_stored_where_memory_is_short(mode: MemoryMode) -> None:
    """8-bit graphs do not: their convolutions need the layout of the last level."""
    options = {is_float: onnxruntime().SessionOptions() for is_float in (True, False)}
    for is_float, told in options.items():
        apply_mode(told, mode, is_float)
    every, extended = (
        getattr(onnxruntime().GraphOptimizationLevel, name)
        for name in ("ORT_ENABLE_ALL", "ORT_ENABLE_EXTENDED")
    )
    assert options[True].graph_optimization_level == (every if mode is FULL else extended)
    assert options[False].graph_optimization_level == every


def test_malloc_gives_back_what_it_was_given() -> None:
    """In a process of its own: after tuning, 300 KiB freed between two others leaves the process."""
    script = """
from edgegen.engine.memory import tune_malloc
import ctypes, numpy as np
def heap(): return int(open("/proc/self/statm").read().split()[5])
blocks = [np.ones(8 << 20, np.uint8) for _ in range(4)]  # frees of these raise glibc's own threshold
del blocks
assert tune_malloc()
held = [np.ones(300 << 10, np.uint8) for _ in range(200)]
before = heap()
kept = held[1::2]
del held
print((before - heap()) * 4)
"""
    if not tune_malloc():
        pytest.skip("this libc has no mallopt")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100 * 290, "100 blocks of 300 KiB were freed"


def test_weights_stay_in_their_file_while_the_graph_is_loaded(tiny: Pack) -> None:
    weights = str(tiny.folder / "unet/weights.bin")
    cache = SessionCache(tiny, CPU, 1, LOW)
    cache.get("unet")
    assert weights in Path("/proc/self/maps").read_text("utf-8")
    cache.close()
    assert weights not in Path("/proc/self/maps").read_text("utf-8")


def test_each_stage_tells_its_time_and_memory(tiny: Pack, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level("DEBUG", "edgegen.engine.session"),
        TextToImage(tiny, "cpu", 1, memory="low") as engine,
    ):
        list(engine.generate(GenerationSettings("a red apple", "", 1, 1, 1.0, 64, 64, "euler")))
    told = [
        re.fullmatch(r"graph (\w+) (loaded|ran) in \d+\.\d\d s; [1-9]\d* MB held", m) for m in caplog.messages
    ]
    stages = [(found[1], found[2]) for found in told if found]
    roles = "text_encoder", "unet", "vae_decoder"
    assert stages == [(role, did) for role in roles for did in ("loaded", "ran")]
