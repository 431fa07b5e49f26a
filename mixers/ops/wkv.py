"""RWKV's mean of the values so far, each channel for itself (arXiv:2305.13048, its Eq. 16).

y_n = (Σ_{m<n} e^{k_m - (n-1-m) w} v_m + e^{u + k_n} v_n) / (the same sums without v): a value weighs e^k when it comes
and fades by e^{-w} a step from the next token on; the newest has a bonus u instead.

What is past is a mean and the logarithm of its weight, which is all that y depends on. Two such pasts join as
`joined` says, in sigmoids of differences, so that nothing overflows whatever k and w.

Axes: b batch, n chunk, t time, d channel.
k and v are (b, t, d), time_decay = ln w and time_first = u are (d,), in float32 or better, which is what everything
here is computed in. The output is (b, t, d) in their dtype.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixers.ops.op import TAKEN, Op

NOTHING = -1e38  # the logarithm of no weight: finite, since infinities have no differences


class Seen(NamedTuple):
    """The values of some tokens, in float32 or better."""

    mean: Tensor  # (b, d): Σ e^{…} v / Σ e^{…}
    log_weight: Tensor  # (b, d): ln Σ e^{…}


def recurrent(k: Tensor, v: Tensor, time_decay: Tensor, time_first: Tensor, past: Seen) -> tuple[Tensor, Seen]:
    """Token by token."""
    w, outputs = time_decay.exp(), []
    for k_n, v_n in zip(*(x.to(w.dtype).unbind(1) for x in (k, v)), strict=True):
        outputs.append(joined(past, Seen(v_n, time_first + k_n)).mean)
        past = joined(Seen(past.mean, past.log_weight - w), Seen(v_n, k_n))
    return torch.stack(outputs, 1), past


def joined(one: Seen, other: Seen) -> Seen:
    """The mean of both, and their weight."""
    share = torch.sigmoid(one.log_weight - other.log_weight)
    return Seen(torch.lerp(other.mean, one.mean, share), torch.logaddexp(one.log_weight, other.log_weight))


def chunked(k: Tensor, v: Tensor, time_decay: Tensor, time_first: Tensor, past: Seen) -> tuple[Tensor, Seen]:
    """Recurrent within chunks, all of them at once, from what the chunks before leave: about 2√t steps, not t."""
    outputs = []
    for k_i, v_i in equal_chunks(k.to(time_decay.dtype), v.to(time_decay.dtype)):
        starts, past = starts_of_chunks(k_i, v_i, time_decay.exp(), past)
        rows = Seen(*(part.flatten(0, 1) for part in starts))
        y, _ = recurrent(k_i.flatten(0, 1), v_i.flatten(0, 1), time_decay, time_first, rows)
        outputs.append(y.view_as(v_i).flatten(1, 2))
    return torch.cat(outputs, 1), past


def equal_chunks(*inputs: Tensor) -> list[list[Tensor]]:
    """Inputs (b, t, d) as chunks (b, n, t, d) of about √t tokens, and then what is left as one shorter chunk."""
    length = inputs[0].shape[1]
    size = 2 ** round(math.log2(length) / 2)
    whole = length - length % size
    parts = [(0, whole, size), (whole, length, length - whole)]
    return [[x[:, start:end].unflatten(1, (-1, t)) for x in inputs] for start, end, t in parts if end > start]


def starts_of_chunks(k: Tensor, v: Tensor, w: Tensor, past: Seen) -> tuple[Seen, Seen]:
    """What is past at the start of each chunk of k and v (b, n, t, d), two of (b, n, d); and after the last of them."""
    steps = torch.arange(k.shape[2] - 1, -1, -1, dtype=w.dtype, device=w.device)
    faded = k - steps[:, None] * w
    chunks = Seen((faded.softmax(2) * v).sum(2), faded.logsumexp(2))
    starts = []
    for chunk in zip(*(part.unbind(1) for part in chunks), strict=True):
        starts.append(past)
        past = joined(Seen(past.mean, past.log_weight - k.shape[2] * w), Seen(*chunk))
    return Seen(*(torch.stack(parts, 1) for parts in zip(*starts, strict=True))), past


def examples(
    length: int, dim: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Seen]:
    """RWKV's arguments at width dim, with decays as they are initialised, and gradients wanted."""
    b, precise = 1 if dim > 64 else 2, torch.promote_types(dtype, torch.float32)
    k, v = (torch.randn(b, length, dim, dtype=dtype, device=device).requires_grad_() for _ in range(2))
    time_decay = torch.linspace(-5, 3, dim, dtype=precise, device=device).requires_grad_()
    time_first = torch.randn(dim, dtype=precise, device=device).requires_grad_()
    past = Seen(*(torch.randn(b, dim, dtype=precise, device=device).requires_grad_() for _ in range(2)))
    return k, v, time_decay, time_first, past


wkv = Op(recurrent, examples)


def _is_one_token(k: Tensor, *_: Any) -> str:
    return "one token is its own chunk" if k.shape[1] == 1 else TAKEN


wkv.implementation("chunked", _is_one_token)(chunked)
