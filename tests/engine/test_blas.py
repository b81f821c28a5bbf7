"""numpy's matrix products within one thread."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from edgegen.engine import blas


@pytest.fixture(autouse=True)
def forget():
    blas._thread_functions.cache_clear()
    yield
    blas._thread_functions.cache_clear()


def test_threads_are_one_within_and_as_before_after() -> None:
    np.ones((2, 2)) @ np.ones((2, 2))
    if not blas._loaded_libraries():
        pytest.skip("this numpy has no OpenBLAS")
    get, set_ = blas._thread_functions()
    before = get()
    set_(2)
    try:
        with blas.single_threaded():
            assert get() == 1
        assert get() == 2
        with pytest.raises(KeyError), blas.single_threaded():
            raise KeyError
        assert get() == 2
    finally:
        set_(before)


@pytest.mark.parametrize(
    "maps", [None, "", "7f00-7f01 r-xp 0 08:01 5  /no/such/libopenblas.so\n7f02-7f03 rw-p 0 0:0 0\n"]
)
def test_where_no_openblas_is_found_nothing_happens(tmp_path: Path, monkeypatch, maps: str | None) -> None:
    if maps is not None:
        (tmp_path / "maps").write_text(maps)
    monkeypatch.setattr(blas, "MAPS", tmp_path / "maps")
    with blas.single_threaded():
        assert (np.eye(3) @ np.eye(3)).sum() == 3


def test_a_library_of_that_name_without_such_functions(tmp_path: Path, monkeypatch) -> None:
    libc = next(
        line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libc" in line
    )
    link = tmp_path / "libopenblas.so"
    link.symlink_to(libc)
    (tmp_path / "maps").write_text(f"7f00-7f01 r-xp 00000000 08:01 5 {link}\n")
    monkeypatch.setattr(blas, "MAPS", tmp_path / "maps")
    assert ctypes.CDLL(str(link))
    with blas.single_threaded():
        pass
