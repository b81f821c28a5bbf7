"""A checkpoint to quantize: what it must hold, and what its configs say.

Only safetensors are read: pickled weights (.bin, .ckpt, .pt) run code when they are opened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgegen.diffusion.schedules import NoiseSchedule

from .configs import Configs, config_problems, is_sdxl, latent_downscale
from .folder import COMPONENTS, read_folder
from .refusal import CONVERT, PICKLES, SourceError, raise_if

_SAMPLERS = {
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "dpmpp_2m",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "LCMScheduler": "lcm",
    "HeunDiscreteScheduler": "heun",
    "KDPM2DiscreteScheduler": "dpm_2",
    "KDPM2AncestralDiscreteScheduler": "dpm_2_ancestral",
    "LMSDiscreteScheduler": "lms",
    "DPMSolverSDEScheduler": "dpmpp_sde",
    "UniPCMultistepScheduler": "uni_pc",
}


@dataclass(frozen=True)
class Source:
    """A checked checkpoint.

    Attributes:
        configs: component name -> its parsed config.
        tokenizer: folder of the tokenizer's files.
        tokenizer_2: of SDXL's second one; None: as the first, but padded with `!`.
        latent_downscale: pixels per latent, along each side.
        latent_scale, latent_shift: latents = (encoded - shift) * scale.
    """

    folder: Path
    configs: Configs = field(repr=False)
    tokenizer: Path
    tokenizer_2: Path | None
    latent_channels: int
    latent_downscale: int
    latent_scale: float
    latent_shift: float

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule the checkpoint was trained with."""
        c = self.configs["scheduler"]
        return NoiseSchedule(
            beta_schedule=c.get("beta_schedule", "scaled_linear"),
            beta_start=float(c.get("beta_start", 0.00085)),
            beta_end=float(c.get("beta_end", 0.012)),
            num_train_timesteps=int(c.get("num_train_timesteps", 1000)),
            rescale_zero_terminal_snr=bool(c.get("rescale_betas_zero_snr", False)),
            timestep_spacing=c.get("timestep_spacing", "leading"),
            steps_offset=int(c.get("steps_offset", 0)),
        )

    @property
    def prediction_type(self) -> str:
        return str(self.configs["scheduler"].get("prediction_type", "epsilon"))

    @property
    def sampler(self) -> str:
        """The sampler nearest to the checkpoint's own scheduler."""
        return _SAMPLERS.get(self.configs["scheduler"].get("_class_name", ""), "dpmpp_2m")

    @property
    def family(self) -> str:
        """`sdxl` for two text encoders, `lcm` for an embedded guidance, `sd2` for the linear projections of
        Stable Diffusion 2; else `sd1`."""
        if self.is_sdxl:
            return "sdxl"
        if self.guidance_embedding_dim:
            return "lcm"
        return "sd2" if self.configs["unet"].get("use_linear_projection") else "sd1"

    @property
    def is_sdxl(self) -> bool:
        return is_sdxl(self.configs)

    @property
    def is_turbo(self) -> bool:
        """Distilled to few steps without guidance, as SD-Turbo and SDXL-Turbo: no config says so, but their
        schedulers do, which space the steps of an Euler sampler from the very end."""
        s = self.schedule
        euler = self.sampler in ("euler", "euler_ancestral")
        return euler and s.timestep_spacing == "trailing" and not s.rescale_zero_terminal_snr

    @property
    def guidance_embedding_dim(self) -> int | None:
        """Width of the denoiser's input for the embedded guidance; None: it has none."""
        dim = self.configs["unet"].get("time_cond_proj_dim")
        return int(dim) if dim else None

    @property
    def roles(self) -> tuple[str, ...]:
        """The graphs that words become a picture with, in the order in which they run."""
        second = ("text_encoder_2",) if self.is_sdxl else ()
        return ("text_encoder", *second, "unet", "vae_decoder")

    @property
    def max_length(self) -> int:
        """Tokens in a prompt, start and end included."""
        return int(self.configs["text_encoder"].get("max_position_embeddings", 77))

    @property
    def words_width(self) -> int:
        """Channels of `encoder_hidden_states`."""
        return int(self.configs["unet"]["cross_attention_dim"])

    @property
    def native_size(self) -> int:
        """Side in pixels the denoiser was trained at."""
        return int(self.configs["unet"].get("sample_size") or 64) * self.latent_downscale


def open_source(folder: Path) -> Source:
    """Check a diffusers folder without loading its weights.

    Args:
        folder: holds text_encoder/, unet/, vae/, scheduler/ and tokenizer/ (SDXL also text_encoder_2/) as
            `save_pretrained` writes them.
    Raises:
        SourceError: naming everything that is missing or wrong, and what was looked for.
    """
    _refuse_single_files(folder)
    configs = read_folder(folder)
    raise_if(folder, config_problems(configs))
    vae = configs["vae"]
    return Source(
        folder=folder,
        configs=configs,
        tokenizer=folder / "tokenizer",
        tokenizer_2=folder / "tokenizer_2" if "tokenizer_2" in configs else None,
        latent_channels=int(vae["latent_channels"]),
        latent_downscale=latent_downscale(vae),
        latent_scale=float(vae.get("scaling_factor") or 1.0),
        latent_shift=float(vae.get("shift_factor") or 0.0),
    )


def _refuse_single_files(folder: Path) -> None:
    if folder.suffix in PICKLES:
        raise SourceError(f"{folder} is a pickle, which runs code when opened; {CONVERT}")
    if folder.is_file():
        raise SourceError(f"{folder} is one file; a diffusers folder is wanted: {CONVERT}")
    if not folder.is_dir():
        raise SourceError(
            f"{folder} does not exist; SOURCE is a diffusers folder with {', '.join(COMPONENTS)}"
        )
