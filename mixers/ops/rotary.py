"""Rotary positions (arXiv:2104.09864): neighbouring pairs of channels turn by an angle that grows with position.

Axes: b batch, t time, h head, k key width.
"""

import torch
from torch import Tensor

from mixers.ops.op import Op, eager_on_cpu

BASE = 10_000.0  # both papers' ratio between the fastest and the slowest turn


def rotary_frequencies(width: int, device: torch.device) -> Tensor:
    """Radians a token for each pair of channels, BASE^(-2i/width), (k/2,)."""
    return BASE ** -(torch.arange(0, width, 2, device=device, dtype=_precise(device)) / width)


def retention_frequencies(width: int, device: torch.device) -> Tensor:
    """The same over RetNet's grid, which includes its end: BASE^-linspace(0, 1, width/2), (k/2,)."""
    return BASE ** -torch.linspace(0, 1, width // 2, device=device, dtype=_precise(device))


def rotate(q: Tensor, k: Tensor, position: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Turns q and k (b, t, h, k), whose first token stands at `position` (b,) of its row."""
    t = torch.arange(q.shape[1], device=q.device)
    angle = ((position[:, None] + t)[..., None] * frequencies)[:, :, None]  # (b, t, 1, k/2)
    cos, sin = angle.cos(), angle.sin()
    return turned(q, cos, sin), turned(k, cos, sin)


def in_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs of x (b, t, h, k) by angles of given cosines and sines (b, t, 1, k/2)."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)


def examples(length: int, dim: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """A query's 4 heads at width dim, with a gradient wanted."""
    x = torch.randn(1 if dim > 64 else 2, length, 4, dim // 4, dtype=dtype, device=device).requires_grad_()
    angle = torch.arange(length, device=device)[:, None, None] * rotary_frequencies(dim // 4, device)
    return x, angle.cos()[None], angle.sin()[None]


turned = Op(in_pairs, examples)


def _objection(x: Tensor, cos: Tensor, sin: Tensor) -> str:
    return "its pairs are not side by side" if x.stride(-1) != 1 else eager_on_cpu(x)


@turned.implementation("complex", _objection)
def by_complex_product(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs as complex numbers, which turn in one pass over them; the compiler knows none."""
    precise = torch.promote_types(x.dtype, torch.float32)
    turn = torch.complex(cos.to(precise), sin.to(precise))
    pairs = torch.view_as_complex(x.to(precise).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def _precise(device: torch.device) -> torch.dtype:
    """In float32 the fastest pair would be off by 2e-4 after 4,096 tokens. Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
