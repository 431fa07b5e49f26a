"""Softmax attention within a window, of queries by blocks: `y = window_attention(q, k, v, position, window, sinks)`.

Token n sees the last `window` tokens, itself included. A block of queries attends to its own keys and to the
`window - 1` before them, so that time and memory grow with the number of tokens, not with its square.

Axes: b batch, t time, n blocks, c queries of a block, w window, q heads of queries, h heads of keys and values, k head
width. q is (b, t, q, k); k and v are (b, w - 1 + t, h, k), those of the w - 1 tokens before first; y as q. `position`,
(b,) or (1,), counts the tokens before the first query; where it is below w - 1, the first keys are of no token.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mixers.ops.softmax_attention import softmax_attention

LEAST_BLOCK = 64  # queries; windows are less than this at the cost of keys that are not seen


def window_attention(q: Tensor, k: Tensor, v: Tensor, position: Tensor, window: int, sinks: Tensor | None) -> Tensor:
    length, block = q.shape[1], min(q.shape[1], max(window, LEAST_BLOCK))
    count = -(-length // block)
    missing = count * block - length  # queries of the last block
    q, k, v = (F.pad(x, (0, 0, 0, 0, 0, missing)) for x in (q, k, v))
    seen = block + window - 1
    k, v = (x.unfold(1, seen, block).movedim(-1, 2).flatten(0, 1) for x in (k, v))  # (b n, seen, h, k)
    distance = torch.arange(block, device=q.device)[:, None] + window - 1 - torch.arange(seen, device=q.device)
    before = torch.arange(count, device=q.device) * block - (window - 1) + position[:, None]  # (b, n)
    exists = before[..., None] + torch.arange(seen, device=q.device) >= 0  # (b, n, seen)
    visible = (distance >= 0) & (distance < window) & exists[:, :, None]
    visible = visible.expand(len(q), -1, -1, -1).flatten(0, 1)
    y = softmax_attention(q.unflatten(1, (count, block)).flatten(0, 1), k, v, visible, sinks)
    return y.unflatten(0, (-1, count)).flatten(1, 2)[:, :length]
