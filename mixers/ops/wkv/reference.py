"""RWKV's mean of the values so far, each channel for itself, token by token (arXiv:2305.13048, its Eq. 16).

y_n = (Σ_{m<n} e^{k_m - (n-1-m) w} v_m + e^{u + k_n} v_n) / (the same sums without v): a value weighs e^k when it comes
and fades by e^{-w} a step from the next token on; the newest has a bonus u instead.

The state is a mean and the logarithm of its weight, which is all that y depends on. Two of them are merged by sigmoids
of differences, so that nothing overflows whatever k and w.

Axes: b batch, n chunk, t time, d channel.
k and v are (b, t, d), time_decay = ln w and time_first = u are (d,), in float32 or better, which is what everything
here is computed in. The output is (b, t, d) in their dtype.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixers.ops.op import Draw

LOG_ZERO = -1e38  # the logarithm of no weight: finite, since infinities have no differences


class WKVState(NamedTuple):
    """The values of some tokens, in float32 or better."""

    mean: Tensor  # (b, d): Σ e^{…} v / Σ e^{…}
    log_weight: Tensor  # (b, d): ln Σ e^{…}

    def faded(self, by: Tensor) -> "WKVState":
        """With weights that are smaller by e^-by."""
        return WKVState(self.mean, self.log_weight - by)


def reference(k: Tensor, v: Tensor, time_decay: Tensor, time_first: Tensor, state: WKVState) -> tuple[Tensor, WKVState]:
    """The output, and the state after it."""
    w, outputs = time_decay.exp(), []
    for k_n, v_n in zip(*(x.to(w.dtype).unbind(1) for x in (k, v)), strict=True):
        outputs.append(merge(state, WKVState(v_n, time_first + k_n)).mean)
        state = merge(state.faded(w), WKVState(v_n, k_n))
    return torch.stack(outputs, 1), state


def merge(one: WKVState, other: WKVState) -> WKVState:
    """The mean of both, and their weight."""
    share = torch.sigmoid(one.log_weight - other.log_weight)
    return WKVState(torch.lerp(other.mean, one.mean, share), torch.logaddexp(one.log_weight, other.log_weight))


def examples(draw: Draw, batch: int, length: int, dim: int) -> tuple[Any, ...]:
    """RWKV's arguments, with decays as they are initialised."""
    k, v, precise = draw(batch, length, dim), draw(batch, length, dim), draw.precise
    time_first, *state = precise(dim), precise(batch, dim), precise(batch, dim)
    time_decay = torch.linspace(-5, 3, dim, dtype=precise.dtype, device=draw.device).requires_grad_()
    return k, v, time_decay, time_first, WKVState(*state)
