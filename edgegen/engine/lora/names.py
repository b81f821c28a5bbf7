"""What tensors in LoRA files are called, and which layer each belongs to.

Three ways are in use: kohya's `lora_unet_<module with underscores>.lora_down.weight` (for Stable Diffusion
XL with the original code's module names), diffusers' `unet.<module>.lora_A.weight` or `.lora.down.weight`,
and diffusers' older attention processors, `...attn1.processor.to_q_lora.down.weight`.
"""

from __future__ import annotations

import re

UNET, TEXT, TEXT_2 = "unet", "text_encoder", "text_encoder_2"
CHANGED_AS = {
    **dict.fromkeys((UNET, "unet_control", "unet_ip", "unet_control_ip"), UNET),
    **{TEXT: TEXT, TEXT_2: TEXT_2},
}
"""Graph of a pack -> whose changes it takes: the denoiser is there anew for each that may lead it."""
_PREFIXES = (  # longest first where one begins another
    ("lora_unet_", UNET),
    ("lora_te1_", TEXT),
    ("lora_te2_", TEXT_2),
    ("lora_te_", TEXT),
    ("lycoris_unet_", UNET),
    ("text_encoder_2.", TEXT_2),
    ("text_encoder.", TEXT),
    ("unet.", UNET),
    ("base_model.model.", UNET),
)
_BARE = ("down_blocks.", "up_blocks.", "mid_block.")
_PARTS = (
    (
        re.compile(
            r"\.lora_down\.weight$|\.lora_A(\.default)?\.weight$|\.lora(_linear_layer)?\.down\.weight$"
        ),
        "down",
    ),
    (
        re.compile(r"\.lora_up\.weight$|\.lora_B(\.default)?\.weight$|\.lora(_linear_layer)?\.up\.weight$"),
        "up",
    ),
    (re.compile(r"\.lora_mid\.weight$"), "mid"),
    (re.compile(r"\.alpha$"), "alpha"),
    (re.compile(r"\.dora_scale$"), "dora_scale"),
    (re.compile(r"\.lora_magnitude_vector(\.default)?(\.weight)?$"), "magnitude"),
    *(
        (re.compile(rf"\.{part}$"), part)
        for part in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
    ),
    *(
        (re.compile(rf"\.{part}$"), part)
        for part in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
    ),
)
_PROCESSOR = re.compile(r"\.processor\.(to_[qkv]|to_out)_lora\.(down|up)\.weight$")
_LAYER = re.compile(r"(?:^|_)encoder_layers_(\d+)_")


def split_key(key: str) -> tuple[str, str, str] | None:
    """A tensor's name -> (graph, module in `flat` writing, part as in `kinds`, or `alpha`, `dora_scale`,
    `magnitude`); None: unknown."""
    if found := _PROCESSOR.search(key):
        layer = "to_out.0" if found[1] == "to_out" else found[1]
        key = f"{key[: found.start()]}.{layer}.lora.{found[2]}.weight"
    for pattern, part in _PARTS:
        if found := pattern.search(key):
            graph, module = _graph_of(key[: found.start()])
            return (graph, flat(module), part) if graph else None
    return None


def _graph_of(name: str) -> tuple[str, str]:
    for prefix, graph in _PREFIXES:
        if name.startswith(prefix):
            return graph, name.removeprefix(prefix)
    return (UNET, name) if name.startswith(_BARE) else ("", name)


def flat(module: str) -> str:
    """A module's path as kohya writes it; text encoders with and without their outer `text_model`."""
    return module.replace(".", "_").removeprefix("text_model_")


def layer_number(flat_module: str) -> int | None:
    """Which of a text encoder's layers a module is in."""
    found = _LAYER.search(flat_module)
    return int(found[1]) if found else None


def original_names(module: str) -> list[str]:
    """A denoiser's module as the original code of Stable Diffusion numbers it, with 2 resnets a block.

    An upsampler stands behind the attention where its block has some: both numbers are given."""
    if found := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv$", module):
        return [f"output_blocks.{3 * int(found[1]) + 2}.{place}.conv" for place in (1, 2)]
    name = _ENDS.get(module) or _original_name(module)
    return [name] if name else []


def _original_name(module: str) -> str | None:
    found = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers)\.(\d+)\.(.+)$", module)
    if found:
        return _numbered(found[1], int(found[2]), found[3], int(found[4]), found[5])
    found = re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)$", module)
    if not found:
        return None
    if found[1] == "attentions":
        return f"middle_block.1.{found[3]}"
    return f"middle_block.{2 * int(found[2])}.{_RESNET.get(found[3], found[3])}"


def _numbered(side: str, block: int, kind: str, k: int, rest: str) -> str:
    if kind == "downsamplers":
        return f"input_blocks.{3 * block + 3}.0.op"
    number = f"input_blocks.{1 + 3 * block + k}" if side == "down" else f"output_blocks.{3 * block + k}"
    if kind == "attentions":
        return f"{number}.1.{rest}"
    return f"{number}.0.{_RESNET.get(rest, rest)}"


_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
