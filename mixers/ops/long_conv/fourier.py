"""A long convolution by Fourier transforms.

Axes: as in reference.py.
"""

from typing import Any

import torch
from torch import Tensor

from mixers.ops.chunks import single_token


def unsupported_reason(u: Tensor, *_: Any) -> str | None:
    return single_token(u) if len(u) else "there are no rows"  # of which MKL makes no transforms


def fourier(u: Tensor, h: Tensor, past: Tensor) -> Tensor:
    inputs = torch.cat([past.flip(1), u], 1)
    h = h[: inputs.shape[1]]
    size = transform_size(inputs, h)
    spectrum = torch.fft.rfft(inputs, size, dim=1) * torch.fft.rfft(h, size, dim=0)
    return torch.fft.irfft(spectrum, size, dim=1)[:, past.shape[1] : inputs.shape[1]]


def transform_size(u: Tensor, h: Tensor) -> int:
    """The whole convolution, so that nothing wraps around, and a power of two."""
    return 1 << (u.shape[1] + h.shape[0] - 2).bit_length()
