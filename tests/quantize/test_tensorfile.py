"""Hostile safetensors files and disguised pickles are refused before anything of them is loaded."""

from __future__ import annotations

import contextlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from quantize.source import SourceError, open_source
from quantize.tensorfile import read_tensors, refuse_pickle


def file_of(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_a_sound_file_is_read(tmp_path: Path):
    arrays = {
        "a": np.zeros((2, 3), np.float32),
        "none": np.zeros((0, 4), np.float16),
        "b": np.ones(5, np.int8),
    }
    save_file(arrays, tmp_path / "x.safetensors", metadata={"format": "np"})
    found = read_tensors(tmp_path / "x.safetensors")
    assert {name: info.shape for name, info in found.items()} == {n: a.shape for n, a in arrays.items()}
    assert sum(info.end - info.start for info in found.values()) == 24 + 5


@pytest.mark.parametrize(
    ("header", "data", "length", "said"),
    [
        ({}, b"", 1 << 62, "claims 4611686018427387904 bytes"),
        ({}, b"", 50, "claims 50 bytes"),
        (b"{", b"", None, "claims 1 bytes"),
        (b"{{", b"", None, "no sound safetensors"),
        (b"[]", b"", None, "no JSON object"),
        (b"[" * 100_000, b"", None, "no sound safetensors"),
        (b'{"a": 1, "a": 2}', b"", None, "a name twice"),
        ({"a": 1}, b"", None, "no known dtype"),
        ({"a": entry(0, 4, [1], "F4")}, b"1234", None, "no known dtype"),
        ({"a": entry(0, 8, [1])}, b"12345678", None, "of 4 bytes lies at 0 to 8"),
        ({"a": entry(0, 4, [1])}, b"", None, "lies at 0 to 4 of 0"),
        ({"a": entry(4, 0, [1])}, b"1234", None, "lies at 4 to 0"),
        ({"a": entry(0, 4, [-1])}, b"1234", None, "no shape"),
        ({"a": entry(0, 4, [2**47, 2**47])}, b"1234", None, "lies at"),
        ({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, b"0" * 12, None, "'a' and 'b' overlap"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, b"1234", None, "no data_offsets"),
    ],
)
def test_headers_that_lie_are_refused(
    tmp_path: Path, header: Any, data: bytes, length: int | None, said: str
):
    with pytest.raises(SourceError, match=said):
        read_tensors(file_of(tmp_path / "x.safetensors", header, data, length))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_give_tensors_or_a_refusal(tmp_path: Path, raw: bytes):
    (tmp_path / "x.safetensors").write_bytes(raw)
    with contextlib.suppress(SourceError):
        read_tensors(tmp_path / "x.safetensors")


class Bomb:
    """Its pickle makes a file when it is opened."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model.pt", "model.pth", "model.safetensors"])
@pytest.mark.parametrize("kind", ["zip", "plain", "legacy"])
def test_pickles_are_refused_by_name_and_by_content_and_never_opened(tmp_path: Path, name: str, kind: str):
    file, trap = tmp_path / name, tmp_path / "ran"
    if kind == "plain":
        file.write_bytes(pickle.dumps({"model.diffusion_model.x": Bomb(trap)}))
    else:
        torch.save({"x": Bomb(trap)}, file, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(SourceError, match=r"runs code when opened.*save_pretrained"):
        open_source(file)
    assert not trap.exists()


def test_a_header_whose_length_looks_like_a_pickle_is_none(tmp_path: Path):
    header = json.dumps({"a": entry(0, 4, [1])}).encode().ljust(0x280)
    refuse_pickle(file_of(tmp_path / "x.safetensors", header, b"1234"))
    assert read_tensors(tmp_path / "x.safetensors")["a"].shape == (1,)


def test_a_pickle_inside_a_folder_is_refused_too(checkpoint: Path, tmp_path: Path):
    import shutil

    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    file = next((copy / "unet").glob("*.safetensors"))
    file.write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(SourceError, match="whatever its name says"):
        open_source(copy)
