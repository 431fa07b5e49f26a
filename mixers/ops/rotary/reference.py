"""Rotary positions (arXiv:2104.09864): neighbouring pairs of channels are rotated by angles that grow with position.

Axes: b batch, t time, h head, k key width. x is (b, t, h, k), cosines and sines of the angles are (b, t, 1, k/2).
"""

import torch
from torch import Tensor

from mixers.ops.op import Draw

BASE = 10_000.0  # both papers' ratio between the fastest and the slowest rotation


def reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)


def rotary_frequencies(width: int, device: torch.device) -> Tensor:
    """Radians per token of each pair of channels, BASE^(-2i/width), (k/2,)."""
    return BASE ** -(torch.arange(0, width, 2, device=device, dtype=_precise(device)) / width)


def retention_frequencies(width: int, device: torch.device) -> Tensor:
    """The same over RetNet's grid, which includes its end: BASE^-linspace(0, 1, width/2), (k/2,)."""
    return BASE ** -torch.linspace(0, 1, width // 2, device=device, dtype=_precise(device))


def _precise(device: torch.device) -> torch.dtype:
    """In float32 the fastest pair would be off by 2e-4 after 4,096 tokens. Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Tensor, ...]:
    """A query's 4 heads."""
    position = torch.arange(length, device=draw.device)
    angle = (position[:, None] * rotary_frequencies(dim // 4, draw.device))[None, :, None]
    return draw(batch, length, 4, dim // 4), angle.cos(), angle.sin()
