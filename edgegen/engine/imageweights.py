"""How much a picture counts in each layer of the denoiser, by the names of ComfyUI_IPAdapter_plus.

Places are blocks of transformers as they run: 16 in Stable Diffusion 1 and 2, 11 in Stable Diffusion XL. What
they are good for was found by Wang et al. 2024, arXiv:2404.02733 (InstantStyle).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..pack import IpLayer

LINEAR, EASE_OUT, STYLE = "linear", "ease out", "style transfer"
WEAK = 0.2
_FLOOR = 0.05  # what easing leaves of a weight

Share = Callable[[IpLayer, int], float]
"""(layer, places) -> what share of the weight it gets."""


def _eased(part: Callable[[float], float]) -> Share:
    """A share that changes along the run; `part` takes 0 (first place) to 1."""
    return lambda layer, places: _FLOOR + (1 - _FLOOR) * part(layer.place / places)


def _from_middle(at: float) -> float:
    return abs(at - 0.5) / 0.5


def _weak(*parts: str) -> Share:
    return lambda layer, _: WEAK if layer.part in parts else 1.0


_SHARES: dict[str, Share] = {
    LINEAR: lambda *_: 1.0,
    "ease in": _eased(lambda at: 1 - at),
    EASE_OUT: _eased(lambda at: at),
    "ease in-out": _eased(lambda at: 1 - _from_middle(at)),
    "reverse in-out": _eased(_from_middle),
    "weak input": _weak("down"),
    "weak output": _weak("up"),
    "weak middle": _weak("mid"),
    "strong middle": _weak("down", "up"),
}
_SD, _XL = 16, 11
_COMPOSITION = {_SD: {4: 0.25, 5: 1.0}, _XL: {3: 1.0}}
_STYLES = {_SD: dict.fromkeys((0, 1, 2, 3, *range(9, 16)), 1.0), _XL: {6: 1.0}}
_ONLY = {"composition": _COMPOSITION, STYLE: _STYLES}
STRONG_STYLE, BOTH = "strong style transfer", "style and composition"
WEIGHT_TYPES = (*_SHARES, STYLE, "composition", STRONG_STYLE, BOTH)


def layer_weights(weight_type: str, weight: float, layers: Sequence[IpLayer]) -> list[float]:
    """The weight of each layer.

    Args:
        weight_type: one of `WEIGHT_TYPES`.
    Raises:
        ValueError: the type is for the blocks of Stable Diffusion 1 or XL, and this denoiser has others.
    """
    places = 1 + max(layer.place for layer in layers)
    if weight_type in _SHARES:
        return [weight * _SHARES[weight_type](layer, places) for layer in layers]
    if places not in _COMPOSITION:
        raise ValueError(
            f"{weight_type!r} is for denoisers of {_SD} or {_XL} blocks of transformers; this one has "
            f"{places}: take {', '.join(_SHARES)}"
        )
    by_place = _by_place(weight_type, weight, places)
    return [by_place.get(layer.place, 0.0) for layer in layers]


def _by_place(weight_type: str, weight: float, places: int) -> dict[int, float]:
    composition = _COMPOSITION[places]
    if weight_type == STRONG_STYLE:
        return {place: weight for place in range(places) if place not in composition}
    if weight_type == BOTH:  # composition counts in full, whatever the weight
        return {place: weight * share for place, share in _STYLES[places].items()} | composition
    return {place: weight * share for place, share in _ONLY[weight_type][places].items()}
