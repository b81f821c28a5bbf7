"""What every node is, and what nodes hand to each other."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...component import Kind
from ...diffusion.sampler import SamplerState
from ...errors import BadRequest, PackError, Problem
from ...workflow.declare import Input, NodeSpec
from ..workbench import Workbench

NodeWork = Generator[Any, None, tuple[Any, ...]]
"""Yields `diffusion.sampler.SamplerStep` or the like; its return value is the outputs, by slot."""


@dataclass(frozen=True)
class Latents:
    """LATENT: (b, c, h, w) float32 as the autoencoder has them, one for `downscale` pixels a side.

    Attributes:
        scale: the `latent_scale` of that autoencoder's pack; None: of none yet, they are empty.
        mask: (n, 1, h, w) float32 of any size, 1 where samplers paint, 0 where they keep; None: all of it.
        places: which of a seed's noises each of them gets; None: as they come.
    """

    samples: np.ndarray
    downscale: int = 8
    scale: float | None = None
    mask: np.ndarray | None = None
    places: tuple[int, ...] | None = None

    def scaled_for(self, scale: float) -> np.ndarray:
        """The samples as an autoencoder of another scale has them."""
        if self.scale is None or self.scale == scale:
            return self.samples
        return self.samples * np.float32(self.scale / scale)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = self.samples.shape[2:]
        return width * self.downscale, height * self.downscale


@dataclass(frozen=True)
class Shown:
    """What an output node shows: (h, w, 3) uint8 pictures, to be kept as `prefix`; None: only a preview."""

    pixels: Sequence[np.ndarray]
    prefix: str | None


class Node:
    """One class of nodes. MODEL, CLIP and VAE are a `Stages`; CONDITIONING is a `Conditioning`;
    IMAGE is (b, 3, h, w) float32, -1 black to 1 white; MASK is (b, h, w) float32, 0 to 1; SAMPLER is a name;
    SIGMAS is (steps + 1,) float64, falling; NOISE and GUIDER are those of `guiders`.

    Attributes:
        INPUTS, OUTPUTS: names, types, defaults and ranges are ComfyUI's.
    """

    INPUTS: ClassVar[dict[str, Input]] = {}
    OUTPUTS: ClassVar[tuple[str, ...]] = ()
    IS_OUTPUT: ClassVar[bool] = False

    @classmethod
    def spec(cls) -> NodeSpec:
        return NodeSpec(cls.__name__, cls.INPUTS, cls.OUTPUTS, cls.IS_OUTPUT)

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """(input, what is wrong) of the plain values that are right so far, without loading any weights."""
        yield from ()

    def fingerprint(self, bench: Workbench, values: dict[str, Any]) -> str:
        """What else than its inputs the result depends on, as a file's content."""
        return ""

    def remarks(self, values: dict[str, Any]) -> Iterator[str]:
        """What a verdict says of plain values that are right, but do something else than in ComfyUI."""
        yield from ()

    def run(self, bench: Workbench, **inputs: Any) -> tuple[Any, ...]:
        """The outputs. Raises BadRequest naming an input, or another EdgegenError."""
        raise TypeError(f"{type(self).__name__} works step by step")

    def planned_steps(self, values: dict[str, Any]) -> int:
        """How many steps its work has by its plain values, 0 for those that take none."""
        return 0

    def work(self, bench: Workbench, resume: SamplerState | None = None, **inputs: Any) -> NodeWork:
        """The same, step by step, for those that take long.

        Args:
            resume: where an earlier run with the same inputs was.
        """
        yield from ()
        return self.run(bench, **inputs)


class ComponentLoader(Node):
    """A file's name stands for a pack that only helps others; nothing is loaded yet.

    Attributes:
        KIND: of that pack. NAME: the input that holds the file's name.
    """

    KIND: ClassVar[Kind]
    NAME: ClassVar[str]

    def check(self, bench: Workbench, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
        try:
            if self.NAME in values:
                bench.component_for(self.KIND, values[self.NAME])
        except PackError as err:
            yield self.NAME, str(err)

    def fingerprint(self, bench: Workbench, values: dict[str, Any]) -> str:
        return bench.component_for(self.KIND, values[self.NAME]).manifest.model_dump_json()


def refuse(name: str, value: object, message: str) -> BadRequest:
    """A refusal of one input that shows only while the node runs."""
    return BadRequest([Problem(name, value, message)])
