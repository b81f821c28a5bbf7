"""Reading a diffusers checkpoint folder: what it must hold, and what its configs say.

Only safetensors are read: pickled weights (.bin, .ckpt, .pt) run code when they are opened.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgegen.diffusion.schedules import NoiseSchedule
from edgegen.errors import EdgegenError

COMPONENTS = ("text_encoder", "unet", "vae", "scheduler", "tokenizer")
VAE_CLASSES = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC")
BETA_SCHEDULES = ("scaled_linear", "linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace")
UNET_INPUTS = {None: "text alone", "text": "text alone"}  # addition_embed_type without inputs of its own
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_CONFIG_MAX_BYTES = 1 << 20
_CONVERT = (
    "convert it once, where you trust it, with diffusers: "
    "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER, safe_serialization=True)"
)
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


class SourceError(EdgegenError, ValueError):
    """The checkpoint to quantize is missing something, or is of a kind that is not read."""

    code = "bad_source"
    exit_code = 2


@dataclass(frozen=True)
class Source:
    """A checked checkpoint folder.

    Attributes:
        configs: component name -> its parsed config.
        latent_downscale: pixels per latent, along each side.
        latent_scale, latent_shift: latents = (encoded - shift) * scale.
    """

    folder: Path
    configs: dict[str, dict[str, Any]] = field(repr=False)
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
        """`lcm` when distilled so; `sd2` for the wide text encoder of Stable Diffusion 2; else `sd1`."""
        if self.configs["unet"].get("time_cond_proj_dim"):
            return "lcm"
        return "sd2" if self.configs["unet"].get("cross_attention_dim") == 1024 else "sd1"

    @property
    def max_length(self) -> int:
        """Tokens in a prompt, start and end included."""
        return int(self.configs["text_encoder"].get("max_position_embeddings", 77))

    @property
    def native_size(self) -> int:
        """Side in pixels the denoiser was trained at."""
        return int(self.configs["unet"].get("sample_size") or 64) * self.latent_downscale


def open_source(folder: Path) -> Source:
    """Check a diffusers folder without loading its weights.

    Args:
        folder: holds text_encoder/, unet/, vae/, scheduler/ and tokenizer/ as `save_pretrained` writes them.
    Raises:
        SourceError: naming everything that is missing or wrong, and what was looked for.
    """
    _refuse_single_files(folder)
    problems: list[str] = []
    configs = {name: _component(folder, name, problems) for name in COMPONENTS}
    if (folder / "text_encoder_2").exists():
        problems.append("text_encoder_2: two text encoders (SDXL) are not read yet")
    _raise_if(folder, problems)
    problems += _config_problems(configs)
    _raise_if(folder, problems)
    vae = configs["vae"]
    return Source(
        folder=folder,
        configs=configs,
        latent_channels=int(vae["latent_channels"]),
        latent_downscale=latent_downscale(vae),
        latent_scale=float(vae.get("scaling_factor") or 1.0),
        latent_shift=float(vae.get("shift_factor") or 0.0),
    )


def latent_downscale(vae: dict[str, Any]) -> int:
    """Pixels per latent, along each side, from an autoencoder's config."""
    kind = vae["_class_name"]
    if kind == "AutoencoderDC":
        return int(2 ** (len(vae["encoder_block_out_channels"]) - 1))
    if kind == "AutoencoderTiny":
        factor = vae.get("upsampling_scaling_factor", 2)
        return int(factor ** (len(vae["decoder_block_out_channels"]) - 1))
    return int(2 ** (len(vae["block_out_channels"]) - 1))


def _refuse_single_files(folder: Path) -> None:
    if folder.suffix in _PICKLES:
        raise SourceError(f"{folder} is a pickle, which runs code when opened; {_CONVERT}")
    if folder.is_file():
        raise SourceError(f"{folder} is one file; a diffusers folder is wanted: {_CONVERT}")
    if not folder.is_dir():
        raise SourceError(
            f"{folder} does not exist; SOURCE is a diffusers folder with {', '.join(COMPONENTS)}"
        )


def _component(folder: Path, name: str, problems: list[str]) -> dict[str, Any]:
    part = folder / name
    if not part.is_dir():
        problems.append(f"{name}/ is missing")
        return {}
    if name == "tokenizer":
        vocabulary = part / "vocab.json", part / "merges.txt"
        if not (part / "tokenizer.json").is_file() and not all(p.is_file() for p in vocabulary):
            problems.append("tokenizer/ holds neither tokenizer.json nor vocab.json with merges.txt")
        return {}
    if name != "scheduler":
        problems += _weight_problems(part)
    return _read_config(part / ("scheduler_config.json" if name == "scheduler" else "config.json"), problems)


def _weight_problems(part: Path) -> list[str]:
    if any(part.glob("*.safetensors")):
        return []
    pickled = sorted(p.name for p in part.iterdir() if p.suffix in _PICKLES)
    if pickled:
        return [
            f"{part.name}/ has only pickled weights ({pickled[0]}), which run code when opened: {_CONVERT}"
        ]
    return [f"{part.name}/ has no weights: no file *.safetensors"]


def _read_config(path: Path, problems: list[str]) -> dict[str, Any]:
    where = f"{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > _CONFIG_MAX_BYTES:
            raise ValueError(f"larger than {_CONFIG_MAX_BYTES} bytes")
        data = json.loads(path.read_text("utf-8"))
        if not isinstance(data, dict):
            raise ValueError("not a JSON object")
        return data
    except FileNotFoundError:
        problems.append(f"{where} is missing")
    except (OSError, ValueError) as err:
        problems.append(f"{where}: {err}")
    return {}


def _config_problems(configs: dict[str, dict[str, Any]]) -> list[str]:
    scheduler, unet, vae, text = (configs[n] for n in ("scheduler", "unet", "vae", "text_encoder"))
    known = [
        ("vae: _class_name", vae.get("_class_name"), VAE_CLASSES),
        ("unet: _class_name", unet.get("_class_name"), ("UNet2DConditionModel",)),
        ("text_encoder: model_type", text.get("model_type"), ("clip_text_model",)),
        ("scheduler: beta_schedule", scheduler.get("beta_schedule", "scaled_linear"), BETA_SCHEDULES),
        ("scheduler: prediction_type", scheduler.get("prediction_type", "epsilon"), PREDICTION_TYPES),
        ("scheduler: timestep_spacing", scheduler.get("timestep_spacing", "leading"), SPACINGS),
        ("unet: addition_embed_type", unet.get("addition_embed_type"), tuple(UNET_INPUTS)),
    ]
    problems = [
        f"{name} is {value!r}; read are {', '.join(str(a) for a in allowed)}"
        for name, value, allowed in known
        if value not in allowed
    ]
    latent, channels = vae.get("latent_channels"), unet.get("in_channels")
    if latent != channels:
        problems.append(f"vae makes {latent} latent channels, unet takes {channels}: a mixed-up folder?")
    if unet.get("time_cond_proj_dim"):
        problems.append("unet: time_cond_proj_dim (guidance-distilled LCM) is not read yet")
    return problems


def _raise_if(folder: Path, problems: list[str]) -> None:
    if problems:
        raise SourceError(f"{folder} cannot be quantized: " + "; ".join(problems))


def load_text_encoder(source: Source) -> Any:
    """The CLIP text encoder in float32, for inference (transformers CLIPTextModel)."""
    from transformers import CLIPTextModel

    folder = source.folder / "text_encoder"
    model = CLIPTextModel.from_pretrained(folder, use_safetensors=True, variant=_variant(folder))
    return model.float().eval()


def load_unet(source: Source) -> Any:
    """The denoiser in float32, for inference (diffusers UNet2DConditionModel)."""
    from diffusers import UNet2DConditionModel

    return _load_diffusers(UNet2DConditionModel, source.folder / "unet")


def load_vae(source: Source) -> Any:
    """The autoencoder in float32, for inference (the class its config names)."""
    import diffusers

    return _load_diffusers(getattr(diffusers, source.configs["vae"]["_class_name"]), source.folder / "vae")


def _load_diffusers(kind: Any, folder: Path) -> Any:
    model = kind.from_pretrained(
        folder, use_safetensors=True, low_cpu_mem_usage=False, variant=_variant(folder)
    )
    return model.float().eval().requires_grad_(False)


def _variant(folder: Path) -> str | None:
    """`fp16` when the folder holds no other weights."""
    return "fp16" if all(".fp16." in path.name for path in folder.glob("*.safetensors")) else None
