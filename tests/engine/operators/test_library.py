"""The library of our operators, and that all goes on without it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgegen.engine import providers
from edgegen.engine.operators import library
from edgegen.engine.operators.library import own_operators
from edgegen.engine.providers import choose_provider
from edgegen.engine.sessioncache import SessionCache
from edgegen.engine.textgraph import TextEdit
from edgegen.errors import ProviderError
from edgegen.pack import Pack

from .conftest import POCKET, built


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no compiler")
def test_it_is_built_where_a_compiler_is() -> None:
    assert built is not None


def test_without_the_library_onnx_runtime_computes(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "LIBRARIES", [tmp_path / "_native.so"])
    own_operators.cache_clear()
    try:
        assert choose_provider("cpu").operators is None
        (tmp_path / "_native.so").write_bytes(b"not a library")
        own_operators.cache_clear()
        assert choose_provider("cpu").operators is None
    finally:
        own_operators.cache_clear()


def test_it_can_be_left_to_onnx_runtime() -> None:
    assert choose_provider("cpu", operators="runtime").operators is None
    with pytest.raises(ProviderError, match="operators is 'mine'; known are auto, runtime"):
        choose_provider("cpu", operators="mine")


def test_left_to_onnx_runtime_no_graph_registers_the_library(monkeypatch) -> None:
    """Not even a text encoder that was changed, which has a provider of its own."""

    def asked() -> None:
        raise AssertionError("the library is looked for")

    monkeypatch.setattr(providers, "own_operators", asked)
    cache = SessionCache(Pack.open(POCKET), choose_provider("cpu", operators="runtime"), 1)
    assert cache.get("text_encoder", TextEdit(hidden=1)).outputs
    assert cache.get("unet").outputs
