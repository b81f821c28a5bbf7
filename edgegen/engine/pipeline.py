"""Words to a picture: tokenizer, text encoder, denoising loop, decoder."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from ..diffusion.pixels import to_uint8
from ..diffusion.rng import NoiseSource
from ..diffusion.sampler import SamplerState, SamplerStep
from ..diffusion.schedulers import make_scheduler, needs_both_passes
from ..errors import BadRequest, EngineError, OutOfMemory, Problem
from ..pack import Pack
from .embeddings import EmbeddingFolder
from .memorychoice import MemoryChoice, memory_for, memory_for_any
from .providers import ProviderChoice, choose_provider
from .request import GenerationSettings, noise_schedule, resolve_settings
from .stages import Stages

log = logging.getLogger(__name__)

__all__ = ["GenerationSettings", "Picture", "Progress", "TextToImage", "resolve_settings"]


@dataclass(frozen=True)
class Progress:
    """After each step; step 0 comes before any work, or the step at which a run goes on.

    Attributes:
        latents: (1, c, h, w) float32 as the scheduler keeps them.
        denoised: the picture's latents as predicted in this step, for previews; None before any work.
        state: where to go on from; None before any work.
    """

    step: int
    steps: int
    latents: np.ndarray
    denoised: np.ndarray | None
    state: SamplerState | None = None


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    Attributes:
        pixels: (height, width, 3) uint8.
        seconds: from the first `next` to the last, loading and the caller's pauses included.
        provider: `cpu` or `openvino`.
        decoding: the tiles it was decoded in, where that changes it; else empty.
    """

    pixels: np.ndarray
    settings: GenerationSettings
    seconds: float
    provider: str
    pack_name: str
    decoding: str = ""


class TextToImage:
    """A pack on a provider. Graphs load when first needed and stay until `close`. Not thread-safe.

    Args:
        provider: `auto`, `cpu`, `openvino`, or a choice already made.
        threads: for ONNX Runtime; 0: one per usable core.
        memory: `auto`, a mode's name, or a choice already made. `auto` looks again when the size changes.
        batch_guidance: run guidance's two passes as one batch of 2: more memory, on few cores no faster.
        embeddings: folder of textual inversions; None: there are none.
    Raises:
        ProviderError: the provider asked for cannot run here.
        OutOfMemory: the pack does not fit, whatever the memory mode.
        PackError: the tokenizer is altered or not of CLIP type.
    """

    def __init__(
        self,
        pack: Pack,
        provider: str | ProviderChoice = "auto",
        threads: int = 0,
        batch_guidance: bool = False,
        memory: str | MemoryChoice = "auto",
        embeddings: Path | None = None,
    ):
        self.pack = pack
        self.provider = choose_provider(provider) if isinstance(provider, str) else provider
        self._fits_sizes = memory == "auto"
        known = memory_for_any(pack.manifest, self.provider, memory) if isinstance(memory, str) else memory
        self.memory = known
        self.stages = Stages(pack, self.provider, threads, self.memory.mode, EmbeddingFolder(embeddings))
        self.sessions = self.stages.sessions
        self._batch_guidance = batch_guidance
        self._fitted = (0, 0)

    def generate(
        self, settings: GenerationSettings, resume: SamplerState | None = None
    ) -> Generator[Progress | Picture, None, None]:
        """Progress for every step, then the Picture. Close the iterator to cancel between two steps.

        Args:
            resume: a state of an earlier run of the same settings: the rest makes the identical picture.
        Raises:
            BadRequest: the prompt has more tokens than the pack reads.
            OutOfMemory: names the size and what to lower.
            EngineError, PackError: a graph failed, or is not what the manifest says.
        """
        began = time.monotonic()
        self.check_prompts(settings)
        self._fit(settings.width, settings.height)
        try:
            latents = yield from self._denoise(settings, resume)
            pixels = self._decode(latents)
        except MemoryError as err:
            raise OutOfMemory(self._memory_advice(settings)) from err
        seconds = time.monotonic() - began
        decoding = self.stages.decoding
        told = str(decoding) if decoding.tile else ""
        yield Picture(pixels, settings, seconds, self.provider.name, self.pack.name, told)

    def check_prompts(self, settings: GenerationSettings) -> None:
        """Raises BadRequest when a prompt has more tokens than the pack reads, or weights beyond all sense;
        none is ever cut silently."""
        texts = {"prompt": settings.prompt, "negative_prompt": settings.negative_prompt}
        found = {
            field: self.stages.words.problem(text, settings.prompt_syntax) for field, text in texts.items()
        }
        if problems := [Problem(field, texts[field], message) for field, message in found.items() if message]:
            raise BadRequest(problems)

    def _fit(self, width: int, height: int) -> None:
        """In mode `auto`: the mode for this size. Raises OutOfMemory with figures when none fits."""
        if not self._fits_sizes or (width, height) == self._fitted:
            return
        choice = memory_for(self.pack.manifest, self.provider, "auto", (width, height))
        if choice.mode != self.memory.mode:
            log.info("memory mode %s for %dx%d: %s", choice.mode.name, width, height, choice.reason)
        self.memory, self._fitted = choice, (width, height)
        self.stages.use(choice.mode)

    def close(self) -> None:
        """Free graphs and encodings; safe to call twice. The next `generate` loads again."""
        self.stages.close()

    def __enter__(self) -> TextToImage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _denoise(
        self, settings: GenerationSettings, resume: SamplerState | None
    ) -> Generator[Progress, None, np.ndarray]:
        """Yields Progress; the final latents are its return value."""
        manifest = self.pack.manifest
        scheduler = make_scheduler(
            settings.sampler,
            noise_schedule(manifest),
            manifest.prediction_type,
            settings.steps,
            settings.schedule,
        )
        side = manifest.latent_downscale
        shape = (1, manifest.latent_channels, settings.height // side, settings.width // side)
        rng = NoiseSource(settings.seed)
        latents = resume.latents if resume else rng.normal(shape) * np.float32(scheduler.init_noise_sigma)
        yield Progress(resume.index if resume else 0, len(scheduler.timesteps), latents, None)
        stages = self.stages.with_loras(*settings.loras) if settings.loras else self.stages
        conditioning, unconditional = stages.encode_prompts(
            settings.prompt,
            settings.negative_prompt,
            needs_both_passes(settings.sampler, settings.guidance),
            settings.prompt_syntax,
        )
        pair = stages.predict_pair if unconditional and self._batch_guidance else None
        steps = stages.denoise(
            scheduler, latents, conditioning, unconditional, settings.guidance, rng, pair, resume
        )
        with closing(steps):
            for step in steps:
                latents = step.latents
                yield _progress(step)
        return latents

    def _decode(self, latents: np.ndarray) -> np.ndarray:
        try:
            return to_uint8(self.stages.decode(self.stages.unscaled(latents)))
        except ValueError as err:
            raise EngineError(f"graph vae_decoder: {err}") from err

    def _memory_advice(self, settings: GenerationSettings) -> str:
        smallest = self.pack.manifest.sizes.min
        size = f"{settings.width}x{settings.height}"
        can_shrink = max(settings.width, settings.height) > smallest
        lower = f"lower width and height (down to {smallest})" if can_shrink else "take a smaller pack"
        needs = self.pack.manifest.min_ram_mb
        measured = f" (it needs {needs} MB at {self._default_size()})" if needs else ""
        return (
            f"not enough memory for a {size} picture with pack {self.pack.name}{measured}: {lower}, "
            "or free memory on this machine"
        )

    def _default_size(self) -> str:
        defaults = self.pack.manifest.defaults
        return f"{defaults.width}x{defaults.height}"


def _progress(step: SamplerStep) -> Progress:
    return Progress(step.index, step.total, step.latents, step.denoised, step.state)
