"""Softmax attention, with learned sinks or without: `y = softmax_attention(q, k, v, visible, sinks)`.

y_n = Σ_m e^{q_n·k_m/√k} v_m / (Σ_m e^{q_n·k_m/√k} + e^{sink}) over the tokens m that n sees. A sink is one logit of
each head in the denominator, which lets a head add nothing (gpt-oss, arXiv:2508.10925).

Axes: b batch, t time of queries, s time of keys, q heads of queries, h heads of keys and values (q a multiple of h),
k head width. q is (b, t, q, k), k and v are (b, s, h, k), y as q. `visible` is (b, t, s), or (1, t, s) for all rows
alike; None where queries and keys are of the same tokens, each of which sees those up to itself. Sinks are (q,), or
None.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mixers.ops.op import Draw, Implementation, Op

ALIGNED = 8  # the fast kernels of a GPU want a multiple of it for a width, and values as wide as keys


def reference(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, sinks: Tensor | None) -> Tensor:
    if visible is None:
        visible = torch.ones(1, q.shape[1], k.shape[1], dtype=torch.bool, device=q.device).tril()
    k, v = (x.repeat_interleave(q.shape[2] // k.shape[2], 2) for x in (k, v))
    scores = torch.einsum("btqk,bsqk->bqts", q, k) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(~visible[:, None], -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks[:, None, None].expand(*scores.shape[:3], 1).to(scores.dtype)], -1)
    return torch.einsum("bqts,bsqk->btqk", scores.softmax(-1)[..., : k.shape[1]], v)


def sdpa(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, sinks: Tensor | None) -> Tensor:
    """torch's own, which knows no sinks: they become the scores of one more key, whose value is zero.

    A key is shared by a group of heads of queries and their sinks differ, so there is one more channel for each head of
    a group, in which only the head itself has a one and only the key of the sinks is not zero.
    """
    scale, width = q.shape[-1] ** -0.5, v.shape[-1]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    mask = None if visible is None else visible[:, None]
    if sinks is not None:
        q, k, v = _with_sinks(q, k, v, sinks / scale)
        if mask is None:  # the first key, which a first query before all others lets causal attention count
            q = F.pad(q, (0, 0, 1, 0))
        else:
            mask = F.pad(mask, (1, 0), value=True)
    grouped = q.shape[1] != k.shape[1]
    y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=grouped)
    if sinks is not None:
        y = y[:, :, int(mask is None) :, :width]
    return y.transpose(1, 2)


def _with_sinks(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (b, heads, time, k) with more channels, and with the key of the sinks as the first."""
    width, heads, group = q.shape[-1], k.shape[1], q.shape[1] // k.shape[1]
    more = -(-(width + group) // ALIGNED) * ALIGNED - width
    own = torch.eye(group, more, dtype=q.dtype, device=q.device).repeat(heads, 1)
    q = torch.cat([q, own[:, None].expand(len(q), -1, q.shape[2], -1)], -1)
    key = F.pad(sinks.to(k.dtype).view(heads, 1, group), (width, more - group))
    k = torch.cat([key.expand(len(k), -1, -1, -1), F.pad(k, (0, more))], 2)
    return q, k, F.pad(v, (0, more, 1, 0))


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Tensor | None, ...]:
    """Four heads of queries to two of keys, with sinks."""
    width = dim // 4
    q, k, v = (draw(batch, length, heads, width) for heads in (4, 2, 2))
    return q, k, v, None, draw(4)


softmax_attention: Op[Tensor] = Op(reference, [Implementation("sdpa", sdpa, lambda *args: None)], examples)
