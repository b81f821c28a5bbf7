"""How a class of nodes declares itself: its inputs with types, defaults and ranges, and its outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

MODEL, CLIP, VAE, CONDITIONING = "MODEL", "CLIP", "VAE", "CONDITIONING"
LATENT, IMAGE, MASK = "LATENT", "IMAGE", "MASK"
SAMPLER, SIGMAS, NOISE, GUIDER = "SAMPLER", "SIGMAS", "NOISE", "GUIDER"
UPSCALE_MODEL, CONTROL_NET = "UPSCALE_MODEL", "CONTROL_NET"
CLIP_VISION, CLIP_VISION_OUTPUT, IPADAPTER = "CLIP_VISION", "CLIP_VISION_OUTPUT", "IPADAPTER"
INT, FLOAT, STRING, COMBO, BOOLEAN = "INT", "FLOAT", "STRING", "COMBO", "BOOLEAN"
PLAIN = (INT, FLOAT, STRING, COMBO, BOOLEAN)
MAX_RESOLUTION = 16384
MAX_TEXT_CHARS = 100_000
# What ComfyUI's editor and its extensions leave beside the inputs; it has no meaning for the picture.
EDITOR_LEFTOVERS = frozenset(
    {"upload", "control_after_generate", "choose file to upload", "speak_and_recognation"}
)


class Unfit(ValueError):
    """A value that an input refuses: (ComfyUI's kind of problem, what is allowed)."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Input:
    """One input.

    Attributes:
        kind: one of the types above; those of `PLAIN` take values, the others only links.
        default: what ComfyUI's editor starts with; API workflows name every required input.
        low, high: both allowed; None: no bound.
        choices: of a COMBO, and COMBO only.
        optional: may be left out.
    """

    kind: str
    default: Any = None
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False

    def fit(self, value: object) -> Any:
        """The value as the input's type, as far as ComfyUI converts without loss. Raises Unfit."""
        if self.kind == STRING:
            return self._text(value)
        if self.kind == COMBO:
            return self._choice(value)
        if self.kind == BOOLEAN:
            return self._boolean(value)
        if self.kind in (INT, FLOAT):
            return self._in_range(self._number(value))
        raise Unfit("bad_linked_input", f"needs a link to an output of type {self.kind}")

    @property
    def allowed(self) -> str:
        """What may be given, for messages."""
        if self.kind == COMBO:
            return ", ".join(self.choices)
        if self.low is None or self.high is None:
            return self.kind
        return f"{self.low:.10g} to {self.high:.20g}"

    def config(self) -> list[Any]:
        """ComfyUI's `input_config`."""
        if self.kind == COMBO:
            return [list(self.choices), {}]
        limits = {"default": self.default, "min": self.low, "max": self.high}
        return [self.kind, {name: limit for name, limit in limits.items() if limit is not None}]

    def _text(self, value: object) -> str:
        if not isinstance(value, str):
            raise Unfit("invalid_input_type", f"must be text, not {type(value).__name__}")
        if len(value) > MAX_TEXT_CHARS:
            raise Unfit("value_bigger_than_max", f"has {len(value)} characters; at most {MAX_TEXT_CHARS}")
        return value

    def _choice(self, value: object) -> str:
        if not isinstance(value, str) or (self.choices and value not in self.choices):
            raise Unfit("value_not_in_list", f"is none of those allowed: {self.allowed}")
        return value

    def _boolean(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise Unfit("invalid_input_type", "must be true or false")
        return value

    def _number(self, value: object) -> int | float:
        wanted = "a whole number" if self.kind == INT else "a number"
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise Unfit("invalid_input_type", f"must be {wanted}, {self.allowed}")
        try:
            if self.kind == INT and not isinstance(value, float):
                return int(value)
            number = float(value)
        except (ValueError, OverflowError):  # no number, or one of thousands of digits
            raise Unfit("invalid_input_type", f"must be {wanted}, {self.allowed}") from None
        if not math.isfinite(number) or (self.kind == INT and number != int(number)):
            raise Unfit("invalid_input_type", f"must be {wanted}, {self.allowed}")
        return int(number) if self.kind == INT else number

    def _in_range(self, number: int | float) -> int | float:
        if self.low is not None and number < self.low:
            raise Unfit("value_smaller_than_min", f"is too small; allowed are {self.allowed}")
        if self.high is not None and number > self.high:
            raise Unfit("value_bigger_than_max", f"is too big; allowed are {self.allowed}")
        return number


@dataclass(frozen=True)
class NodeSpec:
    """A class of nodes.

    Attributes:
        name: ComfyUI's `class_type`.
        inputs: by name, in ComfyUI's order.
        outputs: types by slot.
        is_output: what a workflow is run for: a workflow needs one.
    """

    name: str
    inputs: dict[str, Input] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    is_output: bool = False
