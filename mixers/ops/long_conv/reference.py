"""A causal convolution with a filter as long as the sequence, output by output.

y_n = Σ_{i<l} h_i u_{n-i}, each channel for itself.

Axes: b batch, t time, s time already past, l taps, d channels. u is (b, t, d), the taps h (l, d) and the inputs before,
`past` (b, s, d), the newest first; all in float32 or better, since Fourier transforms know nothing less.
"""

import torch
from torch import Tensor


def reference(u: Tensor, h: Tensor, past: Tensor) -> Tensor:
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
