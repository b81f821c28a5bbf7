"""PyTorch -> ONNX, one graph at a time, and the proof that both compute the same.

The tracing exporter is used, not `dynamo=True`: on the same UNet it takes seconds where the other takes
minutes, keeps the module path of every layer in the node's name (what `--keep-float` and the reports
speak of), and ONNX Runtime makes the same kernels of both. Attention is one node either way, see
`attention`.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
import torch
from torch import nn
from torch.onnx import symbolic_helper

from edgegen.errors import EdgegenError

from . import source as sources
from .attention import ONE_NODE, use_one_node_attention
from .graphs import annotate_types, load_graph, save_graph
from .metrics import relative_error
from .rules.tune import tune
from .source import Source

OPSET = 18
ROLES = ("text_encoder", "unet", "vae_decoder")
OPTIONAL_ROLES = ("vae_encoder",)
PARITY = 1e-4


class ExportError(EdgegenError, RuntimeError):
    """The exported graph does not compute what the checkpoint computes."""

    code = "bad_export"
    exit_code = 5


@dataclass(frozen=True)
class GraphSpec:
    """How one part of a checkpoint becomes a graph.

    Attributes:
        module: the torch module; its inputs and outputs in the order of the names.
        axes: tensor name -> {axis: name} of all axes that may change between runs.
        examples: (batch, scale) -> inputs; the first is traced, the others only compared.
    """

    role: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: dict[str, dict[int, str]]
    examples: Callable[[int, tuple[int, int]], tuple[torch.Tensor, ...]]


_PICTURE_AXES = {0: "batch", 2: "height", 3: "width"}
_WORD_AXES = {0: "batch", 1: "sequence"}


class _TextEncoder(nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.text_encoder = model

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.text_encoder(input_ids)
        return out.last_hidden_state, out.pooler_output


class _Unet(nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.unet = model

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return self.unet(sample, timestep, words, return_dict=False)[0]


class _VaeDecoder(nn.Module):
    """Takes latents / latent_scale, as the runtime hands them over; adds the shift some autoencoders have."""

    def __init__(self, model: Any, shift: float):
        super().__init__()
        self.vae, self.shift = model, shift

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latents + self.shift if self.shift else latents, return_dict=False)[0]


class _VaeEncoder(nn.Module):
    """The mean of the latents, before scaling."""

    def __init__(self, model: Any, shift: float):
        super().__init__()
        self.vae, self.shift = model, shift

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        encoded = self.vae.encode(sample, return_dict=False)[0]
        latents = encoded.mode() if hasattr(encoded, "mode") and not torch.is_tensor(encoded) else encoded
        return latents - self.shift if self.shift else latents


def text_encoder_spec(source: Source) -> GraphSpec:
    """input_ids (batch, sequence) int64 -> last_hidden_state, pooler_output."""
    model = sources.load_text_encoder(source)
    model.set_attn_implementation(ONE_NODE)
    vocabulary = int(model.config.vocab_size)

    def examples(batch: int, scale: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        length = max(3, source.max_length * scale[0] // scale[1])
        return (torch.randint(0, vocabulary, (batch, length)),)

    axes = {"input_ids": _WORD_AXES, "last_hidden_state": _WORD_AXES, "pooler_output": {0: "batch"}}
    outputs = ("last_hidden_state", "pooler_output")
    return GraphSpec("text_encoder", _TextEncoder(model), ("input_ids",), outputs, axes, examples)


def unet_spec(source: Source) -> GraphSpec:
    """sample (batch, c, h, w), timestep (1,) float32, encoder_hidden_states -> out_sample.

    Timesteps are float: some spacings lie between two training steps.
    """
    model = sources.load_unet(source)
    use_one_node_attention(model)
    width = int(source.configs["text_encoder"]["hidden_size"])
    step = 2 ** (len(model.config.block_out_channels) - 1)

    def examples(batch: int, scale: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        high, wide = _sides(source.native_size // source.latent_downscale, scale, step)
        sample = torch.randn(batch, source.latent_channels, high, wide)
        return sample, torch.tensor([501.0]), torch.randn(batch, source.max_length, width)

    axes = {"sample": _PICTURE_AXES, "encoder_hidden_states": _WORD_AXES, "out_sample": _PICTURE_AXES}
    inputs = ("sample", "timestep", "encoder_hidden_states")
    return GraphSpec("unet", _Unet(model), inputs, ("out_sample",), axes, examples)


def vae_decoder_spec(source: Source) -> GraphSpec:
    """latent_sample (batch, c, h, w), already divided by latent_scale -> sample in [-1, 1]."""
    model = sources.load_vae(source)
    use_one_node_attention(model)
    module = _VaeDecoder(model, source.latent_shift)

    def examples(batch: int, scale: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        high, wide = _sides(source.native_size // source.latent_downscale, scale, 1)
        return (torch.randn(batch, source.latent_channels, high, wide),)

    axes = {"latent_sample": _PICTURE_AXES, "sample": _PICTURE_AXES}
    return GraphSpec("vae_decoder", module, ("latent_sample",), ("sample",), axes, examples)


def vae_encoder_spec(source: Source) -> GraphSpec:
    """sample (batch, 3, H, W) in [-1, 1] -> latent_sample, before scaling."""
    model = sources.load_vae(source)
    use_one_node_attention(model)
    module = _VaeEncoder(model, source.latent_shift)

    def examples(batch: int, scale: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        high, wide = _sides(source.native_size, scale, source.latent_downscale)
        return (torch.rand(batch, 3, high, wide) * 2 - 1,)

    axes = {"sample": _PICTURE_AXES, "latent_sample": _PICTURE_AXES}
    return GraphSpec("vae_encoder", module, ("sample",), ("latent_sample",), axes, examples)


def _sides(side: int, scale: tuple[int, int], multiple: int) -> tuple[int, int]:
    """A square at scale 1/1; else lower than wide, so that swapped axes show."""
    high = max(multiple, side * scale[0] // scale[1] // multiple * multiple)
    return (high, high) if scale == (1, 1) else (high, high + multiple)


SPECS: dict[str, Callable[[Source], GraphSpec]] = {
    "text_encoder": text_encoder_spec,
    "unet": unet_spec,
    "vae_decoder": vae_decoder_spec,
    "vae_encoder": vae_encoder_spec,
}


def export(source: Source, role: str, path: Path, without_rules: Collection[str] = ()) -> float:
    """Export one role in float32, check it, and compare it with torch at three shapes.

    Args:
        path: the .onnx to write; its folder is made, its weights go beside it.
        without_rules: names of rewrites to leave out.
    Returns:
        The largest relative error found, at most 1e-4.
    Raises:
        ExportError: the graph is invalid, or computes something else than torch.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    spec = SPECS[role](source)
    runs = [spec.examples(*which) for which in ((2, (1, 1)), (1, (1, 1)), (3, (1, 2)))]
    try:
        trace(spec, runs[0], path)
        tidy(path, without_rules)
        onnx.checker.check_model(str(path))
        return compare(spec, runs, path)
    except onnx.checker.ValidationError as err:
        raise ExportError(f"{role}: the exported graph is not valid ONNX: {err}") from err
    finally:
        del spec
        gc.collect()


def trace(spec: GraphSpec, example: tuple[torch.Tensor, ...], path: Path) -> None:
    """Write the graph as traced, weights beside it."""
    torch.onnx.register_custom_op_symbolic("aten::movedim", _movedim, OPSET)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # tracing warns of every Python branch; parity at 3 shapes is the proof
        torch.onnx.export(
            spec.module,
            example,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(spec.inputs),
            output_names=list(spec.outputs),
            dynamic_axes=spec.axes,
        )


def _movedim(g: Any, x: Any, source: Any, destination: Any) -> Any:
    """Transpose; the exporter's own version passes negative axes on, which ONNX forbids."""
    rank = symbolic_helper._get_tensor_rank(x)
    if rank is None:
        raise ExportError("movedim of a tensor whose rank is not known cannot be exported")
    src, dst = (_axes_of(value, rank) for value in (source, destination))
    rest = iter([axis for axis in range(rank) if axis not in src])
    return g.op("Transpose", x, perm_i=[src[dst.index(i)] if i in dst else next(rest) for i in range(rank)])


def _axes_of(value: Any, rank: int) -> list[int]:
    constant = symbolic_helper._maybe_get_const(value, "t")
    return [int(axis) % rank for axis in torch.atleast_1d(torch.as_tensor(constant))]


def tidy(path: Path, without_rules: Collection[str] = ()) -> dict[str, int]:
    """Fold constants, apply the rules, annotate types, and store the weights aligned in one file.

    Returns:
        Rule -> how often it fired, for those that did.
    """
    model = onnx_ir.load(path)
    fired = tune(model, without_rules)
    proto = onnx_ir.serde.serialize_model(model)
    onnx.load_external_data_for_model(proto, str(path.parent))
    leftovers = [p for p in path.parent.iterdir() if p.is_file()]
    del model
    for leftover in leftovers:
        leftover.unlink()
    save_graph(proto, path)
    del proto
    annotated = annotate_types(load_graph(path, weights=False))
    path.write_bytes(annotated.SerializeToString())
    return fired


def compare(spec: GraphSpec, runs: list[tuple[torch.Tensor, ...]], path: Path) -> float:
    """Largest relative error of the graph in ONNX Runtime against torch over all runs."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for run in runs:
        with torch.no_grad():
            wanted = spec.module(*run)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        feeds = {name: tensor.numpy() for name, tensor in zip(spec.inputs, run, strict=True)}
        for name, want, got in zip(spec.outputs, wanted, session.run(list(spec.outputs), feeds), strict=True):
            error = relative_error(np.asarray(want), got)
            worst = max(worst, error)
            if not error <= PARITY:
                shapes = ", ".join(str(tuple(t.shape)) for t in run)
                raise ExportError(
                    f"{spec.role}: {name} differs from torch by {error:.2e} at {shapes}; at most {PARITY}"
                )
    return worst
