"""Rotary positions (arXiv:2104.09864): neighbouring pairs of channels are rotated by angles that grow with position.

Axes: b batch, t time, h head, k key width. x is (b, t, h, k), cosines and sines of the angles are (b, t, 1, k/2).
"""

import torch
from torch import Tensor

from mixers.ops.rotary.frequencies import rotary_frequencies


def reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)


def examples(length: int, dim: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """A query's 4 heads at width dim, with a gradient wanted."""
    x = torch.randn(1 if dim > 64 else 2, length, 4, dim // 4, dtype=dtype, device=device).requires_grad_()
    angle = torch.arange(length, device=device)[:, None, None] * rotary_frequencies(dim // 4, device)
    return x, angle.cos()[None], angle.sin()[None]
