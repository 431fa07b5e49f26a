"""A causal convolution with a filter as long as the sequence.

y_n = Σ_{i<l} h_i u_{n-i}, each channel for itself.

Axes: b batch, t time, s time already past, l taps, d channels.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def direct(u: Tensor, h: Tensor, past: Tensor) -> Tensor:
    """Output by output, as the definition says. `long_conv` is the same, faster."""
    inputs = torch.cat([past.flip(1), u], 1)
    outputs = []
    for n in range(past.shape[1], inputs.shape[1]):
        reach = min(n + 1, h.shape[0])
        outputs.append((inputs[:, n + 1 - reach : n + 1].flip(1) * h[:reach]).sum(1))
    return torch.stack(outputs, 1)


def long_conv(u: Tensor, h: Tensor, past: Tensor) -> Tensor:
    """Convolves u (b, t, d) with the taps h (l, d), after the inputs `past` (b, s, d), the newest first.

    Several outputs come from a Fourier transform, a single one from the sum itself. In float32 or better, since
    transforms know nothing less, and returned so.
    """
    if u.shape[1] == 1:
        inputs = torch.cat([u, past], 1)[:, : h.shape[0]]
        return (inputs * h[: inputs.shape[1]]).sum(1, keepdim=True)
    inputs = torch.cat([past.flip(1), u], 1)
    length = inputs.shape[1] + min(inputs.shape[1], h.shape[0]) - 1  # of the whole convolution: nothing wraps around
    size = 1 << (length - 1).bit_length()
    spectrum = torch.fft.rfft(inputs, size, dim=1) * torch.fft.rfft(h[: inputs.shape[1]], size, dim=0)
    return torch.fft.irfft(spectrum, size, dim=1)[:, past.shape[1] : inputs.shape[1]]


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Within it autocast does not touch anything."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
