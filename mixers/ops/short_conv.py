"""A causal convolution over the last few tokens: `y = short_conv(x, weight, bias, past)`.

y_n = bias + Σ_{i<w} weight_i x_{n-i}, each channel for itself. torch's takes four times as long on a CPU as `blocked`.

Axes: b batch, t time, d channels, w taps. x is (b, t, d), the weight (d, 1, w) with the latest token's tap last, as
torch's convolutions have it, the bias (d,) and the inputs before, `past`, (b, w - 1, d).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mixers.ops.chunks import token_blocks
from mixers.ops.op import Draw, Implementation, Op, unless_eager_on_cpu
from mixers.ops.precision import product_dtype, state_dtype


def reference(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor) -> Tensor:
    inputs = torch.cat([past.to(x.dtype), x], 1)
    return F.conv1d(inputs.mT, weight, bias, groups=len(weight)).mT


def blocked(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor) -> Tensor:
    """A few tokens at a time, tap by tap, with a custom backward."""
    dtype = product_dtype(x, weight)
    taps = weight[:, 0].T.flip(0).to(dtype)
    y: Tensor = _Blocked.apply(x.to(dtype), taps, bias.to(dtype), past.to(dtype))
    return y


class _Blocked(torch.autograd.Function):
    """Its taps are (w, d), the latest token's first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, bias: Tensor, past: Tensor) -> Tensor:
        ctx.save_for_backward(x, taps, past)
        y = torch.empty_like(x)
        for at in token_blocks(x):
            torch.addcmul(bias, x[:, at], taps[0], out=y[:, at])
            for i in range(1, len(taps)):
                y[:, at].addcmul_(_earlier(x, past, at, i), taps[i])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, taps, past = ctx.saved_tensors
        precise = state_dtype(x)
        dx, dtaps = torch.empty_like(x), taps.new_zeros(taps.shape, dtype=precise)
        dbias = torch.zeros_like(dtaps[0])
        length, before = x.shape[1], past.shape[1]
        for at in token_blocks(x):
            dbias += dy[:, at].sum((0, 1), dtype=precise)
            torch.mul(dy[:, at], taps[0], out=dx[:, at])
            for i in range(len(taps)):
                dtaps[i] += (dy[:, at] * _earlier(x, past, at, i)).sum((0, 1), dtype=precise)
                reach = min(at.stop, length - i)  # x_n is read by y_{n+i}, if there is one
                if i > 0 and reach > at.start:
                    dx[:, at.start : reach].addcmul_(dy[:, at.start + i : reach + i], taps[i])
        dpast = torch.zeros_like(past)
        for i in range(1, len(taps)):
            first = min(i, length)
            dpast[:, before - i : before - i + first].addcmul_(dy[:, :first], taps[i])
        return dx, dtaps.to(taps.dtype), dbias.to(taps.dtype), dpast


def _earlier(x: Tensor, past: Tensor, at: slice, i: int) -> Tensor:
    """The inputs i tokens before those at a slice."""
    start, stop, before = at.start - i, at.stop - i, past.shape[1]
    if start >= 0:
        return x[:, start:stop]
    return torch.cat([past[:, before + start : before + min(0, stop)], x[:, : max(0, stop)]], 1)


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Tensor, ...]:
    """Three taps."""
    return draw(batch, length, dim), draw(dim, 1, 3), draw(dim), draw(batch, 2, dim)


short_conv: Op[Tensor] = Op(reference, [Implementation("blocked", blocked, unless_eager_on_cpu)], examples)
