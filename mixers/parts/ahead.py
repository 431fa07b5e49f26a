"""A long convolution one token at a time, without summing over the whole past for each.

What the past adds to the next outputs is computed for many of them at once, by Fourier transforms; an output then
takes its share of that and the few inputs that came since (the idea of arXiv:2410.12982, with one size of block). It
follows from the past, so a state need not hold it: it is remembered beside the state for as long as that lives.

Axes: b batch, s time already past, newest first, l taps, d channels, o convolutions.
"""

import weakref
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from mixers.ops.long_conv import added_after

OUTPUTS = 128  # known ahead: the inputs since are then few, and a transform's time is spread over many tokens


class Ahead(NamedTuple):
    """What is known of the next outputs of a module's long convolutions."""

    module: "weakref.ref[nn.Module]"
    taps: Tensor  # (l, d, o)
    sums: Tensor  # (b, OUTPUTS, o, d): what the inputs before the last `since` add to the outputs after them
    since: int

    def output(self, u: Tensor, past: Tensor, i: int) -> Tensor:
        """The next output of convolution i, (b, 1, d), whose input is u (b, 1, d), after past (b, s, o, d)."""
        recent = torch.einsum("bsd,sd->bd", past[:, : self.since, i], self.taps[1 : self.since + 1, :, i])
        return u * self.taps[0, :, i] + (self.sums[:, self.since, i] + recent)[:, None]


_known = WeakTensorKeyDictionary()  # for the past of a state


def look_ahead(module: nn.Module, past: Tensor, taps: Callable[[], Tensor]) -> Ahead:
    """What is known after a past (b, s, o, d), computed if nothing is."""
    ahead: Ahead | None = _known.get(past)
    if ahead is not None and ahead.module() is module and ahead.since < OUTPUTS:
        return ahead
    filters = taps() if ahead is None or ahead.module() is not module else ahead.taps
    sums = [added_after(past[:, :, i], filters[..., i], OUTPUTS) for i in range(past.shape[2])]
    return Ahead(weakref.ref(module), filters, torch.stack(sums, 2), 0)


def remember(past: Tensor, ahead: Ahead) -> None:
    """Keeps what is known for the state after one more token."""
    _known[past] = ahead._replace(since=ahead.since + 1)
