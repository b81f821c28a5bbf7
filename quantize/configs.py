"""What a checkpoint's configs may say, as diffusers and transformers write them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Configs = dict[str, dict[str, Any]]
"""Component (`unet`, `vae`, ...) -> its parsed config."""

VAE_CLASSES = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC")
BETA_SCHEDULES = ("scaled_linear", "linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace")
ADDITIONS = (None, "text", "text_time")  # what a denoiser may be told beside the words
TIME_IDS = 6  # of SDXL: original, crop and target sizes; its refiner has five
_UNREAD = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type")


def is_sdxl(configs: Configs) -> bool:
    """Whether the denoiser also takes pooled words and sizes, as Stable Diffusion XL's."""
    return configs["unet"].get("addition_embed_type") == "text_time"


def latent_downscale(vae: dict[str, Any]) -> int:
    """Pixels per latent, along each side, from an autoencoder's config."""
    kind = vae["_class_name"]
    if kind == "AutoencoderDC":
        return int(2 ** (len(vae["encoder_block_out_channels"]) - 1))
    if kind == "AutoencoderTiny":
        factor = vae.get("upsampling_scaling_factor", 2)
        return int(factor ** (len(vae["decoder_block_out_channels"]) - 1))
    return int(2 ** (len(vae["block_out_channels"]) - 1))


def config_problems(configs: Configs) -> list[str]:
    """Everything in the configs that is not read, or does not fit together."""
    scheduler, unet, vae, text = (configs[n] for n in ("scheduler", "unet", "vae", "text_encoder"))
    known = [
        ("vae: _class_name", vae.get("_class_name"), VAE_CLASSES),
        ("unet: _class_name", unet.get("_class_name"), ("UNet2DConditionModel",)),
        ("text_encoder: model_type", text.get("model_type"), ("clip_text_model",)),
        ("scheduler: beta_schedule", scheduler.get("beta_schedule", "scaled_linear"), BETA_SCHEDULES),
        ("scheduler: prediction_type", scheduler.get("prediction_type", "epsilon"), PREDICTION_TYPES),
        ("scheduler: timestep_spacing", scheduler.get("timestep_spacing", "leading"), SPACINGS),
        ("unet: addition_embed_type", unet.get("addition_embed_type"), ADDITIONS),
        *((f"unet: {name}", unet.get(name), (None,)) for name in _UNREAD),
    ]
    problems = [
        f"{name} is {value!r}; read are {', '.join(str(a) for a in allowed)}"
        for name, value, allowed in known
        if value not in allowed
    ]
    return [*problems, *_mismatches(configs)]


def _mismatches(configs: Configs) -> Iterator[str]:
    unet, vae = configs["unet"], configs["vae"]
    latent, channels = vae.get("latent_channels"), unet.get("in_channels")
    if latent != channels:
        yield f"vae makes {latent} latent channels, unet takes {channels}: a mixed-up folder?"
    second = configs.get("text_encoder_2")
    if (second is not None) != is_sdxl(configs):
        has, wants = ("one", "two, as SDXL's") if second is None else ("two", "one")
        yield f"text encoders: there are {has}, unet wants {wants}"
        return
    width = sum(
        int(configs[n].get("hidden_size", 0)) for n in ("text_encoder", "text_encoder_2") if n in configs
    )
    if unet.get("cross_attention_dim") != width:
        yield f"the words are {width} wide, unet takes {unet.get('cross_attention_dim')}: a mixed-up folder?"
    if second is not None:
        yield from _sdxl_mismatches(unet, second)


def _sdxl_mismatches(unet: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    pooled, each = int(second.get("projection_dim", 0)), int(unet.get("addition_time_embed_dim") or 0)
    wants, gives = unet.get("projection_class_embeddings_input_dim"), pooled + TIME_IDS * each
    if wants != gives:
        yield f"unet takes {wants} numbers beside the words, text_encoder_2 and {TIME_IDS} sizes give {gives}"
