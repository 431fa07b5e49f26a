"""Vectors divided by their length, as queries and keys of delta rules are."""

import torch
from torch import Tensor

from mixers.ops.precision import state_dtype


def l2_norm(x: Tensor, scale: float = 1.0, eps: float = 1e-6) -> Tensor:
    """scale · x / √(Σx² + eps), the sum over the last axis, computed in float32 or better and returned in x's dtype."""
    precise = x.to(state_dtype(x))
    return (precise * (scale * torch.rsqrt(precise.square().sum(-1, keepdim=True) + eps))).to(x.dtype)
