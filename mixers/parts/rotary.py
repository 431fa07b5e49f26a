"""Rotary positions (arXiv:2104.09864): neighbouring pairs of channels turn by an angle that grows with position.

Axes: b batch, h head, t time, k key width.
"""

import torch
from torch import Tensor

BASE = 10_000.0  # both papers' ratio between the fastest and the slowest turn


def rotary_frequencies(width: int, device: torch.device) -> Tensor:
    """Radians a token for each pair of channels, BASE^(-2i/width), (k/2,)."""
    return BASE ** -(torch.arange(0, width, 2, device=device, dtype=_precise(device)) / width)


def retention_frequencies(width: int, device: torch.device) -> Tensor:
    """The same over RetNet's grid, which includes its end: BASE^-linspace(0, 1, width/2), (k/2,)."""
    return BASE ** -torch.linspace(0, 1, width // 2, device=device, dtype=_precise(device))


def rotate(q: Tensor, k: Tensor, position: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Turns q and k (b, h, t, k), whose first token stands at `position` (b,) of its row."""
    t = torch.arange(q.shape[2], device=q.device)
    angle = (position[:, None] + t)[:, None, :, None] * frequencies  # (b, 1, t, k/2)
    cos, sin = angle.cos().to(q.dtype), angle.sin().to(q.dtype)
    return _turned(q, cos, sin), _turned(k, cos, sin)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)


def _precise(device: torch.device) -> torch.dtype:
    """In float32 the fastest pair would be off by 2e-4 after 4,096 tokens. Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
