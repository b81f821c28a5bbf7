"""A pack's stages, each on its own: words to numbers, a look of the denoiser, latents to a picture and back.

Text-to-image and the workflow nodes are both made of these.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Sequence

import numpy as np

from ..diffusion.emphasis import emphasize, weight_problem, weighted_parts
from ..diffusion.prompt import token_problem
from ..diffusion.rng import NoiseSource
from ..diffusion.sampler import PairDenoiser, SamplerState, SamplerStep, sample
from ..diffusion.schedulers import Scheduler
from ..diffusion.tokenizer import ClipTokenizer
from ..errors import EngineError
from ..pack import Pack
from .graphtimes import Pace
from .memory import FULL, MemoryMode
from .providers import ProviderChoice
from .session import SessionCache

PROMPTS_REMEMBERED = 8

Conditioning = Sequence[np.ndarray]
"""Encodings, each (1, tokens, width) float32; the denoiser's answers to several are averaged."""


class Stages:
    """A pack's graphs on a provider; they load when first needed and stay until `close`. Not thread-safe.

    Raises:
        PackError: the tokenizer is altered or not of CLIP type.
    """

    def __init__(self, pack: Pack, provider: ProviderChoice, threads: int = 0, memory: MemoryMode = FULL):
        self.pack = pack
        self.provider = provider
        self.sessions = SessionCache(pack, provider, threads, memory)
        self._tokenizer = ClipTokenizer.from_file(pack.verify_tokenizer(), pack.manifest.tokenizer.max_length)
        self._encodings: OrderedDict[str, np.ndarray] = OrderedDict()
        self._unconditional: np.ndarray | None = None

    def prompt_problem(self, text: str) -> str | None:
        """Why the pack cannot read a text: too many tokens, or weights beyond all sense; None if it can."""
        return weight_problem(text) or token_problem(text, self._tokenizer)

    def encode(self, text: str) -> np.ndarray:
        """(1, max_length, width) float32, weights applied; the empty text and recent ones are remembered."""
        if not text and self._unconditional is not None:
            return self._unconditional
        if text in self._encodings:
            self._encodings.move_to_end(text)
            return self._encodings[text]
        ids, weights = self._tokenizer.encode_weighted(weighted_parts(text))
        out = self.sessions.get("text_encoder").run({"input_ids": ids})
        encoding = _output(out, "last_hidden_state", "text_encoder")
        if (weights != 1).any():
            encoding = emphasize(encoding, self.encode(""), weights)
        if not text:
            self._unconditional = encoding
            return encoding
        self._encodings[text] = encoding
        while len(self._encodings) > PROMPTS_REMEMBERED:
            self._encodings.popitem(last=False)
        return encoding

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
        one picture of the batch after the other."""
        return sample(
            self.predict, scheduler, latents, conditioning, unconditional, guidance, rng, pair, resume
        )

    def predict(self, latents: np.ndarray, timestep: float, conditioning: Conditioning) -> np.ndarray:
        """The denoiser's output for (b, c, h, w) latents, one graph run for each picture and encoding."""
        rows = [
            _mean([self.unet(latents[k : k + 1], timestep, encoding) for encoding in conditioning])
            for k in range(len(latents))
        ]
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def predict_pair(
        self, latents: np.ndarray, timestep: float, conditioning: Conditioning, unconditional: Conditioning
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both of guidance's outputs for one picture and one encoding each, as one batch of two."""
        encodings = np.concatenate([*conditioning, *unconditional])
        both = self.unet(np.concatenate([latents, latents]), timestep, encodings)
        return both[:1], both[1:]

    def unet(self, latents: np.ndarray, timestep: float, encoding: np.ndarray) -> np.ndarray:
        """One run of the graph: float32 of the latents' shape."""
        feeds = {
            "sample": latents,
            "timestep": np.array([timestep]),
            "encoder_hidden_states": encoding,
        }
        out = self.sessions.get("unet").run(feeds)
        return _output(out, "out_sample", "unet", latents.shape)

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
        out = self.sessions.get("vae_decoder").run({"latent_sample": latents})
        return _output(out, "sample", "vae_decoder")

    def encode_picture(self, sample: np.ndarray) -> np.ndarray:
        """(1, 3, height, width) float32 in [-1, 1] -> (1, c, h, w) of the autoencoder's latents.

        Raises PackError when the pack has no graph `vae_encoder`."""
        out = self.sessions.get("vae_encoder").run({"sample": sample})
        return _output(out, "latent_sample", "vae_encoder")

    def pace(self) -> Pace:
        """How long the graphs took so far, by pack, provider, role and size."""
        return self.sessions.times.pace(self.pack.name, self.provider.name)

    def close(self) -> None:
        """Free graphs and encodings; safe to call twice. The next use loads again."""
        self.sessions.close()
        self.forget_words()

    def forget_words(self) -> None:
        """Let go of remembered encodings."""
        self._encodings.clear()
        self._unconditional = None


def _mean(outputs: list[np.ndarray]) -> np.ndarray:
    return outputs[0] if len(outputs) == 1 else np.asarray(np.mean(outputs, axis=0, dtype=np.float32))


def _output(
    out: dict[str, np.ndarray], name: str, graph: str, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """One output as float32. Raises EngineError when the graph has none of that name, or another shape."""
    if name not in out:
        raise EngineError(f"graph {graph} has no output {name}; it has {', '.join(out)}")
    if shape is not None and out[name].shape != shape:
        raise EngineError(f"graph {graph}: {name} has shape {out[name].shape}, expected {shape}")
    return out[name].astype(np.float32, copy=False)
