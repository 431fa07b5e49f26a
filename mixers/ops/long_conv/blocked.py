"""A long convolution on a CPU: a few channels at a time, with a custom backward.

torch's transforms the parts that are zero, too, and takes 3 to 5 times as long for all channels together.

Axes: as in reference.py.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixers.ops.long_conv import fourier
from mixers.ops.op import unless_eager_on_cpu

CHANNELS = 64  # transformed at once


def unsupported_reason(u: Tensor, *_: Any) -> str | None:
    return fourier.unsupported_reason(u) or unless_eager_on_cpu(u)


def blocked(u: Tensor, h: Tensor, past: Tensor) -> Tensor:
    inputs = torch.cat([past.flip(1), u], 1) if past.shape[1] else u
    y: Tensor = _Blocked.apply(inputs, h[: inputs.shape[1]])
    return y[:, past.shape[1] :]


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, h: Tensor) -> Tensor:
        ctx.save_for_backward(u, h)
        y, length, size = torch.empty_like(u), u.shape[1], fourier.transform_size(u, h)
        for at in _pieces(u):
            spectrum = torch.fft.rfft(u[..., at], size, dim=1) * torch.fft.rfft(h[:, at], size, dim=0)
            y[..., at] = torch.fft.irfft(spectrum, size, dim=1)[:, :length]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        u, h = ctx.saved_tensors
        du, dh, size = torch.empty_like(u), torch.empty_like(h), fourier.transform_size(u, h)
        for at in _pieces(u):
            dspectrum = torch.fft.rfft(dy[..., at], size, dim=1)
            by_u = dspectrum * torch.fft.rfft(h[:, at], size, dim=0).conj()
            by_h = (dspectrum * torch.fft.rfft(u[..., at], size, dim=1).conj()).sum(0)
            du[..., at] = torch.fft.irfft(by_u, size, dim=1)[:, : u.shape[1]]
            dh[:, at] = torch.fft.irfft(by_h, size, dim=0)[: h.shape[0]]
        return du, dh


def added_after(past: Tensor, h: Tensor, outputs: int) -> Tensor:
    """What inputs (b, s, d), the newest first, add to the outputs that follow them, (b, outputs, d)."""
    length = past.shape[1] + outputs
    size, h = 1 << (length - 1).bit_length(), h[:length]  # wraps around, but only into what comes before
    sums = past.new_zeros(len(past), outputs, past.shape[2])
    for at in _pieces(past) if past.numel() else []:
        spectrum = torch.fft.rfft(past[..., at].flip(1), size, dim=1) * torch.fft.rfft(h[:, at], size, dim=0)
        sums[..., at] = torch.fft.irfft(spectrum, size, dim=1)[:, past.shape[1] : length]
    return sums


def _pieces(u: Tensor) -> list[slice]:
    return [slice(start, start + CHANNELS) for start in range(0, u.shape[2], CHANNELS)]
