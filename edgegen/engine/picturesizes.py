"""How large the pictures of a workflow will be, node by node, without running any of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..component import Component
from ..errors import BadRequest
from ..workflow import CheckedNode, CheckedWorkflow, Link
from ..workflow.declare import IMAGE, LATENT
from .nodes import SPECS
from .nodes.batches import picked
from .nodes.compose import total_pixels_size
from .nodes.images import picture_size
from .nodes.latentparts import TURNS, part_of
from .workbench import Workbench

Size = tuple[int, int, int]
"""Width and height in pixels, pictures."""
Sizes = Mapping[str, Size | None]
ASKED = "GetImageSize"


def size_of(bench: Workbench, checked: CheckedWorkflow, node: CheckedNode, sizes: Sizes) -> Size | None:
    """What a node hands on, or tells the size of; None: no picture, or a size that shows only while it runs.

    Args:
        sizes: of the nodes before it.
    """
    if not {IMAGE, LATENT} & set(SPECS[node.class_type].outputs) and node.class_type != ASKED:
        return None  # words may speak of sizes, too
    values = {name: _number(value, checked, sizes) for name, value in node.inputs.items()}
    linked = [sizes.get(value.node) for value in values.values() if isinstance(value, Link)]
    first = next((size for size in linked if size), None)
    if (component := upscaler_of(bench, checked, node)) and first:
        scale = component.manifest.scale
        return first[0] * scale, first[1] * scale, first[2]
    if node.class_type in CHANGES:
        return CHANGES[node.class_type](first, values, linked) if first else None
    if isinstance(name := values.get("image"), str):
        try:
            return (*picture_size(bench, name), 1)
        except BadRequest:
            return None
    return _scaled(first, values)


def upscaler_of(bench: Workbench, checked: CheckedWorkflow, node: CheckedNode) -> Component | None:
    """Whose graph a node enlarges pictures with; None: it does not."""
    link = node.inputs.get("upscale_model")
    if not isinstance(link, Link):
        return None
    return bench.component_for("upscaler", checked.nodes[link.node].inputs["model_name"])


def _number(value: Any, checked: CheckedWorkflow, sizes: Sizes) -> Any:
    """What a link to a size says, where that is known."""
    if not isinstance(value, Link) or checked.nodes[value.node].class_type != ASKED:
        return value
    size = sizes.get(value.node)
    return size[value.slot] if size else value


def _scaled(first: Size | None, values: Mapping[str, Any]) -> Size | None:
    """To a width and height, to a factor, or as it came."""
    width, height, factor = values.get("width"), values.get("height"), values.get("scale_by", 1.0)
    if isinstance(width, int) and isinstance(height, int) and width and height:
        return width, height, first[2] if first else int(values.get("batch_size", 1))
    unknown = any(isinstance(value, Link | int) for value in (width, height))
    if first is None or unknown or isinstance(factor, Link):
        return first if width == height == 0 else None
    return round(first[0] * factor), round(first[1] * factor), first[2]


def _padded(first: Size, values: Mapping[str, Any], _linked: Any) -> Size | None:
    if (sides := _numbers(values, "left", "right", "top", "bottom")) is None:
        return None
    left, right, top, bottom = sides
    return first[0] + left + right, first[1] + top + bottom, first[2]


def _cropped(first: Size, values: Mapping[str, Any], _linked: Any) -> Size | None:
    if (place := _numbers(values, "width", "height", "x", "y")) is None:
        return None
    width, height, x, y = place
    return min(width, max(first[0] - x, 1)), min(height, max(first[1] - y, 1)), first[2]


def _of_total(first: Size, values: Mapping[str, Any], _linked: Any) -> Size | None:
    whole = {"resolution_steps": 1, **values}
    if (numbers := _numbers(whole, "megapixels", "resolution_steps")) is None:
        return None
    return (*total_pixels_size(first[0], first[1], *numbers), first[2])


def _repeated(first: Size, values: Mapping[str, Any], _linked: Any) -> Size | None:
    numbers = _numbers(values, "amount")
    return (*first[:2], first[2] * numbers[0]) if numbers else None


def _picked(first: Size, values: Mapping[str, Any], _linked: Any) -> Size | None:
    if (numbers := _numbers(values, "batch_index", "length")) is None:
        return None
    some = picked(first[2], *numbers)
    return (*first[:2], some.stop - some.start)


def _turned(first: Size, values: Mapping[str, Any], _linked: Any) -> Size | None:
    if (turn := _numbers(values, "rotation")) is None:
        return None
    return (first[1], first[0], first[2]) if TURNS.index(turn[0]) % 2 else first


def _cut(first: Size, values: Mapping[str, Any], _linked: Any) -> Size | None:
    """Latents of 8 pixels a side, as all packs have them."""
    if (place := _numbers(values, "width", "height", "x", "y")) is None:
        return None
    width, height, x, y = (value // 8 for value in place)
    across, down = part_of(first[0] // 8, x, width, 8), part_of(first[1] // 8, y, height, 8)
    return (across.stop - across.start) * 8, (down.stop - down.start) * 8, first[2]


def _together(first: Size, _values: Any, linked: list[Size | None]) -> Size | None:
    return None if None in linked else (*first[:2], sum(size[2] for size in linked if size))


def _numbers(values: Mapping[str, Any], *names: str) -> list[Any] | None:
    """Those inputs; None when another node works one out."""
    found = [values[name] for name in names]
    return None if any(isinstance(value, Link) for value in found) else found


CHANGES: dict[str, Callable[[Size, Mapping[str, Any], list[Size | None]], Size | None]] = {
    "ImagePadForOutpaint": _padded,
    "ImageCrop": _cropped,
    "ImageScaleToTotalPixels": _of_total,
    "RepeatLatentBatch": _repeated,
    "RepeatImageBatch": _repeated,
    "LatentFromBatch": _picked,
    "ImageFromBatch": _picked,
    "LatentRotate": _turned,
    "LatentCrop": _cut,
    "ImageBatch": _together,
    "LatentBatch": _together,
}
