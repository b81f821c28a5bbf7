"""Pictures from ONNX graphs on a PC: the device's way, by the same ground floor.

Used to record what the graphs see, and to compare the pictures of two packs. Needs no torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort

from edgegen.diffusion.conditions import guidance_embedding, size_ids
from edgegen.diffusion.pixels import to_uint8
from edgegen.diffusion.rng import NoiseSource
from edgegen.diffusion.sampler import sample
from edgegen.diffusion.schedulers import make_scheduler
from edgegen.diffusion.schedules import NoiseSchedule
from edgegen.diffusion.tokenizer import ClipTokenizer
from edgegen.pack import Manifest, Pack

LARGE_BYTES = 10**9
HUGE_BYTES = 4 * 10**9  # Stable Diffusion XL's denoiser in float32: 10.3 GB
DEFAULT_THREADS = 0  # of a session that is told nothing else; 0: ONNX Runtime's choice
DRAWING_ROLES = ("text_encoder", "text_encoder_2", "unet", "vae_decoder")
Feeds = dict[str, np.ndarray]
NOTHING: Feeds = {}
Observer = Callable[[str, Feeds, Feeds], None]  # (role, inputs, outputs) of every run of a graph


@dataclass(frozen=True)
class Recipe:
    """All that turns words into a picture, but the graphs. Sides in pixels.

    Attributes:
        pad_id_2: what the second text encoder's prompts are padded with; None: as the first's.
        guidance_dim: width of the embedded guidance; None: guidance is a second pass.
    """

    tokenizer: Path
    max_length: int
    pad_id_2: int | None
    guidance_dim: int | None
    schedule: NoiseSchedule
    prediction_type: str
    latent_channels: int
    latent_downscale: int
    latent_scale: float
    sampler: str
    steps: int
    guidance: float
    width: int
    height: int

    @classmethod
    def of_pack(cls, pack: Pack) -> Recipe:
        """The defaults of a pack."""
        return cls.of_manifest(pack.manifest, pack.tokenizer_path)

    @classmethod
    def of_manifest(cls, m: Manifest, tokenizer: Path) -> Recipe:
        """The defaults a manifest states."""
        schedule = NoiseSchedule(
            m.beta_schedule,
            m.beta_start,
            m.beta_end,
            m.num_train_timesteps,
            m.rescale_zero_terminal_snr,
            m.timestep_spacing,
            m.steps_offset,
        )
        return cls(
            tokenizer=tokenizer,
            max_length=m.tokenizer.max_length,
            pad_id_2=m.tokenizer_2.pad_token_id if m.tokenizer_2 else None,
            guidance_dim=m.guidance_embedding_dim,
            schedule=schedule,
            prediction_type=m.prediction_type,
            latent_channels=m.latent_channels,
            latent_downscale=m.latent_downscale,
            latent_scale=m.latent_scale,
            **m.defaults.model_dump(),
        )


def open_session(path: Path, threads: int = 0) -> ort.InferenceSession:
    """A CPU session; 0 threads: `DEFAULT_THREADS`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or DEFAULT_THREADS
    options.log_severity_level = 3
    size = sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file())
    if size > HUGE_BYTES:  # weights stay in their file: kernels would copy all of them
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if size > LARGE_BYTES:
        options.enable_cpu_mem_arena = (
            False  # it grows by doubling: 0.7 GB of SD 1.5's 5.6, for no time gained
        )
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Runner:
    """Graphs and a recipe, ready to make pictures.

    Args:
        graphs: role -> .onnx, at least text_encoder, unet and vae_decoder.
        observer: told the inputs and outputs of every run.
    """

    def __init__(
        self, graphs: dict[str, Path], recipe: Recipe, threads: int = 0, observer: Observer | None = None
    ):
        r = self.recipe = recipe
        self._tokenizer = ClipTokenizer.from_file(r.tokenizer, r.max_length)
        self._tokenizer_2 = ClipTokenizer.from_file(r.tokenizer, r.max_length, r.pad_id_2)
        self._sessions = {role: open_session(path, threads) for role, path in graphs.items()}
        self._observer = observer

    @classmethod
    def of_pack(cls, pack: Pack, threads: int = 0, observer: Observer | None = None) -> Runner:
        """A pack at its defaults."""
        roles = [role for role in pack.manifest.graphs if role in DRAWING_ROLES]
        return cls({role: pack.graph(role) for role in roles}, Recipe.of_pack(pack), threads, observer)

    def picture(
        self, prompt: str, seed: int, wanted: Feeds = NOTHING, unwanted: Feeds = NOTHING
    ) -> np.ndarray:
        """Words and a seed to (height, width, 3) uint8.

        Args:
            wanted, unwanted: what else the denoiser is told on each side of guidance.
        """
        r = self.recipe
        scheduler = make_scheduler(r.sampler, r.schedule, r.prediction_type, r.steps)
        noise = NoiseSource(seed)
        sides = r.height // r.latent_downscale, r.width // r.latent_downscale
        latents = noise.normal((1, r.latent_channels, *sides)) * np.float32(scheduler.init_noise_sigma)
        guidance = 1.0 if r.guidance_dim else r.guidance  # embedded: one pass does it all
        words = self._encode(prompt)
        no_words = self._encode_nothing(words) if guidance != 1 else None
        words, no_words = {**words, **wanted}, no_words and {**no_words, **unwanted}
        for step in sample(self._denoise, scheduler, latents, words, no_words, guidance, noise):
            latents = step.latents
        scaled = (latents / r.latent_scale).astype(np.float32)
        return to_uint8(self.run("vae_decoder", {"latent_sample": scaled})["sample"])

    def _encode(self, text: str) -> Feeds:
        """All inputs of the denoiser that stay the same over a run."""
        r = self.recipe
        first = self.run("text_encoder", {"input_ids": self._tokenizer.encode(text)})
        more = {"timestep_cond": guidance_embedding(r.guidance, r.guidance_dim)} if r.guidance_dim else {}
        if "text_encoder_2" not in self._sessions:
            return {"encoder_hidden_states": first["last_hidden_state"], **more}
        second = self.run("text_encoder_2", {"input_ids": self._tokenizer_2.encode(text)})
        states = np.concatenate([first["hidden_states"], second["hidden_states"]], axis=2)
        more |= {"text_embeds": second["text_embeds"], "time_ids": size_ids(r.width, r.height)}
        return {"encoder_hidden_states": states, **more}

    def _encode_nothing(self, words: Feeds) -> Feeds:
        """The empty prompt; for Stable Diffusion XL that is zeros, as on the device and in diffusers."""
        if "text_encoder_2" not in self._sessions:
            return self._encode("")
        return {name: value if name == "time_ids" else np.zeros_like(value) for name, value in words.items()}

    def _denoise(self, latents: np.ndarray, timestep: float, words: Feeds) -> np.ndarray:
        feeds = {"sample": latents.astype(np.float32), "timestep": np.array([timestep], np.float32), **words}
        return self.run("unet", feeds)["out_sample"]

    def run(self, role: str, feeds: Feeds) -> Feeds:
        """All outputs of a graph, by name."""
        session = self._sessions[role]
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, feeds), strict=True))
        if self._observer:
            self._observer(role, feeds, outputs)
        return outputs


def first_outputs(graph: Path, feeds: Iterable[Feeds]) -> list[np.ndarray]:
    """The graph's first output for each of the inputs."""
    session = open_session(graph)
    return [session.run(None, feed)[0] for feed in feeds]
