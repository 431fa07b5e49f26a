"""A short convolution on a CPU: a few tokens at a time, tap by tap, with a custom backward.

torch's takes four times as long there. Shapes as in reference.py; taps are (w, d), the latest token's first.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixers.ops.op import blocks
from mixers.ops.precision import product_dtype, state_dtype


def blocked(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor) -> Tensor:
    dtype = product_dtype(x, weight)
    taps = weight[:, 0].T.flip(0).to(dtype)
    y: Tensor = _Blocked.apply(x.to(dtype), taps, bias.to(dtype), past.to(dtype))
    return y


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, bias: Tensor, past: Tensor) -> Tensor:
        ctx.save_for_backward(x, taps, past)
        y = torch.empty_like(x)
        for start, stop in _pieces(x):
            torch.addcmul(bias, x[:, start:stop], taps[0], out=y[:, start:stop])
            for i in range(1, len(taps)):
                y[:, start:stop].addcmul_(_earlier(x, past, start, stop, i), taps[i])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, taps, past = ctx.saved_tensors
        precise = state_dtype(x)
        dx, dtaps = torch.empty_like(x), taps.new_zeros(taps.shape, dtype=precise)
        dbias = torch.zeros_like(dtaps[0])
        length, before = x.shape[1], past.shape[1]
        for start, stop in _pieces(x):
            dy_i, dx_i = dy[:, start:stop], dx[:, start:stop]
            dbias += dy_i.sum((0, 1), dtype=precise)
            torch.mul(dy_i, taps[0], out=dx_i)
            for i in range(len(taps)):
                dtaps[i] += (dy_i * _earlier(x, past, start, stop, i)).sum((0, 1), dtype=precise)
                reach = min(stop, length - i)  # x_n is read by y_{n+i}, if there is one
                if i > 0 and reach > start:
                    dx[:, start:reach].addcmul_(dy[:, start + i : reach + i], taps[i])
        dpast = torch.zeros_like(past)
        for i in range(1, len(taps)):
            first = min(i, length)
            dpast[:, before - i : before - i + first].addcmul_(dy[:, :first], taps[i])
        return dx, dtaps.to(taps.dtype), dbias.to(taps.dtype), dpast


def _earlier(x: Tensor, past: Tensor, start: int, stop: int, i: int) -> Tensor:
    """The inputs i tokens before those from start to stop."""
    if start >= i:
        return x[:, start - i : stop - i]
    before = past.shape[1]
    return torch.cat([past[:, before + start - i : before + min(0, stop - i)], x[:, : max(0, stop - i)]], 1)


def _pieces(x: Tensor) -> list[tuple[int, int]]:
    return [(at.start, at.stop) for at in blocks(x.shape[1], x[:, :1].numel())]
