"""Compiled graphs are kept, checked, bounded, and never stand in the way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgegen.engine.compiled import CompiledCache, cache_in, cache_key, is_sealed
from edgegen.engine.providers import ProviderChoice, choose_provider, openvino_options
from edgegen.engine.runtime import onnxruntime
from edgegen.engine.sessioncache import SessionCache
from edgegen.errors import EngineError, OutOfMemory, ProviderError
from edgegen.pack import Pack


class Compiler:
    """Writes what it is told to where it is told to, as a provider does, and remembers what it found."""

    def __init__(self, blob: bytes = b"blob"):
        self.blob = blob
        self.found: list[list[bytes] | None] = []

    def __call__(self, folder: Path | None) -> str:
        if folder is None:
            self.found.append(None)
            return "loaded"
        blobs = [path.read_bytes() for path in folder.glob("*.blob")]
        self.found.append(blobs)
        if not blobs:
            (folder / "1.blob").write_bytes(self.blob)
        return "loaded"


@pytest.fixture
def cache(tmp_path: Path) -> CompiledCache:
    return CompiledCache(tmp_path / "compiled", 1)


def test_a_second_load_finds_what_the_first_compiled(cache: CompiledCache) -> None:
    compiler = Compiler()
    assert [cache.open("a", compiler) for _ in range(3)] == ["loaded"] * 3
    assert compiler.found == [[], [b"blob"], [b"blob"]]


@pytest.mark.parametrize(
    "damage", ["flipped", "cut", "more", "no seal", "seal is no json", "folder is a file"]
)
def test_what_is_not_whole_is_made_again(cache: CompiledCache, damage: str) -> None:
    compiler = Compiler()
    cache.open("a", compiler)
    entry = cache.folder / "a"
    match damage:
        case "flipped":
            (entry / "1.blob").write_bytes(b"blub")
        case "cut":
            os.truncate(entry / "1.blob", 2)
        case "more":
            (entry / "2.blob").write_bytes(b"")
        case "no seal":
            (entry / "seal.json").unlink()
        case "seal is no json":
            (entry / "seal.json").write_bytes(b"\xff")
        case "folder is a file":
            for path in (*entry.iterdir(),):
                path.unlink()
            entry.rmdir()
            (cache.folder / "a").write_bytes(b"")
    assert cache.open("a", compiler) == "loaded"
    assert compiler.found[1] in ([], None)
    if damage != "folder is a file":
        assert is_sealed(entry)


def test_a_graph_that_does_not_load_from_its_cache_loads_without(cache: CompiledCache) -> None:
    def picky(folder: Path | None) -> str:
        if folder is not None:
            raise EngineError("stale blob")
        return "loaded"

    assert cache.open("a", picky) == "loaded"
    assert not (cache.folder / "a").exists()


def test_no_memory_is_not_the_caches_fault(cache: CompiledCache) -> None:
    def hungry(_folder: Path | None) -> str:
        raise OutOfMemory("too large")

    with pytest.raises(OutOfMemory):
        cache.open("a", hungry)


def test_a_provider_that_writes_nothing_leaves_nothing(cache: CompiledCache) -> None:
    assert cache.open("a", lambda _folder: "loaded") == "loaded"
    assert list(cache.folder.iterdir()) == []


def test_the_least_recently_used_go_first(cache: CompiledCache) -> None:
    for i, key in enumerate("abc"):
        cache.open(key, Compiler(bytes(300_000)))
        os.utime(cache.folder / key / "seal.json", (i, i))
    cache.open("a", Compiler())  # used again: now the latest
    cache.open("d", Compiler(bytes(300_000)))
    assert sorted(path.name for path in cache.folder.iterdir()) == ["a", "c", "d"]


def test_one_beyond_the_limit_is_not_kept(cache: CompiledCache) -> None:
    cache.open("a", Compiler())
    assert cache.open("b", Compiler(bytes(1_000_001))) == "loaded"
    assert not (cache.folder / "b").exists()


def test_a_folder_that_cannot_be_made_costs_the_cache_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    compiler = Compiler()
    assert CompiledCache(tmp_path / "file" / "compiled", 1).open("a", compiler) == "loaded"
    assert compiler.found == [None]


def test_keys_tell_graphs_and_versions_apart() -> None:
    keys = {cache_key(["1", "2"], "1.8"), cache_key(["1", "3"], "1.8"), cache_key(["1", "2"], "1.9")}
    assert len(keys) == 3
    assert cache_key(["2", "1"], "1.8") in keys


def test_nothing_is_kept_where_nothing_may_be(tmp_path: Path) -> None:
    assert cache_in(None, 100) is None
    assert cache_in(tmp_path, 0) is None
    assert isinstance(cache_in(tmp_path, 1), CompiledCache)


def test_sessions_of_a_provider_that_compiles_get_a_folder_each(cache: CompiledCache, tiny: Pack) -> None:
    """Through the plugin interface, with the built-in CPU device in OpenVINO's place."""
    folders: list[Path | None] = []
    devices = [d for d in onnxruntime().get_ep_devices() if d.ep_name == "CPUExecutionProvider"]

    def options(_threads: int, folder: Path | None) -> dict[str, str]:
        folders.append(folder)
        return {}

    choice = ProviderChoice("plugin", "test", (devices[0],), options, "1.0", cache)
    sessions = SessionCache(tiny, choice, 1)
    for role in ("unet", "vae_decoder"):
        sessions.get(role)
    assert len(set(folders)) == 2
    assert all(folder is not None and folder.parent == cache.folder for folder in folders)


def test_openvino_is_told_the_folder() -> None:
    assert '"CACHE_DIR": "/data/compiled/a"' in openvino_options(2, Path("/data/compiled/a"))["load_config"]


@pytest.fixture
def openvino(cache: CompiledCache) -> Iterator[ProviderChoice]:
    pytest.importorskip("onnxruntime_ep_openvino")
    try:
        yield choose_provider("openvino", compiled=cache)
    except ProviderError as err:
        pytest.skip(str(err))


def test_openvino_for_real_keeps_what_it_compiled(
    openvino: ProviderChoice, cache: CompiledCache, tiny: Pack
) -> None:
    feeds = {"latent_sample": np.zeros((1, 4, 8, 8), np.float32)}
    first = SessionCache(tiny, openvino, 1).get("vae_decoder").run(feeds)
    (entry,) = cache.folder.iterdir()
    assert is_sealed(entry)
    second = SessionCache(tiny, openvino, 1).get("vae_decoder").run(feeds)
    np.testing.assert_array_equal(first["sample"], second["sample"])
