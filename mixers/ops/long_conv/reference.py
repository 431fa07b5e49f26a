"""A causal convolution with a filter as long as the sequence, output by output.

y_n = Σ_{i<l} h_i u_{n-i}, each channel for itself.

Axes: b batch, t time, s time already past, l taps, d channels. u is (b, t, d), the taps h (l, d) and the inputs before,
`past` (b, s, d), the newest first; all in float32 or better, since Fourier transforms know nothing less.
"""

import torch
from torch import Tensor

from mixers.ops.op import Draw


def reference(u: Tensor, h: Tensor, past: Tensor) -> Tensor:
    inputs = torch.cat([past.flip(1), u], 1)
    outputs = []
    for n in range(past.shape[1], inputs.shape[1]):
        reach = min(n + 1, h.shape[0])
        outputs.append((inputs[:, n + 1 - reach : n + 1].flip(1) * h[:reach]).sum(1))
    return torch.stack(outputs, 1)


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Tensor, ...]:
    """Hyena's arguments, with as many taps as tokens and some tokens past."""
    return draw(batch, length, dim), draw(length, dim), draw(batch, length // 3, dim)
