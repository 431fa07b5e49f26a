"""A causal convolution over the last few tokens.

y_n = bias + Σ_{i<w} weight_i x_{n-i}, each channel for itself.

Axes: b batch, t time, d channels, w taps. x is (b, t, d), the weight (d, 1, w) with the latest token's tap last, as
torch's convolutions have it, the bias (d,) and the inputs before, `past`, (b, w - 1, d).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mixers.ops.op import Draw


def reference(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor) -> Tensor:
    inputs = torch.cat([past.to(x.dtype), x], 1)
    return F.conv1d(inputs.mT, weight, bias, groups=len(weight)).mT


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Tensor, ...]:
    """Three taps."""
    return draw(batch, length, dim), draw(dim, 1, 3), draw(dim), draw(batch, 2, dim)
