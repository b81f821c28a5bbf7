"""Where a text encoder ends: CLIPSetLastLayer's counting, -1 being the whole model's last layer."""

from __future__ import annotations

from ..errors import EngineError
from ..pack import Manifest, PackFolder
from .textgraph import TextGraph

FIRST, SECOND = "text_encoder", "text_encoder_2"


def last_layer_read(manifest: Manifest) -> int:
    """Which layer's output the text encoders in a pack give, counted from the whole model's end, -1 being the
    last: Stable Diffusion 2 and XL read the one before, and the graphs end there."""
    return -2 if SECOND in manifest.graphs or manifest.family == "sd2" else -1


def text_encoders(manifest: Manifest) -> tuple[str, ...]:
    """Roles of a pack's text encoders."""
    return (FIRST, SECOND) if SECOND in manifest.graphs else (FIRST,)


def hidden_before(pack: PackFolder, manifest: Manifest, role: str, stop: int) -> int | None:
    """Which layer's input a graph is to end with, see `textgraph.TextEdit`; None: it ends there anyway.

    Args:
        stop: -1 to -24. As in ComfyUI, one beyond a model's layers means the whole of it.
    Raises:
        EngineError: the graph does not reach that far, or shows no layers.
    """
    own = last_layer_read(manifest)
    if stop == own:
        return None
    graph = TextGraph.read(pack.graph(role), role)
    is_cut = not graph.normalizes or (manifest.family == "sd2" and role == FIRST)
    layers = graph.layers + int(is_cut)  # what is behind the last layer read is not in a pack
    hidden = layers + stop + 1
    if hidden < 1 and own == -1:
        return None
    if not 1 <= hidden <= graph.layers or (hidden == graph.layers and not graph.normalizes):
        raise EngineError(
            f"{stop} cannot be had: {role} of pack {pack.name} gives layers {own} to {-layers}; take one"
        )
    return hidden


def layer_problem(pack: PackFolder, manifest: Manifest, stop: int) -> str | None:
    """Why a pack's text encoders cannot end at a layer; None if they can."""
    try:
        for role in text_encoders(manifest):
            hidden_before(pack, manifest, role, stop)
    except EngineError as err:
        return str(err)
    return None
