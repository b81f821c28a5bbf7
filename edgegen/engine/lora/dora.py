"""DoRA: a changed layer's weights are set to a length that was trained beside the change.

`length * (weight + change) / |weight + change|` (Liu et al. 2024, arXiv:2402.09353). Files of LyCORIS
(`dora_scale`) have one length for each input, over outputs and kernel, or one for each output; those of PEFT
(`lora_magnitude_vector`) always the latter. The strength blends from the weights without to those with it, as
in ComfyUI (comfy/weight_adapter/base.py, weight_decompose). There, lengths of outputs are divided by those of
the unchanged weights, which no trainer does (github.com/Comfy-Org/ComfyUI/pull/15458): that is not followed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .kinds import Shapes, Target, Tensors

EPSILON = np.finfo(np.float32).eps


@dataclass(frozen=True)
class Magnitude:
    """Lengths for (outputs, inputs, taps) of weights.

    Attributes:
        lengths: (outputs, 1, 1) or (1, inputs, 1) float32.
        per_output: which of the two.
    """

    lengths: np.ndarray
    per_output: bool

    @classmethod
    def fits(cls, shapes: Shapes, target: Target) -> bool:
        """Whether a change's shapes tell lengths for that layer."""
        return _is_per_output(shapes, target) is not None

    @classmethod
    def of(cls, tensors: Tensors, target: Target) -> Magnitude:
        """Of a change that fits."""
        per_output = _is_per_output({part: values.shape for part, values in tensors.items()}, target)
        lengths = tensors["dora_scale" if "dora_scale" in tensors else "magnitude"]
        return cls(lengths.reshape((-1, 1, 1) if per_output else (1, -1, 1)), bool(per_output))

    def delta(self, base: np.ndarray, change: np.ndarray, strength: float) -> np.ndarray:
        """What is to be added to (outputs, inputs x taps) weights, float32."""
        taps = 1 if self.per_output else base.shape[1] // self.lengths.size
        whole = (base + change).reshape(len(base), -1, taps)
        axes = (1, 2) if self.per_output else (0, 2)
        norms = np.sqrt(np.square(whole).sum(axis=axes, keepdims=True)) + EPSILON
        whole *= self.lengths / norms
        return np.asarray((whole.reshape(base.shape) - base) * np.float32(strength))


def _is_per_output(shapes: Shapes, target: Target) -> bool | None:
    """As ComfyUI tells: lengths are of outputs if the first side counts as many. None: they fit neither."""
    if "dora_scale" not in shapes:
        return True if math.prod(shapes["magnitude"]) == target.outputs else None
    shape, count = shapes["dora_scale"], math.prod(shapes["dora_scale"])
    if shape[:1] == (target.outputs,):
        return True if count == target.outputs else None
    return False if shape[:1] == (1,) and count == target.inputs else None
