"""A denoiser's graph that also looks at pictures, as IP-Adapters show them; it reads the first's weights.

Beside every cross attention a second one is put, whose queries are the same and whose keys and values come
from outside: `ip_keys` and `ip_values`, all layers side by side. Its result is added to the first's, so
that values of zero say nothing, and how much a picture counts is a matter of the values. Of several adapters
each has rows of its own, those of the whole batch one adapter after the other; what they say is added up.
Where each row counts says `ip_mask_LEVEL`, one weight for every place, or one for all. This can be done in a
graph of any precision. Source: Ye et al. 2023, arXiv:2308.06721, eq. 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgegen.errors import EdgegenError
from edgegen.pack import DenoiserPart, IpLayer

from .graphs import annotate_types, initializers, load_graph

IMAGE = {"model.onnx": "ip.onnx", "control.onnx": "control_ip.onnx"}
"""Graph of a denoiser -> the one beside it that looks at pictures, too."""
KEYS, VALUES, MASK = "ip_keys", "ip_values", "ip_mask"
ATTENTION, _WORDS = "MultiHeadAttention", "encoder_hidden_states"
_PREFIX = "/ip/"
_SIZES, _ZERO, _ONES, _REST = "/ip/channels", "/ip/0", "/ip/ones", "/ip/rest"
_REPEATS, _FOLDED = "/ip/repeats", "/ip/folded"


class ImagePromptError(EdgegenError, ValueError):
    """The denoiser is none that IP-Adapters can speak to."""

    code = "bad_image_prompt"
    exit_code = 5


@dataclass(frozen=True)
class Depths:
    """Cross attentions of each block of transformers, as they run: on the way down, in the middle, up."""

    down: tuple[int, ...]
    mid: tuple[int, ...]
    up: tuple[int, ...]
    levels: tuple[int, ...]  # of each place: how often the latents are halved there

    def layers(self) -> list[tuple[int, DenoiserPart]]:
        """(place, part) of every cross attention as they run: a place is one block of transformers."""
        parts: tuple[DenoiserPart, ...] = ("down", "mid", "up")
        blocks = [(depth, part) for part in parts for depth in getattr(self, part)]
        return [(place, part) for place, (depth, part) in enumerate(blocks) for _ in range(depth)]


def transformer_depths(config: dict[str, Any]) -> Depths:
    """Of a UNet2DConditionModel, from its config."""
    down_types = config.get("down_block_types") or (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D")
    up_types = config.get("up_block_types") or ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3)
    rows = _each(config.get("layers_per_block", 2), len(down_types))
    depths = _each(config.get("transformer_layers_per_block", 1), len(down_types))
    up_depths = config.get("reverse_transformer_layers_per_block") or depths[::-1]
    has_mid = config.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn"
    up_rows, levels = [n + 1 for n in rows[::-1]], list(range(len(down_types)))
    return Depths(
        down=tuple(_blocks(down_types, rows, depths)),
        mid=tuple(_each(depths[-1], 1)) if has_mid else (),
        up=tuple(_blocks(up_types, up_rows, up_depths)),
        levels=(
            *_blocks(down_types, rows, levels),
            *(levels[-1:] if has_mid else ()),
            *_blocks(up_types, up_rows, levels[::-1]),
        ),
    )


def _each(value: Any, count: int) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] * count


def _blocks(types: Any, rows: list[int], depths: list[Any]) -> Iterator[int]:
    for kind, layers, depth in zip(types, rows, depths, strict=True):
        if kind.startswith("CrossAttn"):
            yield from (int(d) for d in _each(depth, layers))


def add_image_prompt(graph: Path, depths: Depths) -> list[IpLayer]:
    """Write, beside a denoiser's graph, the one that looks at pictures; `IMAGE` says what it is called.

    Its inputs more, float32: `ip_keys` and `ip_values`, both (adapters * batch, tokens, channels), and for
    each level of its layers `ip_mask_LEVEL`, (adapters * batch, places, 1), where the first two may be 1.

    Returns:
        The layers in the order of the channels: down, up, middle, as adapters number them.
    Raises:
        ImagePromptError: its cross attentions are not one node each, or others than the config says.
    """
    model = load_graph(graph, weights=False)
    found = cross_attentions(model.graph)
    told = depths.layers()
    if len(found) != len(told):
        raise ImagePromptError(
            f"{graph} has {len(found)} cross attentions of one node, its config tells of {len(told)}"
        )
    channels = _channels(model, found)
    order = sorted(range(len(found)), key=lambda k: (("down", "up", "mid").index(told[k][1]), k))
    layers = [
        IpLayer(channels=channels[k], place=place, part=part, level=depths.levels[place])
        for k in order
        for place, part in told[k : k + 1]
    ]
    _insert(model.graph, {found[k].name: n for n, k in enumerate(order)}, layers)
    if model.graph.value_info:
        model = annotate_types(model)
    graph.with_name(IMAGE[graph.name]).write_bytes(model.SerializeToString())
    return layers


def cross_attentions(graph: GraphProto) -> list[NodeProto]:
    """The attention nodes whose keys come of the words alone and whose queries do not, in graph order."""
    constant = {tensor.name for tensor in graph.initializer}
    words = {_WORDS}
    found = []
    for node in graph.node:
        read = {name for name in node.input if name} - constant
        if not read:
            constant.update(node.output)
        elif read <= words:
            words.update(node.output)
        elif node.op_type == ATTENTION and node.input[1] in words and node.input[0] not in words:
            found.append(node)
    return found


def _channels(model: ModelProto, attentions: list[NodeProto]) -> list[int]:
    """Of the keys of each."""
    noted = annotate_types(model).graph.value_info
    shapes = {info.name: info.type.tensor_type.shape.dim for info in noted}
    found = [dims[-1].dim_value if (dims := shapes.get(node.input[1])) else 0 for node in attentions]
    if not all(found):
        name = attentions[found.index(0)].name
        raise ImagePromptError(f"how many channels the keys of {name} have is not known")
    return found


def _insert(graph: GraphProto, number_of: dict[str, int], layers: list[IpLayer]) -> None:
    """Put a second attention beside each of those named, and add the two up."""
    channels = [layer.channels for layer in layers]
    constants = {_SIZES: channels, _ZERO: [0], _ONES: [1, 1], _REST: [-1]}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()
    )
    nodes = [_split(name, len(channels)) for name in (KEYS, VALUES)] + _counted()
    sums: dict[str, str] = {}
    for node in graph.node:
        for k, name in enumerate(node.input):
            node.input[k] = sums.get(name, name)
        nodes.append(node)
        if (number := number_of.get(node.name)) is not None:
            nodes += _beside(node, number, f"{MASK}_{layers[number].level}")
            sums[node.output[0]] = nodes[-1].output[0]
    del graph.node[:]
    graph.node.extend(nodes)
    masks = sorted({f"{MASK}_{layer.level}" for layer in layers})
    shapes = {name: ["ip_rows", "ip_tokens", sum(channels)] for name in (KEYS, VALUES)}
    shapes |= {name: [f"{name}_rows", f"{name}_places", 1] for name in masks}
    graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()
    )


def _split(name: str, layers: int) -> NodeProto:
    parts = [f"{_PREFIX}{name}_{k}" for k in range(layers)]
    return helper.make_node("Split", [name, _SIZES], parts, name=_PREFIX + name, axis=2)


def _counted() -> list[NodeProto]:
    """How many adapters speak: as repeats of (batch, places, channels), and as the shape (adapters, rest)."""

    def node(kind: str, inputs: list[str], output: str, **more: Any) -> NodeProto:
        return helper.make_node(kind, inputs, [output], name=f"{output}_node", **more)

    return [
        node("Shape", [KEYS], "/ip/keys_shape"),
        node("Gather", ["/ip/keys_shape", _ZERO], "/ip/rows"),
        node("Shape", [_WORDS], "/ip/words_shape"),
        node("Gather", ["/ip/words_shape", _ZERO], "/ip/batch"),
        node("Div", ["/ip/rows", "/ip/batch"], "/ip/adapters"),
        node("Concat", ["/ip/adapters", _ONES], _REPEATS, axis=0),
        node("Concat", ["/ip/adapters", _REST], _FOLDED, axis=0),
    ]


def _beside(node: NodeProto, number: int, mask: str) -> list[NodeProto]:
    """The second attention of every adapter, weighed by place, added up and put to the first's result."""

    def name(part: str) -> str:
        return f"{_PREFIX}{part}_{number}"

    def made(kind: str, inputs: list[str], output: str, **more: Any) -> NodeProto:
        return helper.make_node(kind, inputs, [name(output)], name=name(f"{output}_node"), **more)

    see = NodeProto()
    see.CopyFrom(node)
    del see.input[:], see.output[:]
    see.input.extend([name("queries"), name(KEYS), name(VALUES)])
    see.output.append(name("seen"))
    see.name = name("see")
    return [
        made("Tile", [node.input[0], _REPEATS], "queries"),
        see,
        made("Mul", [name("seen"), mask], "weighed"),
        made("Reshape", [name("weighed"), _FOLDED], "rows"),
        made("ReduceSum", [name("rows"), _ZERO], "added", keepdims=0),
        made("Shape", [node.output[0]], "shape"),
        made("Reshape", [name("added"), name("shape")], "told"),
        helper.make_node("Add", [node.output[0], name("told")], [name("sum")], name=name("add")),
    ]


def strip_image_prompt(path: Path) -> None:
    """Take what `add_image_prompt` put there out of a graph again; its weights stay as they are."""
    model = load_graph(path, weights=False)
    graph = model.graph
    plain = {node.output[0]: node.input[0] for node in graph.node if node.name.startswith(f"{_PREFIX}add_")}
    kept = [node for node in graph.node if not node.name.startswith(_PREFIX)]
    for node in kept:
        for k, name in enumerate(node.input):
            node.input[k] = plain.get(name, name)
    del graph.node[:]
    graph.node.extend(kept)
    for told in [one for one in graph.input if one.name.startswith((KEYS, VALUES, MASK))]:
        graph.input.remove(told)
    for name in (_SIZES, _ZERO, _ONES, _REST):
        graph.initializer.remove(initializers(model)[name])
    path.write_bytes(model.SerializeToString())
