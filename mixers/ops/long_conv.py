"""A causal convolution with a filter as long as the sequence.

y_n = Σ_{i<l} h_i u_{n-i}, each channel for itself.

Axes: b batch, t time, s time already past, l taps, d channels. u is (b, t, d), the taps h (l, d) and the inputs before,
`past` (b, s, d), the newest first; all in float32 or better, since Fourier transforms know nothing less.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixers.ops.op import Op, eager_on_cpu

CHANNELS = 64  # transformed at once on a CPU: together they take 3 to 5 times as long


def direct(u: Tensor, h: Tensor, past: Tensor) -> Tensor:
    """Output by output, as the definition says."""
    inputs = torch.cat([past.flip(1), u], 1)
    outputs = []
    for n in range(past.shape[1], inputs.shape[1]):
        reach = min(n + 1, h.shape[0])
        outputs.append((inputs[:, n + 1 - reach : n + 1].flip(1) * h[:reach]).sum(1))
    return torch.stack(outputs, 1)


def examples(length: int, dim: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Hyena's arguments at width dim, with as many taps as tokens, some tokens past, and gradients wanted."""
    b, s = 1 if dim > 64 else 2, length // 3

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, device=device).requires_grad_()

    return draw(b, length, dim), draw(length, dim), draw(b, s, dim)


long_conv = Op(direct, examples)


def _single(u: Tensor, h: Tensor, past: Tensor) -> str:
    return "a single output is summed at once" if u.shape[1] == 1 else ""


@long_conv.implementation("fourier", _single)
def by_fourier_transform(u: Tensor, h: Tensor, past: Tensor) -> Tensor:
    inputs = torch.cat([past.flip(1), u], 1)
    h = h[: inputs.shape[1]]
    size = _size(inputs, h)
    spectrum = torch.fft.rfft(inputs, size, dim=1) * torch.fft.rfft(h, size, dim=0)
    return torch.fft.irfft(spectrum, size, dim=1)[:, past.shape[1] : inputs.shape[1]]


@long_conv.implementation("blocked", lambda u, h, past: _single(u, h, past) or eager_on_cpu(u))
def blocked(u: Tensor, h: Tensor, past: Tensor) -> Tensor:
    """A few channels at a time, with gradients by hand: torch's transform the parts that are zero, too."""
    inputs = torch.cat([past.flip(1), u], 1) if past.shape[1] else u
    y: Tensor = _Blocked.apply(inputs, h[: inputs.shape[1]])
    return y[:, past.shape[1] :]


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, h: Tensor) -> Tensor:
        ctx.save_for_backward(u, h)
        y, length, size = torch.empty_like(u), u.shape[1], _size(u, h)
        for at in _pieces(u):
            spectrum = torch.fft.rfft(u[..., at], size, dim=1) * torch.fft.rfft(h[:, at], size, dim=0)
            y[..., at] = torch.fft.irfft(spectrum, size, dim=1)[:, :length]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        u, h = ctx.saved_tensors
        du, dh, size = torch.empty_like(u), torch.empty_like(h), _size(u, h)
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
    for at in _pieces(past) if past.shape[1] else []:
        spectrum = torch.fft.rfft(past[..., at].flip(1), size, dim=1) * torch.fft.rfft(h[:, at], size, dim=0)
        sums[..., at] = torch.fft.irfft(spectrum, size, dim=1)[:, past.shape[1] : length]
    return sums


def _size(u: Tensor, h: Tensor) -> int:
    """Of the transforms: the whole convolution, so that nothing wraps around, and a power of two."""
    return 1 << (u.shape[1] + h.shape[0] - 2).bit_length()


def _pieces(u: Tensor) -> list[slice]:
    return [slice(start, start + CHANNELS) for start in range(0, u.shape[2], CHANNELS)]
