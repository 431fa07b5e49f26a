"""Rotary positions (arXiv:2104.09864): neighbouring pairs of channels are rotated by angles that grow with position.

`q, k = rotate(q, k, position, frequencies)`, which is made of the op `x = apply_rotary(x, cos, sin)`.

Axes: b batch, t time, h head, k key width. x is (b, t, h, k), cosines and sines of the angles are (b, t, 1, k/2).
"""

import torch
from torch import Tensor

from mixers.ops.op import Draw, Implementation, Op, unless_eager_on_cpu
from mixers.ops.precision import state_dtype

BASE = 10_000.0  # both papers' ratio between the fastest and the slowest rotation


def reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)


def _complex_product(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """In one pass over pairs as complex numbers, of which the compiler knows none."""
    precise = state_dtype(x)
    rotation = torch.complex(cos.to(precise), sin.to(precise))
    pairs = torch.view_as_complex(x.to(precise).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


def _unsupported_reason(x: Tensor, cos: Tensor, sin: Tensor) -> str | None:
    return unless_eager_on_cpu(x) if x.stride(-1) == 1 else "its pairs are not side by side"


def rotate(q: Tensor, k: Tensor, position: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys (b, t, h, k) rotated.

    Args:
        q: Queries.
        k: Keys.
        position: Tokens before the first one, for each row (b,) or, (1,), for all.
        frequencies: Radians per token of each pair of channels, (k/2,).
    """
    t = torch.arange(q.shape[1], device=q.device)
    angle = ((position[:, None] + t)[..., None] * frequencies)[:, :, None]  # (b, t, 1, k/2)
    cos, sin = angle.cos(), angle.sin()
    return apply_rotary(q, cos, sin), apply_rotary(k, cos, sin)


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


apply_rotary: Op[Tensor] = Op(reference, [Implementation("complex", _complex_product, _unsupported_reason)], examples)
