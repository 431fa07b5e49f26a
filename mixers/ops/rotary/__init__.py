"""Rotary positions: `x = apply_rotary(x, cos, sin)`, or `q, k = rotate(q, k, position, frequencies)`."""

import torch
from torch import Tensor

from mixers.ops.op import Implementation, Op, unless_eager_on_cpu
from mixers.ops.precision import state_dtype
from mixers.ops.rotary.reference import examples, reference, retention_frequencies, rotary_frequencies

__all__ = ["apply_rotary", "retention_frequencies", "rotary_frequencies", "rotate"]


def _complex_product(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """In one pass over pairs as complex numbers, of which the compiler knows none."""
    precise = state_dtype(x)
    rotation = torch.complex(cos.to(precise), sin.to(precise))
    pairs = torch.view_as_complex(x.to(precise).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


def _unsupported_reason(x: Tensor, cos: Tensor, sin: Tensor) -> str | None:
    return unless_eager_on_cpu(x) if x.stride(-1) == 1 else "its pairs are not side by side"


apply_rotary: Op[Tensor] = Op(reference, [Implementation("complex", _complex_product, _unsupported_reason)], examples)


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
