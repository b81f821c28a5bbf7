"""A pack's stages, each on its own: words to numbers, a look of the denoiser, latents to a picture and back.

Text-to-image and the workflow nodes are both made of these.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Generator
from dataclasses import replace

import numpy as np

from ..diffusion.chunks import COMFYUI
from ..diffusion.conditions import guidance_embedding
from ..diffusion.rng import NoiseSource
from ..diffusion.sampler import PairDenoiser, SamplerState, SamplerStep, sample
from ..diffusion.schedulers import Scheduler
from ..errors import EngineError
from ..pack import Pack
from .areas import blended, has_areas, with_counterparts
from .conditioning import Conditioning, Encoding, controlled_like, feeds_of, speaking
from .control import CONTROLLED, residuals_of
from .decoding import WHOLE, decode, run_decoder
from .embeddings import EmbeddingFolder
from .feathering import decode_three_ways
from .graphtimes import Pace
from .imageprompt import LOOKING, ImagePrompt, told_of
from .lora.merge import LoraSet, LoraUse
from .memory import FULL, MemoryMode
from .providers import ProviderChoice
from .sessioncache import DECODER, SessionCache
from .words import Words

Prompts = tuple[Conditioning, Conditioning | None]
"""What to draw and what not to; None: one pass is enough."""


class Stages:
    """A pack's graphs on a provider; they load when first needed and stay until `close`. Not thread-safe.

    Args:
        embeddings: where textual inversions are found; None: there are none.

    Attributes:
        loras: what is merged into the weights.
        images: pictures that go with every prompt.
        last_layer: where the text encoders end, see `clipskip`; None: where the denoiser was made for.
        decoding: how the last picture was decoded.
    Raises:
        PackError: the tokenizer is altered or not of CLIP type.
    """

    def __init__(
        self,
        pack: Pack,
        provider: ProviderChoice,
        threads: int = 0,
        memory: MemoryMode = FULL,
        embeddings: EmbeddingFolder | None = None,
    ):
        self.pack = pack
        self.provider = provider
        self.memory = memory
        self.decoding = WHOLE
        self.loras: tuple[LoraUse, ...] = ()
        self.images: tuple[ImagePrompt, ...] = ()
        self.last_layer: int | None = None
        self._last_asked: dict[str, float] = {}  # role -> timestep; shared by all that share the graphs
        self.embeddings = embeddings or EmbeddingFolder(None)
        self.sessions = SessionCache(pack, provider, threads, memory)
        self.words = Words(pack, self.sessions, self.embeddings)

    def with_loras(self, *uses: LoraUse) -> Stages:
        """The same pack with these merged into its weights, on top of those it has already. The graphs are
        shared: of each, one is in memory at a time.

        Raises:
            LoraError: a file is damaged, is not understood, or does not fit the pack.
        """
        other = copy.copy(self)
        other.loras = (*self.loras, *uses)
        loras = LoraSet(other.loras)
        loras.check(self.pack)
        other.sessions = self.sessions.with_loras(loras)
        other.words = Words(self.pack, other.sessions, self.embeddings, self.last_layer)
        return other

    def with_last_layer(self, stop: int) -> Stages:
        """The same pack with its text encoders ending at that layer, -1 being the whole model's last.

        Raises EngineError: they cannot."""
        other = copy.copy(self)
        other.last_layer = stop
        other.words = Words(self.pack, self.sessions, self.embeddings, stop)
        return other

    def with_image(self, image: ImagePrompt) -> Stages:
        """The same pack with a picture beside every prompt, one more; the graphs are shared."""
        other = copy.copy(self)
        other.images = (*self.images, image)
        return other

    def use(self, memory: MemoryMode) -> None:
        """Run in another memory mode from now on."""
        self.memory = memory
        self.sessions.use(memory)

    def encode(self, text: str) -> Encoding:
        """One text by all of the pack's text encoders, weights applied; recent ones are remembered."""
        return self.words.encode([text])[0]

    def encode_prompts(
        self, prompt: str, negative_prompt: str, both_passes: bool, syntax: str = COMFYUI
    ) -> Prompts:
        """What to draw, and what not to; without a second pass the latter is not even read.

        An empty negative prompt is zeros for families with two text encoders, as they were trained.
        """
        if not both_passes or self.pack.manifest.guidance_embedding_dim:
            return self.words.encode([prompt], syntax), None
        if not negative_prompt and self.words.encoders > 1:
            (wanted,) = self.words.encode([prompt], syntax)
            return [wanted], [wanted.zeroed()]
        wanted, unwanted = self.words.encode([prompt, negative_prompt], syntax)
        return [wanted], [unwanted]

    def denoise(
        self,
        scheduler: Scheduler,
        latents: np.ndarray,
        conditioning: Conditioning,
        unconditional: Conditioning | None,
        guidance: float,
        rng: NoiseSource,
        pair: PairDenoiser | None = None,
        resume: SamplerState | None = None,
    ) -> Generator[SamplerStep, None, None]:
        """The denoising loop: see `diffusion.sampler.sample`. Latents (b, c, h, w) are the denoiser's own,
        one picture of the batch after the other. A model distilled with its guidance is told the guidance,
        and runs but one pass."""
        if dim := self.pack.manifest.guidance_embedding_dim:
            told = guidance_embedding(guidance, dim)
            conditioning = [replace(encoding, guidance=told) for encoding in conditioning]
            guidance, unconditional = 1, None
        if guidance == 1 and not scheduler.sees_unguided:
            unconditional = None
        if self.images:
            wanted, unwanted = zip(*((x.wanted, x.unwanted) for x in self.images), strict=True)
            conditioning = [replace(encoding, images=wanted) for encoding in conditioning]
            unconditional = unconditional and [replace(e, images=unwanted) for e in unconditional]
        if unconditional is not None:
            unconditional = controlled_like(unconditional, conditioning)
            conditioning, unconditional = (
                with_counterparts(conditioning, unconditional),
                with_counterparts(unconditional, conditioning),
            )
        return sample(
            self.predict, scheduler, latents, conditioning, unconditional, guidance, rng, pair, resume
        )

    def predict(self, latents: np.ndarray, timestep: float, conditioning: Conditioning) -> np.ndarray:
        """The denoiser's output for (b, c, h, w) latents, one graph run for each picture and encoding."""
        rows = [self._answer(latents[k : k + 1], timestep, conditioning) for k in range(len(latents))]
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def _answer(self, latents: np.ndarray, timestep: float, conditioning: Conditioning) -> np.ndarray:
        def look(part: np.ndarray, encoding: Encoding) -> np.ndarray:
            return self.unet(part, timestep, encoding)

        conditioning = speaking(conditioning, timestep, self.pack.manifest.num_train_timesteps)
        if has_areas(conditioning):
            return blended(look, latents, conditioning, self.pack.manifest.latent_downscale)
        return _mean([look(latents, encoding) for encoding in conditioning])

    def predict_pair(
        self, latents: np.ndarray, timestep: float, conditioning: Conditioning, unconditional: Conditioning
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both of guidance's outputs for one picture and one encoding each, as one batch of two."""
        both = self.unet(np.concatenate([latents, latents]), timestep, *conditioning, *unconditional)
        return both[:1], both[1:]

    def unet(self, latents: np.ndarray, timestep: float, *encodings: Encoding) -> np.ndarray:
        """One run of the graph for latents (b, c, h, w) and as many encodings: float32 of their shape."""
        height, width = (side * self.pack.manifest.latent_downscale for side in latents.shape[2:])
        feeds = {"sample": latents, "timestep": np.array([timestep])} | feeds_of(encodings, width, height)
        train, role = self.pack.manifest.num_train_timesteps, "unet"
        if heard := [c for c in encodings[0].controls if c.speaks_at(timestep, train)]:
            role = CONTROLLED
            feeds |= residuals_of(heard, feeds, self.memory)
        layers, size = self.pack.manifest.ip_layers or [], (latents.shape[2], latents.shape[3])
        if seen := told_of([encoding.images for encoding in encodings], layers, timestep, train, size):
            role += LOOKING
            feeds |= seen
        self._free_other_denoisers(role, timestep)
        return self.sessions.get(role).output(feeds, "out_sample", latents.shape)

    def _free_other_denoisers(self, role: str, timestep: float) -> None:
        """Before another of the denoiser's graphs loads: one that was asked in an earlier step holds as much
        memory again. Those that take turns within a step stay."""
        last = self._last_asked
        if role not in self.sessions.loaded:
            self.sessions.release(*(other for other, when in last.items() if when != timestep))
        last[role] = timestep

    def unscaled(self, latents: np.ndarray) -> np.ndarray:
        """The denoiser's latents as the autoencoder has them. Raises EngineError when they are no numbers."""
        if not np.isfinite(latents).all():
            raise EngineError(
                f"the unet of pack {self.pack.name} gave numbers that are no numbers on provider "
                f"{self.provider.name}; try another provider, sampler or precision"
            )
        return latents / np.float32(self.pack.manifest.latent_scale)

    def scaled(self, latents: np.ndarray) -> np.ndarray:
        """The autoencoder's latents as the denoiser has them."""
        return latents * np.float32(self.pack.manifest.latent_scale)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """(1, c, h, w) of the autoencoder's latents -> (1, 3, height, width) float32, -1 black to 1 white."""
        began = time.monotonic()
        sample, self.decoding = decode(
            self.sessions, latents, self.memory, self.pack.manifest.latent_downscale
        )
        self.sessions.times.note(DECODER, {"latent_sample": latents}, time.monotonic() - began)
        return sample

    def decode_tiled(self, latents: np.ndarray, tile: int, overlap: int) -> np.ndarray:
        """As `decode`, in tiles as ComfyUI lays them: see `feathering.decode_three_ways`."""
        side = self.pack.manifest.latent_downscale
        session = self.sessions.get("vae_decoder")
        return decode_three_ways(lambda part: run_decoder(session, part), latents, tile, overlap, side)

    def encode_picture(self, sample: np.ndarray) -> np.ndarray:
        """(1, 3, height, width) float32 in [-1, 1] -> (1, c, h, w) of the autoencoder's latents.

        Raises PackError when the pack has no graph `vae_encoder`."""
        return self.sessions.get("vae_encoder").output({"sample": sample}, "latent_sample")

    def pace(self) -> Pace:
        """How long the graphs took so far, by pack, provider, role and size."""
        return self.sessions.times.pace(self.pack.name, self.provider.name)

    def close(self) -> None:
        """Free graphs and encodings; safe to call twice. The next use loads again."""
        self.sessions.close()
        self.words.forget()


def _mean(outputs: list[np.ndarray]) -> np.ndarray:
    return outputs[0] if len(outputs) == 1 else np.asarray(np.mean(outputs, axis=0, dtype=np.float32))
