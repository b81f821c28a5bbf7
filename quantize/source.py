"""A checkpoint to quantize: what it must hold, and what its configs say.

Only safetensors are read: pickled weights (.bin, .ckpt, .pt) run code when they are opened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgegen.diffusion.schedules import NoiseSchedule
from edgegen.diffusion.tokenizer import END

from .configs import Configs, config_problems, is_sdxl, latent_downscale
from .folder import COMPONENTS, read_folder, tokenizer_problems
from .original import Hints, read_original
from .refusal import CONVERT, PICKLES, SourceError, raise_if

Layout = Literal["diffusers", "original", "onnx"]
NO_HINTS = Hints()
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
        folder: or the file, when it is one.
        configs: component name -> its parsed config.
        tokenizer: folder of the tokenizer's files.
        tokenizer_2: of SDXL's second one; None: as the first, but padded with `!`.
        pad_token: of the first; None: as its files say.
        latent_downscale: pixels per latent, along each side.
        latent_scale, latent_shift: latents = (encoded - shift) * scale.
    """

    folder: Path
    layout: Layout
    configs: Configs = field(repr=False)
    tokenizer: Path
    tokenizer_2: Path | None
    pad_token: str | None
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


def open_source(path: Path, hints: Hints = NO_HINTS) -> Source:
    """Check a checkpoint without loading its weights.

    Args:
        path: a diffusers folder with text_encoder/, unet/, vae/, scheduler/ and tokenizer/ (SDXL also
            text_encoder_2/) as `save_pretrained` writes them; a .safetensors file in the original layout; or
            a folder with ONNX graphs, unet/model.onnx and so on, as optimum exports them.
        hints: what a single file cannot say.
    Raises:
        SourceError: naming everything that is missing or wrong, and what was looked for.
    """
    if path.is_file() or path.suffix in PICKLES:
        return _open_original(path, hints)
    if not path.is_dir():
        raise SourceError(
            f"{path} does not exist; SOURCE is a diffusers folder with {', '.join(COMPONENTS)}, or a "
            ".safetensors file"
        )
    if hints.prediction or hints.turbo:
        raise SourceError(f"{path} says it by its scheduler: --prediction and --turbo are for files")
    if is_onnx_folder(path):
        return _open_onnx(path, hints)
    configs = read_folder(path)
    second = path / "tokenizer_2" if "tokenizer_2" in configs else None
    return _source(path, "diffusers", configs, hints.tokenizer or path / "tokenizer", second, None)


def is_onnx_folder(folder: Path) -> bool:
    """Whether a folder holds graphs rather than weights."""
    return (folder / "unet" / "model.onnx").is_file()


def _open_onnx(folder: Path, hints: Hints) -> Source:
    from .onnxfolder import read_onnx_folder  # onnx takes a second to import

    configs = read_onnx_folder(folder, own_tokenizer=hints.tokenizer is None)
    second = folder / "tokenizer_2" if (folder / "tokenizer_2").is_dir() else None
    return _source(folder, "onnx", configs, hints.tokenizer or folder / "tokenizer", second, None)


def _open_original(file: Path, hints: Hints) -> Source:
    if not file.is_file():
        raise SourceError(f"{file} does not exist, and would not be read: {CONVERT}")
    family, configs = read_original(file, hints)
    if hints.tokenizer is None:
        raise SourceError(
            f"{file} holds no tokenizer, and nothing is downloaded: give --tokenizer FOLDER with CLIP's "
            "tokenizer.json, or vocab.json and merges.txt: the folder tokenizer/ of any Stable Diffusion"
        )
    raise_if(hints.tokenizer, tokenizer_problems(hints.tokenizer))
    pad = "!" if family == "sd2" else END  # whichever the folder was made for
    return _source(file, "original", configs, hints.tokenizer, None, pad)


def _source(
    path: Path, layout: Layout, configs: Configs, tokenizer: Path, second: Path | None, pad: str | None
) -> Source:
    raise_if(path, config_problems(configs))
    vae = configs["vae"]
    return Source(
        folder=path,
        layout=layout,
        configs=configs,
        tokenizer=tokenizer,
        tokenizer_2=second,
        pad_token=pad,
        latent_channels=int(vae["latent_channels"]),
        latent_downscale=latent_downscale(vae),
        latent_scale=float(vae.get("scaling_factor") or 1.0),
        latent_shift=float(vae.get("shift_factor") or 0.0),
    )
