"""Rotary positions: `x = apply_rotary(x, cos, sin)`, or `q, k = rotate(q, k, position, frequencies)`."""

import torch
from torch import Tensor

from mixers.ops.compiled import compiled
from mixers.ops.op import Implementation, Op
from mixers.ops.rotary import complex_product
from mixers.ops.rotary.frequencies import retention_frequencies, rotary_frequencies
from mixers.ops.rotary.reference import examples, reference

__all__ = ["apply_rotary", "retention_frequencies", "rotary_frequencies", "rotate"]

apply_rotary: Op[Tensor] = Op(
    reference,
    [
        Implementation("complex", complex_product.complex_product, complex_product.unsupported_reason),
        compiled(reference),
    ],
    examples,
)


def rotate(q: Tensor, k: Tensor, position: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """q and k (b, t, h, k) rotated, where the first token of a row stands at its `position` (b,).

    Args:
        q: Queries.
        k: Keys.
        position: Tokens before the first one, for each row or, (1,), for all.
        frequencies: Radians per token of each pair of channels, (k/2,).
    """
    t = torch.arange(q.shape[1], device=q.device)
    angle = ((position[:, None] + t)[..., None] * frequencies)[:, :, None]  # (b, t, 1, k/2)
    cos, sin = angle.cos(), angle.sin()
    return apply_rotary(q, cos, sin), apply_rotary(k, cos, sin)
