"""What files that are no LoRA we can merge are instead: told by the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable

SUPPORTED = "LoRA, LoCon, LoHa, LoKr and DoRA for Stable Diffusion 1, 2 and XL"
_TRANSFORMER = r"^(lora_transformer_|transformer\.|diffusion_model\.|lora_te3_|double_blocks|single_blocks)"
KINDS = (
    (re.compile(r"\.oft_(blocks|diag|R)\b"), "OFT"),
    (re.compile(r"\.[ab][12]\.weight$"), "GLoRA"),
    (re.compile(r"\.on_input$"), "IA3"),
    (re.compile(r"\.diff(_b)?$"), "whole differences of layers"),
    (re.compile(r"\.[wb]_norm$"), "changes to normalizations"),
    (re.compile(r"\.bias_(indices|values|size)$|\.lora_(B|up)(\.default)?\.bias$"), "changes to biases"),
    (re.compile(r"\.reshape_weight$"), "changes that make layers larger"),
    (re.compile(r"^(emb_params|string_to_param|clip_[lg])\b"), "a textual inversion"),
    (re.compile(r"^(model\.diffusion_model|first_stage_model|cond_stage_model)\."), "a whole checkpoint"),
    (re.compile(_TRANSFORMER), "changes to a transformer, another family of models"),
    (re.compile(r"^(ip_adapter|image_proj)\."), "an IP-Adapter"),
)


def why_unsupported(unknown: Iterable[str]) -> str:
    """What these names are a sign of: `OFT, not supported`, or that they are not understood."""
    unknown = list(unknown)
    found = [name for pattern, name in KINDS if any(pattern.search(key) for key in unknown)]
    if not found:
        return "what is not understood"
    return f"{' and '.join(found)}, not supported; merged are {SUPPORTED}"
