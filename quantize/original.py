"""What a checkpoint in one file, in the original layout of Stable Diffusion, says by its names and shapes.

Such a file has no configs: they are made here of what is in it, as the training code's configs were.
Which layer is where: github.com/CompVis/latent-diffusion, `ldm/modules/diffusionmodules/openaimodel.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .configs import Configs
from .refusal import SourceError, raise_if
from .tensorfile import read_tensors

Shapes = dict[str, tuple[int, ...]]
Prediction = Literal["epsilon", "v_prediction"]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP = {"sd1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
OPEN_CLIP = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}
LATENT_SCALE = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}
HEAD_CHANNELS = 64  # of all but Stable Diffusion 1, which has eight heads everywhere
HEADS_OF_SD1 = 8
SIZE_CHANNELS = 256  # into which SDXL embeds each of its sizes
OPEN_CLIP_LAYERS = 24  # of Stable Diffusion 2's text encoder, which reads the last but one


@dataclass(frozen=True)
class Hints:
    """What a single file cannot say. `prediction` None: epsilon, unless the file knows better."""

    tokenizer: Path | None = None
    prediction: Prediction | None = None
    turbo: bool = False


def read_original(file: Path, hints: Hints) -> tuple[str, Configs]:
    """The family of a single file (`sd1`, `sd2`, `sdxl`) and configs as a diffusers folder would have them.

    Raises:
        SourceError: no sound safetensors file, another kind of model, parts missing, or a question that only
            `hints` can answer.
    """
    shapes = {name: info.shape for name, info in read_tensors(file).items()}
    family = _family(file, shapes)
    missing = [
        what
        for what, prefix in (("denoiser", UNET), ("autoencoder", VAE))
        if not any(name.startswith(prefix) for name in shapes)
    ]
    raise_if(file, [f"it holds no {what}" for what in missing])
    prediction = _prediction(file, family, shapes, hints)
    try:
        configs = {
            **_text_configs(family, shapes),
            "unet": unet_config(family, _part(shapes, UNET), prediction),
            "vae": vae_config(family, _part(shapes, VAE)),
        }
    except KeyError as err:
        raise SourceError(f"{file} is not laid out as {family}: tensor {err} is missing") from None
    except (IndexError, ValueError, StopIteration, ZeroDivisionError):
        raise SourceError(f"{file} is not laid out as {family}: tensors have other shapes") from None
    return family, {**configs, "scheduler": _scheduler_config(family, shapes, prediction, hints.turbo)}


def _family(file: Path, shapes: Shapes) -> str:
    for family, prefix in (("sdxl", OPEN_CLIP["sdxl"]), ("sd2", OPEN_CLIP["sd2"]), ("sd1", CLIP["sd1"])):
        if any(name.startswith(prefix) for name in shapes):
            return family
    if any(name.startswith("conditioner.embedders.0.model.") for name in shapes):
        raise SourceError(f"{file} is SDXL's refiner, which draws no picture by itself")
    first = ", ".join(sorted(shapes)[:3]) or "nothing"
    raise SourceError(
        f"{file} is no Stable Diffusion 1, 2 or XL in the original layout, whole with text encoder and "
        f"autoencoder (a LoRA, a part alone, another model?): it holds {first[:200]}"
    )


def _prediction(file: Path, family: str, shapes: Shapes, hints: Hints) -> Prediction:
    if hints.prediction:
        return hints.prediction
    if family == "sd2":
        raise SourceError(
            f"{file} is Stable Diffusion 2 and does not say what it predicts: give --prediction v_prediction "
            "(the 768 pixel models) or --prediction epsilon (the base models, SD-Turbo)"
        )
    return "v_prediction" if "v_pred" in shapes else "epsilon"


def _part(shapes: Shapes, prefix: str) -> Shapes:
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def _count(names: Iterable[str], prefix: str) -> int:
    """How many numbers follow a prefix in the names."""
    return len({name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)})


def unet_config(family: str, part: Shapes, prediction: Prediction) -> dict[str, Any]:
    """What diffusers would say of a denoiser, from its tensors' shapes by their names without prefix."""
    levels = _levels(part)
    channels = [level[0][0] for level in levels]
    depths = [level[0][1] for level in levels]
    attentive = next(name for name in part if name.endswith(".proj_in.weight"))
    is_sd1 = len(part[attentive]) == 4
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": {"sd1": 64, "sd2": 96 if prediction == "v_prediction" else 64, "sdxl": 128}[family],
        "in_channels": part["input_blocks.0.0.weight"][1],
        "out_channels": part["out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": len(levels[0]),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in depths[::-1]],
        "transformer_layers_per_block": [depth or 1 for depth in depths],
        "cross_attention_dim": next(s[1] for n, s in part.items() if n.endswith(".attn2.to_k.weight")),
        "attention_head_dim": HEADS_OF_SD1 if is_sd1 else [c // HEAD_CHANNELS for c in channels],
        "use_linear_projection": not is_sd1,
    }
    if family == "sdxl":
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": SIZE_CHANNELS,
            "projection_class_embeddings_input_dim": part["label_emb.0.0.weight"][1],
        }
    return config


def _levels(part: Shapes) -> list[list[tuple[int, int]]]:
    """(channels, transformer blocks) of every block on the way down; a level ends where sides are halved."""
    levels: list[list[tuple[int, int]]] = [[]]
    for i in range(1, _count(part, "input_blocks.")):
        if f"input_blocks.{i}.0.op.weight" in part:
            levels.append([])
        else:
            channels = part[f"input_blocks.{i}.0.out_layers.3.weight"][0]
            levels[-1].append((channels, _count(part, f"input_blocks.{i}.1.transformer_blocks.")))
    return levels


def vae_config(family: str, part: Shapes) -> dict[str, Any]:
    """Likewise of an autoencoder."""
    count = _count(part, "encoder.down.")
    return {
        "_class_name": "AutoencoderKL",
        "down_block_types": ["DownEncoderBlock2D"] * count,
        "up_block_types": ["UpDecoderBlock2D"] * count,
        "block_out_channels": [part[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(count)],
        "layers_per_block": _count(part, "encoder.down.0.block."),
        "latent_channels": part["decoder.conv_in.weight"][1],
        "scaling_factor": LATENT_SCALE[family],
    }


def _text_configs(family: str, shapes: Shapes) -> dict[str, dict[str, Any]]:
    if family == "sd1":
        return {"text_encoder": _clip_config(_part(shapes, CLIP[family] + "text_model."))}
    open_clip = open_clip_config(_part(shapes, OPEN_CLIP[family]), whole=family == "sdxl")
    if family == "sd2":
        return {"text_encoder": open_clip}
    return {
        "text_encoder": _clip_config(_part(shapes, CLIP[family] + "text_model.")),
        "text_encoder_2": open_clip,
    }


def _clip_config(part: Shapes) -> dict[str, Any]:
    config = _text_config(
        part["embeddings.token_embedding.weight"], part["embeddings.position_embedding.weight"]
    )
    return {
        **config,
        "num_hidden_layers": _count(part, "encoder.layers."),
        "intermediate_size": part["encoder.layers.0.mlp.fc1.weight"][0],
        "hidden_act": "quick_gelu",
    }


def open_clip_config(part: Shapes, whole: bool) -> dict[str, Any]:
    """Likewise of an OpenCLIP text encoder.

    Args:
        whole: all layers count; else the last one is left out where the file has it.
    """
    layers = _count(part, "transformer.resblocks.")
    has_last = "text_projection" in part or layers == OPEN_CLIP_LAYERS
    config = _text_config(part["token_embedding.weight"], part["positional_embedding"])
    return {
        **config,
        "num_hidden_layers": layers if whole or not has_last else layers - 1,
        "intermediate_size": part["transformer.resblocks.0.mlp.c_fc.weight"][0],
        "hidden_act": "gelu",
        "projection_dim": part["text_projection"][1] if whole else config["hidden_size"],
    }


def _text_config(tokens: tuple[int, ...], positions: tuple[int, ...]) -> dict[str, Any]:
    vocabulary, width = tokens
    return {
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_attention_heads": width // HEAD_CHANNELS,
        "max_position_embeddings": positions[0],
        "projection_dim": width,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }


def _scheduler_config(family: str, shapes: Shapes, prediction: Prediction, turbo: bool) -> dict[str, Any]:
    """The schedule all of them were trained with; a Turbo's steps start at the very end."""
    usual = {"sd1": "PNDMScheduler", "sd2": "DDIMScheduler", "sdxl": "EulerDiscreteScheduler"}
    fast = "EulerAncestralDiscreteScheduler" if family == "sdxl" else "EulerDiscreteScheduler"
    zero_snr = "ztsnr" in shapes
    return {
        "_class_name": fast if turbo else usual[family],
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "num_train_timesteps": 1000,
        "prediction_type": prediction,
        "rescale_betas_zero_snr": zero_snr,
        "steps_offset": 0 if turbo or zero_snr else 1,
        "timestep_spacing": "trailing" if turbo or zero_snr else "leading",
    }
