"""Each head's output divided by its root mean square, then gated by swish.

y = swish(g) ⊙ o / √(mean(o²) + eps), the mean over a head's values, in eps's dtype: squares overflow in float16.

Axes: b batch, t time, h head, v value width. o, the gate g (None for none) and y are (b, t, h, v), eps is (b, t, h) in
float32 or better.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mixers.ops.precision import state_dtype


def reference(o: Tensor, eps: Tensor, gate: Tensor | None) -> Tensor:
    precise = o.to(eps.dtype)
    scale = torch.rsqrt(precise.square().mean(-1) + eps)
    normed = (precise * scale[..., None]).to(o.dtype)
    return normed if gate is None else F.silu(gate) * normed


def examples(length: int, dim: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Retention's arguments at width dim, with 4 heads and gradients wanted."""
    shape = (1 if dim > 64 else 2, length, 4, dim // 2)
    o, gate = (torch.randn(shape, dtype=dtype, device=device).requires_grad_() for _ in range(2))
    return o, torch.rand(shape[:3], dtype=state_dtype(o), device=device).requires_grad_(), gate
