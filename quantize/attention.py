"""Attention as one graph node: com.microsoft MultiHeadAttention, packed (batch, sequence, channels).

PyTorch's own attention exports as a dozen nodes that split heads, transpose, multiply and normalize.
ONNX Runtime's fused kernel does it in one, without ever storing the (heads, sequence, sequence) scores.
So the models are told, by the hooks that diffusers and transformers offer, to call `packed_attention`,
which is PyTorch's attention when it runs and one node when it is exported.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import AttentionPooling
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ONE_NODE = "edgegen_one_node"


class _OneNodeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        _ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, scale: float, causal: bool
    ) -> torch.Tensor:
        q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
        return out.transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(g: Any, q: Any, k: Any, v: Any, heads: int, scale: float, causal: bool) -> Any:
        out = g.op(
            "com.microsoft::MultiHeadAttention",
            q,
            k,
            v,
            num_heads_i=heads,
            scale_f=scale,
            unidirectional_i=int(causal),
        )
        out.setType(q.type())
        return out


def packed_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, scale: float, causal: bool = False
) -> torch.Tensor:
    """Scaled dot-product attention on packed heads.

    Args:
        q: (batch, queries, heads * d) float32.
        k, v: (batch, keys, heads * d) float32.
        scale: what scores are multiplied with, usually d ** -0.5.
        causal: a query sees only keys up to its own place.
    Returns:
        (batch, queries, heads * d) float32.
    """
    return _OneNodeAttention.apply(q, k, v, heads, float(scale), bool(causal))


class OneNodeProcessor:
    """diffusers' attention processor that calls `packed_attention`; for blocks `is_plain` accepts."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,  # noqa: ARG002  diffusers warns of arguments not named
        **_: Any,
    ) -> torch.Tensor:
        if attention_mask is not None:
            raise ValueError("attention masks are not exported: Stable Diffusion uses none")
        residual = hidden_states
        is_picture = hidden_states.ndim == 4
        x = hidden_states.flatten(2).transpose(1, 2) if is_picture else hidden_states
        if attn.group_norm is not None:
            x = attn.group_norm(x.transpose(1, 2)).transpose(1, 2)
        context = x if encoder_hidden_states is None else encoder_hidden_states
        x = packed_attention(attn.to_q(x), attn.to_k(context), attn.to_v(context), attn.heads, attn.scale)
        x = attn.to_out[0](x)
        if is_picture:
            x = x.transpose(1, 2).reshape(residual.shape)
        if attn.residual_connection:
            x = x + residual
        return x / attn.rescale_output_factor if attn.rescale_output_factor != 1 else x


class OneNodePooling(nn.Module):
    """diffusers' AttentionPooling (the text's part of the time embedding) by `packed_attention`."""

    def __init__(self, pool: AttentionPooling):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = pool.q_proj, pool.k_proj, pool.v_proj
        self.positional_embedding, self.heads, self.head_dim = (
            pool.positional_embedding,
            pool.num_heads,
            pool.dim_per_head,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, sequence, channels) -> (batch, channels)."""
        query = x.mean(dim=1, keepdim=True) + self.positional_embedding
        x = torch.cat([query, x], dim=1)
        out = packed_attention(
            self.q_proj(query), self.k_proj(x), self.v_proj(x), self.heads, self.head_dim**-0.5
        )
        return out[:, 0]


def is_plain(attn: Attention) -> bool:
    """Whether a block is the attention of Stable Diffusion: no extra norms, projections or masks."""
    extras = ("norm_q", "norm_k", "norm_cross", "spatial_norm", "added_kv_proj_dim", "add_q_proj")
    return not any(getattr(attn, name, None) for name in extras)


def use_one_node_attention(model: nn.Module) -> int:
    """Switch every plain attention block of a diffusers model to one node; returns how many."""
    switched = 0
    for module in list(model.modules()):
        if isinstance(module, Attention) and is_plain(module):
            module.set_processor(OneNodeProcessor())
            switched += 1
        for name, child in module.named_children():
            if isinstance(child, AttentionPooling):
                setattr(module, name, OneNodePooling(child))
                switched += 1
    return switched


def _transformers_attention(
    _module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    is_causal: bool = False,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: heads arrive split, (batch, heads, sequence, d)."""
    if attention_mask is not None:
        raise ValueError("attention masks are not exported: Stable Diffusion pads its prompts instead")
    heads = int(query.shape[1])
    q, k, v = (x.transpose(1, 2).flatten(2) for x in (query, key, value))
    out = packed_attention(q, k, v, heads, scaling, is_causal)
    return out.unflatten(2, (heads, -1)), None


ALL_ATTENTION_FUNCTIONS.register(ONE_NODE, _transformers_attention)
