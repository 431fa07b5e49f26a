"""Each head's output divided by its root mean square, then gated by swish.

y = swish(g) ⊙ o / √(mean(o²) + eps), the mean over a head's values, in eps's dtype: squares overflow in float16.

Axes: b batch, t time, h head, v value width. o, the gate g (None for none) and y are (b, t, h, v), eps is (b, t, h) in
float32 or better.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mixers.ops.op import Draw


def reference(o: Tensor, eps: Tensor, gate: Tensor | None) -> Tensor:
    precise = o.to(eps.dtype)
    scale = torch.rsqrt(precise.square().mean(-1) + eps)
    normed = (precise * scale[..., None]).to(o.dtype)
    return normed if gate is None else F.silu(gate) * normed


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Tensor, ...]:
    """Retention's arguments, with 4 heads."""
    shape = (batch, length, 4, dim // 2)
    o, gate, eps = draw(*shape), draw(*shape), draw.precise(*shape[:3])
    return o, eps.detach().sigmoid().requires_grad_(), gate
