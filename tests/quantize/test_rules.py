"""Every rule fires where it should, computes what was computed before, and can be switched off."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import checkpoint as tiny
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import BasicTransformerBlock
from torch import nn

from quantize.cli import cli
from quantize.graphs import layers, op_counts
from quantize.metrics import relative_error
from quantize.rules import RULES, UnknownRule, check_names, rules_of
from quantize.rules.tune import tune

PARITY = 1e-4
FLOAT_RULES = [rule.name for rule in RULES if rule.stage == "float"]
Inputs = tuple[torch.Tensor, ...]


class Function(nn.Module):
    """A module made of a function and the layers it calls."""

    def __init__(self, function: Callable[..., torch.Tensor], *parts: nn.Module):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self._function = function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self._function(*self.parts, *inputs)


def traced(module: nn.Module, inputs: Inputs, **options: Any) -> onnx.ModelProto:
    """The graph as PyTorch's exporter writes it, for any batch and sequence."""
    names = [f"in{i}" for i in range(len(inputs))]
    axes = {"dynamo": False, "dynamic_axes": {name: {0: "batch", 1: f"length{name}"} for name in names}}
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), inputs, buffer, opset_version=18, input_names=names, **(options or axes)
        )
    return onnx.load_from_string(buffer.getvalue())


def run(model: onnx.ModelProto, inputs: Inputs) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    return session.run(None, feeds)[0]


def tuned(model: onnx.ModelProto, *only: str) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The graph after the rules named, or all of them, and how often each fired."""
    changed = ir.from_proto(model)
    fired = tune(changed, [name for name in FLOAT_RULES if only and name not in only])
    return ir.to_proto(changed), fired


def assert_same(module: nn.Module, model: onnx.ModelProto, inputs: Inputs) -> None:
    with torch.no_grad():
        wanted = module(*inputs)
    assert relative_error(wanted.numpy(), run(model, inputs)) <= PARITY


def sdpa(to_q: nn.Module, to_k: nn.Module, to_v: nn.Module, x: Any, context: Any) -> torch.Tensor:
    """As diffusers calls it."""
    q, k, v = (
        f(y).view(len(y), -1, 2, 8).transpose(1, 2) for f, y in ((to_q, x), (to_k, context), (to_v, context))
    )
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(x), -1, 16)


def written_out(to_q: nn.Module, to_k: nn.Module, to_v: nn.Module, x: Any, context: Any) -> torch.Tensor:
    """Attention as optimum's older exports have it: the scores scaled, then normalized."""
    q, k, v = (f(y) for f, y in ((to_q, x), (to_k, context), (to_v, context)))
    q, k, v = (y.reshape(y.shape[0], -1, 2, 8).permute(0, 2, 1, 3) for y in (q, k, v))
    mixed = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, dim=-1) @ v
    return mixed.permute(0, 2, 1, 3).reshape(x.shape[0], -1, 16)


def linears(*sides: tuple[int, int], bias: bool = False) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Linear(*side, bias=bias) for side in sides]


def attention_case(function: Callable[..., torch.Tensor]) -> tuple[nn.Module, Inputs]:
    return Function(function, *linears((16, 16), (12, 16), (12, 16))), (
        torch.randn(2, 9, 16),
        torch.randn(2, 7, 12),
    )


@pytest.mark.parametrize("function", [sdpa, written_out])
def test_attention_of_a_traced_graph_becomes_one_node(function: Callable[..., torch.Tensor]):
    module, inputs = attention_case(function)
    model, fired = tuned(traced(module, inputs))
    assert fired["one-node-attention"] == 1
    counts = op_counts(model)
    assert counts["MultiHeadAttention"] == 1
    assert not {"Softmax", "Transpose"} & set(counts)
    assert_same(module, model, inputs)
    assert_same(module, model, (torch.randn(1, 4, 16), torch.randn(1, 11, 12)))


@pytest.mark.parametrize("function", [sdpa, written_out])
def test_attention_of_a_dynamo_export_becomes_one_node(function: Callable[..., torch.Tensor]):
    module, inputs = attention_case(function)
    model, fired = tuned(traced(module, inputs, dynamo=True, verbose=False))
    assert fired["one-node-attention"] == 1
    assert "Softmax" not in op_counts(model)
    assert_same(module, model, inputs)


@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
def test_attention_of_diffusers_own_processors_becomes_one_node(processor: type):
    torch.manual_seed(0)
    attention = Attention(16, cross_attention_dim=12, heads=2, dim_head=8, processor=processor())
    inputs = torch.randn(2, 9, 16), torch.randn(2, 7, 12)
    model, fired = tuned(traced(attention, inputs))
    assert fired["one-node-attention"] == 1
    assert_same(attention, model, inputs)


def test_attention_with_a_mask_is_left_alone():
    def masked(to_q: nn.Module, to_k: nn.Module, to_v: nn.Module, x: Any, context: Any) -> torch.Tensor:
        q, k, v = (
            f(y).unflatten(2, (2, 8)).transpose(1, 2)
            for f, y in ((to_q, x), (to_k, context), (to_v, context))
        )
        mask = torch.ones(9, 7).tril().log()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

    module, inputs = attention_case(masked)
    model, fired = tuned(traced(module, inputs))
    assert "one-node-attention" not in fired
    assert_same(module, model, inputs)


def test_what_only_looks_like_attention_is_left_alone():
    """Values that were scaled too, and keys that were never swapped."""

    def scaled_values(
        to_q: nn.Module, to_k: nn.Module, to_v: nn.Module, x: Any, context: Any
    ) -> torch.Tensor:
        return written_out(to_q, to_k, lambda y: 2 * to_v(y), x, context)  # type: ignore[arg-type]

    def square(to_q: nn.Module, to_k: nn.Module, to_v: nn.Module, x: Any) -> torch.Tensor:
        q, k, v = (f(x).reshape(2, 8, 2, 8).permute(0, 2, 1, 3) for f in (to_q, to_k, to_v))
        return (torch.softmax(q @ k, dim=-1) @ v).permute(0, 2, 1, 3).reshape(2, 8, 16)

    module, inputs = attention_case(scaled_values)
    assert_same(module, tuned(traced(module, inputs))[0], inputs)
    unswapped = Function(square, *linears((16, 16), (16, 16), (16, 16)))
    x = (torch.randn(2, 8, 16),)
    model, fired = tuned(traced(unswapped, x, dynamo=False))
    assert "one-node-attention" not in fired
    assert_same(unswapped, model, x)


def geglu(proj: nn.Module, x: torch.Tensor) -> torch.Tensor:
    value, gate = proj(x).chunk(2, dim=-1)
    return value * F.gelu(gate)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    "known-dims": (lambda: Function(geglu, *linears((16, 24), bias=True)), (2, 5, 16), ()),
    "no-ops": (lambda: Function(lambda x: (x + 0.0).relu() / 1.0), (2, 5, 16), ("Div", "Add")),
    "sliced-linear": (
        lambda: Function(geglu, *linears((16, 24), bias=True)),
        (2, 5, 16),
        ("Slice", "Split"),
    ),
    "bias-into-gemm": (
        lambda: Function(lambda f, x: f(x), *linears((16, 24), bias=True)),
        (2, 5, 16),
        ("MatMul",),
    ),
}


def group_norm(norm: nn.Module, conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return conv(norm(x))


def norm_and_conv(kernel: int) -> nn.Module:
    torch.manual_seed(1)
    norm = nn.GroupNorm(4, 16)
    for values in norm.parameters():
        nn.init.normal_(values)
    return Function(group_norm, norm, nn.Conv2d(16, 8, kernel, padding=kernel // 2))


CASES["affine-into-conv"] = (lambda: norm_and_conv(1), (2, 16, 16, 16), ("Add", "Mul"))
CASES["affine-in-one-pass"] = (lambda: norm_and_conv(3), (2, 16, 16, 16), ("Add", "Mul"))


def test_a_padded_convolution_keeps_the_norms_offset_outside():
    """What lies beyond the border is 0 after the offset, not before it."""
    module, inputs = norm_and_conv(3), (torch.randn(2, 16, 16, 16),)
    model, fired = tuned(traced(module, inputs), "affine-into-conv")
    assert "affine-into-conv" not in fired
    assert_same(module, model, inputs)


@pytest.mark.parametrize("name", CASES)
def test_rule(name: str):
    """Alone, with known shapes, it fires, leaves none of its operators, and changes no result."""
    make, shape, gone = CASES[name]
    module, inputs = make(), (torch.randn(shape),)
    model, fired = tuned(traced(module, inputs), name, "known-dims")
    assert fired[name] >= 1
    assert not set(gone) & set(op_counts(model))
    assert_same(module, model, inputs)
    assert_same(module, model, (torch.randn(1, *shape[1:]),))


@pytest.mark.parametrize("name", CASES)
def test_a_rule_switched_off_does_not_fire(name: str):
    make, shape, _ = CASES[name]
    changed = ir.from_proto(traced(make(), (torch.randn(shape),)))
    assert name not in tune(changed, [name])


MOVES = """<ir_version: 10, opset_import: ["" : 18]> g (float[b, 5, 16] in0) => (float[b, 80] out)
    <int64[3] first = {-1, 5, 16}, int64[2] second = {-1, 80}> {
        t = Transpose<perm = [0, 2, 1]>(in0)
        u = Transpose<perm = [0, 2, 1]>(t)
        r = Relu(u)
        v = Reshape(r, first)
        out = Reshape(v, second)
    }"""


def test_moves_that_cancel_are_dropped():
    x = (torch.randn(3, 5, 16),)
    before = onnx.parser.parse_model(MOVES)
    after, fired = tuned(before, "moves")
    assert fired == {"moves": 2}
    assert op_counts(after) == {"Relu": 1, "Reshape": 1}
    assert np.array_equal(run(before, x), run(after, x))
    assert op_counts(tuned(before, "no-ops")[0])["Transpose"] == 2


def test_every_rule_has_a_case():
    covered = {*CASES, "moves", "one-node-attention"}
    assert covered == set(FLOAT_RULES)
    assert {rule.name for rule in rules_of("int8")} == {"int8-embeddings", "fp16-leftovers"}


def test_a_transformer_block_is_rewritten_by_all_rules_and_keeps_its_layers_names():
    torch.manual_seed(0)
    block = BasicTransformerBlock(16, 2, 8, cross_attention_dim=12)
    module = Function(lambda b, x, c: b(x, encoder_hidden_states=c), block)
    inputs = torch.randn(2, 9, 16), torch.randn(2, 7, 12)
    model, fired = tuned(traced(module, inputs))
    assert fired["one-node-attention"] == 2
    assert fired["sliced-linear"] == 2
    assert fired["bias-into-gemm"] == 5  # two halves of GEGLU, the layer after it, two to_out
    assert_same(module, model, inputs)
    named = layers(model)
    assert len(named) == len(set(named)) == 11
    for part in ("attn1/to_q", "attn2/to_v", "attn1/to_out.0", "ff/net.0/proj", "ff/net.2"):
        assert any(part in name for name in named), (part, named)


def test_a_whole_denoiser_that_others_exported_computes_the_same():
    torch.manual_seed(0)
    unet = tiny.unet(addition_embed_type=None, resnet_time_scale_shift="default")
    module = Function(lambda u, x, t, c: u(x, t, c, return_dict=False)[0], unet)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([10.0]), torch.randn(2, 16, 16)
    model, fired = tuned(traced(module, inputs, dynamo=False))
    assert fired["one-node-attention"] == 8
    assert_same(module, model, inputs)


def test_rules_are_listed_and_names_are_checked(tmp_path: Any):
    shown = CliRunner().invoke(cli, ["rules"]).output
    assert all(rule.name in shown and rule.does in shown and rule.pays in shown for rule in RULES)
    with pytest.raises(UnknownRule, match="did you mean sliced-linear"):
        check_names(["slicedlinear"])
    with pytest.raises(UnknownRule, match="known are known-dims, no-ops"):
        check_names(["xyz"])
