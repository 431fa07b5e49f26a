"""RWKV's mean, recurrent within chunks, all of them at once: about 2√t steps, not t.

Axes: as in reference.py; chunks of k and v are (b, n, t, d).
"""

import math

import torch
from torch import Tensor

from mixers.ops.chunks import in_chunks
from mixers.ops.wkv.reference import WKVState, merge, reference


def chunked(k: Tensor, v: Tensor, time_decay: Tensor, time_first: Tensor, state: WKVState) -> tuple[Tensor, WKVState]:
    """The output, and the state after it."""
    outputs = []
    for k_i, v_i in in_chunks(chunk_size(k), k.to(time_decay.dtype), v.to(time_decay.dtype)):
        starts, state = states_between(k_i, v_i, time_decay.exp(), state)
        rows = WKVState(*(part.flatten(0, 1) for part in starts))
        y, _ = reference(k_i.flatten(0, 1), v_i.flatten(0, 1), time_decay, time_first, rows)
        outputs.append(y.view_as(v_i).flatten(1, 2))
    return torch.cat(outputs, 1), state


def chunk_size(k: Tensor) -> int:
    """About √t tokens of k (b, t, d), a power of two."""
    return 2 ** round(math.log2(k.shape[1]) / 2)


def states_between(k: Tensor, v: Tensor, w: Tensor, state: WKVState) -> tuple[WKVState, WKVState]:
    """The states at the start of each chunk of k and v, two of (b, n, d); and the one after the last of them."""
    steps = torch.arange(k.shape[2] - 1, -1, -1, dtype=w.dtype, device=w.device)
    faded = k - steps[:, None] * w
    chunks = WKVState((faded.softmax(2) * v).sum(2), faded.logsumexp(2))
    starts = []
    for chunk in zip(*(part.unbind(1) for part in chunks), strict=True):
        starts.append(state)
        state = merge(state.faded(k.shape[2] * w), WKVState(*chunk))
    return WKVState(*(torch.stack(parts, 1) for parts in zip(*starts, strict=True))), state
