"""A causal convolution with a filter as long as the sequence: `y = long_conv(u, h, past)`.

y_n = Σ_{i<l} h_i u_{n-i}, each channel for itself. The faster ones are Fourier transforms, on a CPU of a few channels
at a time and with a custom backward: torch's own transforms the parts that are zero, too, and takes 3 to 5 times as
long for all channels together.

Axes: b batch, t time, s time already past, l taps, d channels. u is (b, t, d), the taps h (l, d) and the inputs before,
`past` (b, s, d), the newest first; all in float32 or better, since Fourier transforms know nothing less. `inputs` are
(b, s + t, d), those past included.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mixers.ops.chunks import slices
from mixers.ops.op import Draw, Implementation, Op, single_token, unless_eager_on_cpu

CHANNELS = 64  # transformed at once


def reference(u: Tensor, h: Tensor, past: Tensor) -> Tensor:
    inputs = torch.cat([past.flip(1), u], 1)
    outputs = []
    for n in range(past.shape[1], inputs.shape[1]):
        reach = min(n + 1, h.shape[0])
        outputs.append((inputs[:, n + 1 - reach : n + 1].flip(1) * h[:reach]).sum(1))
    return torch.stack(outputs, 1)


def _unless_rows(u: Tensor, *_: Any) -> str | None:
    return single_token(u) if len(u) else "there are no rows"  # of which MKL makes no transforms


def _unless_rows_on_cpu(u: Tensor, *_: Any) -> str | None:
    return _unless_rows(u) or unless_eager_on_cpu(u)


def fourier(u: Tensor, h: Tensor, past: Tensor) -> Tensor:
    inputs = torch.cat([past.flip(1), u], 1)
    h = h[: inputs.shape[1]]
    return _convolved(inputs, h, _transform_size(inputs, h))[:, past.shape[1] : inputs.shape[1]]


def blocked(u: Tensor, h: Tensor, past: Tensor) -> Tensor:
    inputs = torch.cat([past.flip(1), u], 1) if past.shape[1] else u
    y: Tensor = _Blocked.apply(inputs, h[: inputs.shape[1]])
    return y[:, past.shape[1] :]


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, h: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, h)
        y, size = torch.empty_like(inputs), _transform_size(inputs, h)
        for at in slices(inputs.shape[2], CHANNELS):
            y[..., at] = _convolved(inputs[..., at], h[:, at], size)[:, : inputs.shape[1]]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        inputs, h = ctx.saved_tensors
        dinputs, dh, size = torch.empty_like(inputs), torch.empty_like(h), _transform_size(inputs, h)
        for at in slices(inputs.shape[2], CHANNELS):
            dspectrum = torch.fft.rfft(dy[..., at], size, dim=1)
            by_inputs = dspectrum * torch.fft.rfft(h[:, at], size, dim=0).conj()
            by_h = (dspectrum * torch.fft.rfft(inputs[..., at], size, dim=1).conj()).sum(0)
            dinputs[..., at] = torch.fft.irfft(by_inputs, size, dim=1)[:, : inputs.shape[1]]
            dh[:, at] = torch.fft.irfft(by_h, size, dim=0)[: h.shape[0]]
        return dinputs, dh


def added_after(past: Tensor, h: Tensor, outputs: int) -> Tensor:
    """What inputs (b, s, d), the newest first, add to the outputs that follow them, (b, outputs, d)."""
    length = past.shape[1] + outputs
    size, h = 1 << (length - 1).bit_length(), h[:length]  # wraps around, but only into what comes before
    sums = past.new_zeros(len(past), outputs, past.shape[2])
    for at in slices(past.shape[2], CHANNELS) if past.numel() else []:
        sums[..., at] = _convolved(past[..., at].flip(1), h[:, at], size)[:, past.shape[1] : length]
    return sums


def _convolved(inputs: Tensor, h: Tensor, size: int) -> Tensor:
    spectrum = torch.fft.rfft(inputs, size, dim=1) * torch.fft.rfft(h, size, dim=0)
    return torch.fft.irfft(spectrum, size, dim=1)


def _transform_size(inputs: Tensor, h: Tensor) -> int:
    """The whole convolution, so that nothing wraps around, and a power of two."""
    return 1 << (inputs.shape[1] + h.shape[0] - 2).bit_length()


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Tensor, ...]:
    """Hyena's arguments, with as many taps as tokens and some tokens past."""
    return draw(batch, length, dim), draw(length, dim), draw(batch, length // 3, dim)


long_conv: Op[Tensor] = Op(
    reference,
    [Implementation("blocked", blocked, _unless_rows_on_cpu), Implementation("fourier", fourier, _unless_rows)],
    examples,
)
