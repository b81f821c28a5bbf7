"""Our own attention, and how graphs come by it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgegen.engine.operators.rewriting import with_own_operators
from edgegen.engine.providers import ProviderChoice, choose_provider
from edgegen.engine.session import GraphSession, open_session
from edgegen.engine.sessioncache import SessionCache
from edgegen.errors import EngineError
from edgegen.pack import Pack

from .conftest import POCKET, ROOT, StandIn, built, needs_library


def model_of(heads: int, width: int, inputs: int = 3, **attributes: object) -> onnx.ModelProto:
    """One attention: inputs q, k, v ... of (batch, tokens, width) float32 -> out."""
    names = ["q", "k", "v", "bias"][:inputs]
    node = helper.make_node(
        "MultiHeadAttention", names, ["out"], domain="com.microsoft", num_heads=heads, **attributes
    )
    shapes = {name: [None, None, width] for name in "qkv"} | {"bias": [3 * width]}
    given_ = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in names]
    out = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None, None, width])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph([node], "g", given_, out), opset_imports=opsets, ir_version=9)


def session_of(folder: Path, heads: int, width: int, threads: int = 1, **attributes: object) -> GraphSession:
    path = folder / f"{heads}-{width}-{len(list(folder.iterdir()))}.onnx"
    onnx.save(model_of(heads, width, **attributes), path)
    return open_session(path, ProviderChoice("cpu", "a test", operators=built), threads, "attention")


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int, scale: float = 0.0) -> np.ndarray:
    """softmax(q k^T * scale) v in float64, head by head."""
    parts = [np.stack(np.split(x.astype(np.float64), heads, -1), 1) for x in (q, k, v)]
    scores = parts[0] @ parts[1].swapaxes(-1, -2) * (scale or parts[0].shape[-1] ** -0.5)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out = weights / weights.sum(-1, keepdims=True) @ parts[2]
    return np.concatenate(list(out.swapaxes(0, 1)), -1)


def drawn(shape: tuple[int, int, int], keys: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    batch, tokens, width = shape
    sizes = {"q": tokens, "k": keys, "v": keys}
    return {n: random.standard_normal((batch, size, width), np.float32) for n, size in sizes.items()}


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.sqrt(((got - want) ** 2).mean() / (want**2).mean()))


@needs_library
@pytest.mark.parametrize(
    ("tokens", "keys", "heads", "depth"),
    [
        (96, 96, 8, 40),  # Stable Diffusion 1's three depths
        (64, 77, 8, 80),
        (64, 64, 8, 160),
        (130, 1100, 2, 64),  # more keys than are scored at a time
        (48, 513, 1, 512),  # the decoder's
        (1, 1, 1, 1),
        (5, 3, 3, 7),
    ],
)
def test_computes_attention(
    kind: str, tmp_path: Path, tokens: int, keys: int, heads: int, depth: int
) -> None:
    feeds = drawn((2, tokens, heads * depth), keys)
    feeds["q"] *= 2
    out = session_of(tmp_path, heads, heads * depth).run(feeds)["out"]
    assert out.shape == feeds["q"].shape
    assert relative_error(out, reference(**feeds, heads=heads)) < 2.5e-3


@needs_library
@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(1, 60),
    keys=st.integers(1, 600),
    heads=st.integers(1, 4),
    depth=st.integers(1, 70),
    sharpness=st.sampled_from([0.0, 0.1, 1.0, 8.0, 1e3]),
    size=st.sampled_from([1e-6, 1.0, 1e4]),
)
def test_any_shape_and_any_range(tmp_path_factory, tokens, keys, heads, depth, sharpness, size) -> None:
    feeds = drawn((1, tokens, heads * depth), keys, seed=keys)
    feeds["q"] *= np.float32(sharpness)
    feeds["v"] *= np.float32(size)
    out = session_of(tmp_path_factory.mktemp("m"), heads, heads * depth).run(feeds)["out"]
    want = reference(**feeds, heads=heads)
    most = np.abs(feeds["v"]).max()
    # scores are off by up to a 4095th of the largest, which a sharp softmax turns into weights
    assert np.abs(out - want).max() < most * (2.5e-3 + sharpness * 6e-3)
    assert np.abs(out).max() <= most * 1.001


@needs_library
def test_attends_evenly_when_nothing_tells_keys_apart(kind: str, tmp_path: Path) -> None:
    feeds = drawn((1, 30, 24), 555)
    feeds["q"][:] = 0
    out = session_of(tmp_path, 3, 24).run(feeds)["out"]
    even = np.broadcast_to(feeds["v"].mean(1, keepdims=True), out.shape)
    np.testing.assert_allclose(out, even, atol=2e-3)  # of values up to 4


@needs_library
def test_the_scale_given_is_the_one_taken(tmp_path: Path) -> None:
    feeds = drawn((1, 20, 32), 40)
    out = session_of(tmp_path, 2, 32, scale=0.7).run(feeds)["out"]
    assert relative_error(out, reference(**feeds, heads=2, scale=0.7)) < 2.5e-3


@needs_library
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_comes_out_as_nan(kind: str, tmp_path: Path, bad: float) -> None:
    session, feeds = session_of(tmp_path, 2, 20), drawn((1, 30, 20), 50)
    of_query = {n: x.copy() for n, x in feeds.items()}
    of_query["q"][0, 7, 3] = bad
    wrong = np.isnan(session.run(of_query)["out"])
    assert wrong[0, 7, :10].all() and wrong.sum() == 10
    for name in "kv":
        of_key = {n: x.copy() for n, x in feeds.items()}
        of_key[name][0, 49, 13] = bad
        wrong = np.isnan(session.run(of_key)["out"])
        assert wrong[0, :, 10:].all() and not wrong[0, :, :10].any()


@needs_library
def test_threads_and_company_change_no_bit(kind: str, tmp_path: Path) -> None:
    feeds = drawn((3, 200, 80), 700)
    one, two = (session_of(tmp_path, 8, 80, threads).run(feeds)["out"] for threads in (1, 2))
    np.testing.assert_array_equal(one, two)
    alone = session_of(tmp_path, 8, 80).run({name: x[1:2] for name, x in feeds.items()})["out"]
    np.testing.assert_array_equal(one[1:2], alone)


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from edgegen.engine.providers import ProviderChoice
from edgegen.engine.session import open_session
session = open_session(Path(sys.argv[1]), ProviderChoice("cpu", "", operators=Path(sys.argv[2])), 2)
feeds = {n: np.ones((1, tokens, 320), np.float32) for n, tokens in zip("qkv", (4096, 4096, 4096))}
session.run({n: x[:, :64] for n, x in feeds.items()})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
session.run(feeds)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_what_a_chip_with_avx_vnni_would_compute(stand_in: StandIn) -> None:
    feeds = drawn((2, 70, 120), 600)
    out = stand_in(model_of(3, 120), feeds)
    assert relative_error(out, reference(**feeds, heads=3)) < 2.5e-3


@needs_library
def test_scores_are_never_whole(tmp_path: Path) -> None:
    """8 heads of 4096 x 4096 scores are 537 MB; the packed keys and values of Stable Diffusion 1 some 6."""
    path = tmp_path / "m.onnx"
    onnx.save(model_of(8, 320), path)
    command = [sys.executable, "-c", MEMORY, str(path), str(built)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) < 40_000  # KiB


@needs_library
@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({"q": (1, 4, 16), "k": (1, 5, 16), "v": (1, 6, 16)}, "do not fit together"),
        ({"q": (2, 4, 16), "k": (1, 5, 16), "v": (1, 5, 16)}, "do not fit together"),
        ({"q": (1, 4, 16), "k": (1, 0, 16), "v": (1, 0, 16)}, "no keys"),
    ],
)
def test_shapes_that_do_not_fit_are_named(tmp_path: Path, feeds, said: str) -> None:
    session = session_of(tmp_path, 2, 16)
    with pytest.raises(EngineError, match=said):
        session.run({name: np.zeros(shape, np.float32) for name, shape in feeds.items()})
    assert session.run(drawn((1, 4, 16), 5))["out"].shape == (1, 4, 16)


@needs_library
def test_what_no_graph_of_ours_asks_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="scale must be 0 or more"):
        session_of(tmp_path, 2, 16, scale=-1.0)
    with pytest.raises(EngineError, match="num_heads must be 1 or more"):
        session_of(tmp_path, 0, 16)
    for width in (0, 1025):
        with pytest.raises(EngineError, match="must have 1 to 1024 dimensions"):
            session_of(tmp_path, 1, width).run(drawn((1, 2, width), 2))


@needs_library
def test_no_queries_are_no_error(tmp_path: Path) -> None:
    feeds = drawn((1, 0, 16), 5)
    assert session_of(tmp_path, 2, 16).run(feeds)["out"].shape == (1, 0, 16)


@needs_library
def test_a_width_that_heads_do_not_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no multiple of num_heads"):
        session_of(tmp_path, 3, 16).run(drawn((1, 4, 16), 5))


def domains(model: bytes) -> list[str]:
    return [node.domain for node in onnx.load_from_string(model).graph.node]


def test_only_plain_attention_is_turned_over() -> None:
    plain = model_of(2, 16).SerializeToString()
    own = with_own_operators(plain, Path())
    assert domains(own) == ["edgegen"]
    assert {o.domain: o.version for o in onnx.load_from_string(own).opset_import}["edgegen"] == 1
    assert with_own_operators(own, Path()) == own
    for other in (model_of(2, 16, unidirectional=1), model_of(2, 16, inputs=4), onnx.ModelProto()):
        assert with_own_operators(other.SerializeToString(), Path()) == other.SerializeToString()
    plain = model_of(2, 16, unidirectional=0).SerializeToString()
    assert domains(with_own_operators(plain, Path())) == ["edgegen"]


@pytest.mark.parametrize("junk", [b"", b"MultiHeadAttention", b"\x3a\xff\x7fMultiHeadAttention"])
def test_what_is_no_graph_stays_as_it_is(junk: bytes) -> None:
    assert with_own_operators(junk, Path()) == junk


@needs_library
def test_a_pack_computes_alike_with_either() -> None:
    """Layers in 8 bits round: any change, however small, moves some values to the next level. Our attention
    does no more than latents that are a millionth off do."""
    pack, random = Pack.open(POCKET), np.random.default_rng(3)
    own, stock = (
        SessionCache(pack, choice, 1).get("unet")
        for choice in (
            ProviderChoice("cpu", "", operators=built),
            choose_provider("cpu", operators="runtime"),
        )
    )
    sides = {"sample": (1, 16, 32, 32), "encoder_hidden_states": (1, 77, 1)}
    feeds = {}
    for name, shape in own.shapes.items():
        fixed = sides.get(name, (1,) * len(shape))
        feeds[name] = random.standard_normal([s or f for s, f in zip(shape, fixed, strict=True)], np.float32)
    feeds["timestep"] = np.array([500.0], np.float32)
    ours, theirs = (session.run(feeds)["out_sample"] for session in (own, stock))
    moved = 1 + 1e-6 * random.standard_normal(feeds["sample"].shape)
    nearly = feeds | {"sample": feeds["sample"] * moved.astype(np.float32)}
    floor = relative_error(stock.run(nearly)["out_sample"], theirs)
    assert 0 < relative_error(ours, theirs) < 1.2 * floor
