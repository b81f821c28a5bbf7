"""Graphs that load again from their optimised nodes: the same numbers, bit for bit, as from their files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from test_lora import CONVOLUTIONS, LATENTS, MATRICES, changes, encoding, kohya, stages_of, unet

from edgegen.engine.conditioning import Encoding
from edgegen.engine.lora.merge import LoraSet, LoraUse
from edgegen.engine.memory import FULL, MODES
from edgegen.engine.sessioncache import SessionCache
from edgegen.engine.stages import Stages
from edgegen.pack import Pack
from tests.loras import write_tensors

__all__ = ["encoding", "unet"]  # fixtures


@pytest.fixture
def lora(unet: UNet2DConditionModel, tmp_path: Path) -> LoraUse:
    change = changes(unet, (*MATRICES, *CONVOLUTIONS), 11)
    return LoraUse(write_tensors(tmp_path / "a.safetensors", kohya("lora_unet_", change)), 0.6)


def nodes_of(stages: Stages) -> bytes:
    """What was kept of the denoiser."""
    return b"".join(kept.model for (role, _), kept in stages.sessions._kept._graphs.items() if role == "unet")


def answer(stages: Stages, encoding: Encoding) -> np.ndarray:
    """The denoiser's, loaded anew."""
    stages.sessions.close()
    return stages.unet(LATENTS, 500, encoding)


@pytest.mark.parametrize("mode", ["full", "mapped", "low"])
def test_a_graph_loads_again_without_being_optimised(packs, encoding, mode: str) -> None:
    stages = stages_of(packs["int8"], mode)
    first = answer(stages, encoding)
    kept = nodes_of(stages)
    weights = packs["int8"].graph("unet").with_name("model.onnx.data").stat().st_size
    assert 0 < len(kept) < 2_000_000 + weights / 10  # nodes, not weights
    assert b"QLinearConv" in kept
    assert b"QLinearConv" not in packs["int8"].graph("unet").read_bytes()
    properties = stages.sessions.get("unet").properties
    assert np.array_equal(answer(stages, encoding), first)
    assert stages.sessions.get("unet").properties == properties
    assert nodes_of(stages) == kept


@pytest.mark.parametrize("mode", ["full", "low"])
def test_merged_weights_reach_the_kept_nodes(packs, encoding, lora: LoraUse, monkeypatch, mode: str) -> None:
    stages = stages_of(packs["int8"], mode)
    got = [answer(stages.with_loras(lora), encoding) for _ in range(2)]  # without and with nodes kept before
    assert nodes_of(stages)
    plain = answer(stages, encoding)
    monkeypatch.delattr(os, "memfd_create")
    slow = stages_of(packs["int8"], mode)
    wanted = answer(slow.with_loras(lora), encoding)
    assert not nodes_of(slow)
    assert np.array_equal(got[0], wanted)
    assert np.array_equal(got[1], wanted)
    assert not np.array_equal(plain, wanted)
    assert np.array_equal(answer(slow, encoding), plain)


def test_weights_that_were_optimised_away_get_a_graph_of_their_own(packs, encoding, lora: LoraUse) -> None:
    stages = stages_of(packs["int8"])
    wanted = answer(stages.with_loras(lora), encoding)
    ((_, kept),) = stages.sessions._kept._graphs.items()
    changed = LoraSet([lora]).merge(packs["int8"], "unet")
    name = next(name for name in changed if name not in changed.spare)
    kept._weights -= {name}  # as when a float convolution's weights were put into another order
    assert np.array_equal(answer(stages.with_loras(lora), encoding), wanted)
    assert stages.sessions._kept._graphs["unet", frozenset({name})].model
    assert np.array_equal(answer(stages.with_loras(lora), encoding), wanted)


def test_of_graphs_of_their_own_the_last_is_kept(packs, encoding, lora: LoraUse) -> None:
    stages = stages_of(packs["int8"])
    answer(stages.with_loras(lora), encoding)
    graphs = stages.sessions._kept._graphs
    kept = graphs["unet", frozenset()]
    changed = LoraSet([lora]).merge(packs["int8"], "unet")
    for name in sorted(changed.keys() - changed.spare)[:3]:
        kept._weights -= {name}
        answer(stages.with_loras(lora), encoding)
        made = frozenset(changed.keys() - changed.spare) - kept._weights
        assert graphs.keys() == {("unet", frozenset()), ("unet", made)}


def test_another_mode_and_float_graphs_keep_nothing(packs, encoding) -> None:
    stages = stages_of(packs["int8"])
    answer(stages, encoding)
    stages.use(MODES["mapped"])
    assert not nodes_of(stages)
    for precision in ("fp32", "w8"):
        stages = stages_of(packs[precision])
        answer(stages, encoding)
        assert not nodes_of(stages)


def test_an_altered_graph_is_refused_though_its_nodes_are_kept(packs, encoding, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(packs["int8"].folder, tmp_path / "pack")
    cache = SessionCache(Pack.open(folder), stages_of(packs["int8"]).provider, 1, FULL)
    cache.get("unet")
    cache.close()
    weights = folder / "unet/model.onnx.data"
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ValueError, match="SHA-256"):
        cache.get("unet")
