"""One layer's merge against the formula written out, for every way weights lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgegen.engine.lora.merge import merge_layer
from edgegen.engine.lora.table import Layer, Stored
from edgegen.errors import LoraError

OUTPUTS, INPUTS, LIMIT = 6, 5, 63
RNG = np.random.default_rng(4)


class DataFile:
    """Tensors one behind the other, as in a pack's data file."""

    def __init__(self):
        self.raw = bytearray()

    def put(self, name: str, values: np.ndarray) -> Stored:
        place = Stored(name, str(values.dtype), values.shape, len(self.raw))
        self.raw += values.tobytes() + bytes(-values.nbytes % 64)
        return place

    def mapped(self, folder: Path) -> np.memmap:
        (folder / "data").write_bytes(self.raw)
        return np.memmap(folder / "data", np.uint8, "r")


def whole_numbers(*shape: int, most: int = 50) -> np.ndarray:
    """Sums and products of them are exact in whatever order."""
    return RNG.integers(-most, most + 1, shape).astype(np.float32)


@pytest.mark.parametrize("outputs_first", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_float_weights_are_added_to(tmp_path: Path, outputs_first: bool, dtype: type) -> None:
    file, delta, old = DataFile(), whole_numbers(OUTPUTS, INPUTS), whole_numbers(OUTPUTS, INPUTS)
    layer = Layer("m", file.put("w", (old if outputs_first else old.T).astype(dtype)), outputs_first)
    merged = merge_layer(file.mapped(tmp_path), layer, delta)
    got = merged["w"]
    assert got.dtype == dtype
    assert np.array_equal(got if outputs_first else got.T, old + delta)
    assert not merged.spare


@pytest.mark.parametrize("kernel", [(), (3, 2)])
@pytest.mark.parametrize("outputs_first", [True, False])
@pytest.mark.parametrize("rows", [None, (2, 5)])
def test_int8_weights_are_rounded_anew(
    tmp_path: Path, kernel: tuple[int, ...], outputs_first: bool, rows: tuple[int, int] | None
) -> None:
    if kernel and not outputs_first:
        return
    first, last = rows or (0, OUTPUTS)
    integers = RNG.integers(-LIMIT, LIMIT + 1, (last - first, INPUTS, *kernel)).astype(np.int8)
    old = 2.0 ** -RNG.integers(1, 4, last - first).astype(np.float32)
    delta = whole_numbers(OUTPUTS, INPUTS * int(np.prod(kernel, dtype=int)))
    delta[first + 1] = 0
    integers[1] = 0  # an output that stays nothing
    bias, bias_scale = RNG.integers(-999, 999, last - first).astype(np.int32), old / 8
    file = DataFile()
    layer = Layer(
        "m",
        file.put("w", integers if outputs_first else np.ascontiguousarray(integers.T)),
        outputs_first,
        rows,
        file.put("s", old),
        LIMIT,
        (file.put("b", bias), file.put("bs", bias_scale)),
    )
    merged = merge_layer(file.mapped(tmp_path), layer, delta)
    wanted = integers.reshape(last - first, -1) * old[:, None] + delta[first:last]
    greatest = np.abs(wanted).max(axis=1)
    scales = np.where(greatest > 0, greatest / np.float32(LIMIT), np.float32(1))
    got = merged["w"] if outputs_first else merged["w"].T
    assert got.dtype == np.int8
    assert np.array_equal(got.reshape(last - first, -1), np.rint(wanted / scales[:, None]))
    assert np.abs(got).max() <= LIMIT
    assert np.array_equal(merged["s"], scales)
    assert np.array_equal(merged["b"], np.rint(bias * (old / scales).astype(np.float64)))
    assert np.allclose(merged["b"] * merged["bs"], bias * bias_scale, atol=merged["bs"])
    assert merged.spare == {"bs"}


def test_scales_that_may_not_change_cut_off_what_is_beyond(tmp_path: Path) -> None:
    file, integers = DataFile(), np.full((2, 3), 60, np.int8)
    scale = file.put("s", np.ones(2, np.float32))
    layer = Layer("m", file.put("w", integers), True, None, scale, LIMIT, None, keeps_scale=True)
    delta = np.array([[1, 9, -200], [0, 3, 4]], np.float32)
    merged = merge_layer(file.mapped(tmp_path), layer, delta)
    assert merged.keys() == {"w"}
    assert np.array_equal(merged["w"], [[61, 63, -63], [60, 63, 63]])


def test_changes_beyond_all_bounds_are_refused(tmp_path: Path) -> None:
    file = DataFile()
    scale = file.put("s", np.ones(2, np.float32))
    layer = Layer("conv_in", file.put("w", np.ones((2, 3), np.int8)), True, None, scale)
    with pytest.raises(LoraError, match="conv_in is beyond all bounds"):
        merge_layer(file.mapped(tmp_path), layer, np.full((2, 3), np.inf, np.float32))
