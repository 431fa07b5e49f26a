"""The norm of each head's output, and the gate after it."""

from typing import Literal

import torch
from torch import Tensor, nn

from mixers.checks import above, one_of
from mixers.ops.gated_norm import gated_norm
from mixers.ops.precision import state_dtype

# Axes: b batch, t time, h head, v value width.

GateKind = Literal["silu", "sigmoid", "none"]


class OutputNorm(nn.Module):
    """y = gate(z) ⊙ w ⊙ o / √(mean(o²) + eps), the mean over a head's values; norm first, gate second.

    The weight w, (v,), is shared by all heads. Statistics are in float32 or better.

    Args:
        width: Width of a head's values.
        gate: What z goes through, `silu` or `sigmoid`; `none` for no gate.
        eps: Added to the mean square.
    """

    def __init__(self, width: int, *, gate: GateKind = "silu", eps: float = 1e-5):
        super().__init__()
        one_of(("silu", "sigmoid", "none"), gate=gate)
        above(0, eps=eps)
        self.weight = nn.Parameter(torch.ones(width))
        self.gate, self.eps = gate, eps

    def forward(self, o: Tensor, z: Tensor | None = None) -> Tensor:
        """y, of o's shape (b, t, h, v), for gates z of that shape; None with `gate="none"`."""
        eps = o.new_full(o.shape[:3], self.eps, dtype=state_dtype(o))
        if z is not None and self.gate == "sigmoid":
            return gated_norm(o, eps, None) * (z.sigmoid() * self.weight.to(z.dtype))
        y = gated_norm(o, eps, z)
        return y * self.weight.to(y.dtype)
