"""Train in bfloat16 where the processor multiplies it natively: two to four times the speed with AMX."""

from __future__ import annotations

import torch


def native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself (AVX512-BF16 or AMX); elsewhere it is emulated, slowly."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def mixed_precision() -> torch.autocast:
    """A context whose convolutions and matrix products run in bfloat16 where that is native."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=native_bfloat16())
