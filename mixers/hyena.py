"""Hyena: long convolutions with filters made by a small network, gated by the input (arXiv:2302.10866)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.checks import at_least
from mixers.mixer import Mixer, state_dtype
from mixers.ops.long_conv import added_after, long_conv
from mixers.ops.precision import full_precision
from mixers.parts.gpt2_init import gpt2_init
from mixers.parts.implicit_filter import ImplicitFilter
from mixers.parts.linear import Linear
from mixers.parts.short_conv import ShortConv
from mixers.registry import register

# Axes: b batch, t time, s time already past, n tokens prepared for, d channels, o long convolutions (order - 1).


class Lookahead(NamedTuple):
    """What decoding remembers beside the past, so that a token does not sum over the whole of it (arXiv:2410.12982)."""

    recent: Tensor  # (b, n, o, d): the inputs of the long convolutions since then, the newest first, at the end
    sums: Tensor  # (b, n, o, d): what all inputs so far add to each of the n outputs
    taps: Tensor  # (b, n, o, d): the first taps of the filters, the same for all rows
    used: Tensor  # (b,): how many of the n tokens are decoded


class HyenaState(NamedTuple):
    short: Tensor  # (b, short_width - 1, (order + 1) d): what the short convolution remembers
    past: Tensor  # (b, s, o, d): the inputs of the long convolutions, the newest first
    lookahead: Lookahead  # n is 0 but while decoding


@register("hyena")
class Hyena(Mixer[HyenaState]):
    """The Hyena operator: v ← h_i * (v ⊙ x_i) + b_i ⊙ (v ⊙ x_i) for each long filter, then W_out (v ⊙ x_0).

    v and the gates x_0 … x_{order-1} are linear projections of the input, each followed by a short convolution
    (arXiv:2302.10866, Definition 3.1 and Algorithms 1 to 3). Filters, transforms and the state are float32 even in
    a half-precision model.

    Defaults are those of the authors' runs on the Pile, and so is the initialisation in a model (`init_weights`): every
    linear layer, the filters' too, is drawn anew with standard deviation 0.02 and without biases, the output projection
    with 0.02 / √(2 depth). Alone, a Hyena begins as their operator does, with torch's own initialisation, whose filters
    are 3.6 times larger. Where this differs from their code: a sequence may be longer than `max_length`; a filter has
    that many taps and does not reach further back. Up to there it is their operator. Of order 3 or more, their skip,
    `filter_fn.bias`, has the convolutions of a channel side by side: `skip` is `bias.view(dim, -1).T.flatten()`.

    Its state is its past inputs, up to max_length - 1 of them. `decode` adds each input to the outputs to come, so
    that a token need not sum over all of them.

    Args:
        dim: Width of the input and of the output.
        order: Number of gates, one more than the long convolutions.
        short_width: Taps of the short convolution after the projections; with 1 it scales and shifts each channel.
        max_length: Taps of a long filter; also the length over which positions and windows are spread.
        filter_width: Width of the network that makes the filters.
        filter_features: Number of features of a position that the network gets, odd.
        filter_frequency: Frequency of its sine activation, before training.
        filter_lr: Highest learning rate of the filters, whose fast sines make them more sensitive than the rest: at a
            few 1e-3 two runs that differ by rounding diverge within 20 steps. Where the model's is lower, as in the
            authors' runs at up to 6e-4, the filters have that. None means that of the model, whatever it is.

    Raises:
        ValueError: an option is out of range.
    """

    constant_state = False
    changeable_options = frozenset({"filter_lr"})

    def __init__(
        self,
        dim: int,
        *,
        order: int = 2,
        short_width: int = 3,
        max_length: int = 2048,
        filter_width: int = 64,
        filter_features: int = 33,
        filter_frequency: float = 14.0,
        filter_lr: float | None = 6e-4,
    ):
        super().__init__(dim)
        at_least(2, order=order)
        at_least(1, short_width=short_width, max_length=max_length, filter_width=filter_width)
        self.order, self.max_length = order, max_length
        self.in_proj = Linear(dim, (order + 1) * dim)
        self.short_conv = ShortConv((order + 1) * dim, width=short_width)
        self.filter = ImplicitFilter(
            (order - 1) * dim, max_length, filter_width, filter_features, filter_frequency, filter_lr
        )
        self.skip = nn.Parameter(torch.randn((order - 1) * dim))  # b_i, one after the other
        self.out_proj = Linear(dim, dim)

    def init_weights(self, layer: int, depth: int) -> None:
        gpt2_init(self, self.out_proj, depth)

    def initial_state(self, batch: int) -> HyenaState:
        weight = self.out_proj.weight
        past = weight.new_zeros(batch, 0, self.order - 1, self.dim, dtype=state_dtype(weight))
        return HyenaState(self.short_conv.initial_state(batch), past, _no_lookahead(past))

    def forward(self, x: Tensor) -> Tensor:
        return self._convolve(x, self.initial_state(x.shape[0]))[0]

    def extend(self, x: Tensor, state: HyenaState) -> tuple[Tensor, HyenaState]:
        state = self.prepare_decoding(state, 0)
        y, short, inputs = self._convolve(x, state)
        past = torch.cat([inputs.flip(1), state.past], 1)[:, : self.max_length - 1]
        return y, HyenaState(short, past, state.lookahead)

    def prepare_decoding(self, state: HyenaState, tokens: int) -> HyenaState:
        past = _merge(state.past, state.lookahead)[:, : self.max_length - 1]
        if tokens == 0:
            return HyenaState(state.short, past, _no_lookahead(past))
        taps = self._taps(past.shape[1] + tokens)
        recent = past.new_zeros(len(past), tokens, *past.shape[2:])
        sums = added_after(past.flatten(2), taps.flatten(1), tokens).view_as(recent)
        near = F.pad(taps[:tokens], (0, 0, 0, 0, 0, max(0, tokens - len(taps)))).expand_as(recent)
        return HyenaState(state.short, past, Lookahead(recent, sums, near, torch.zeros_like(state.lookahead.used)))

    def decode(self, x: Tensor, state: HyenaState) -> tuple[Tensor, HyenaState]:
        """Each input is added to the outputs to come; all rows must have been prepared at once."""
        recent, sums, taps, used = state.lookahead
        place = torch.arange(sums.shape[1], device=x.device)
        first, index = taps[0, 0], (place - used[:1]).clamp(min=0)
        known = sums.index_select(1, used[:1])
        y, short, inputs = self._mix(x, state.short, lambda u, i: u * first[i] + known[:, :, i])
        sums.addcmul_(inputs, taps[0].index_select(0, index))  # what lies before is never read again
        recent.index_copy_(1, sums.shape[1] - 1 - used[:1], inputs)
        return y, HyenaState(short, state.past, state.lookahead._replace(used=used + 1))

    def _convolve(self, x: Tensor, state: HyenaState) -> tuple[Tensor, Tensor, Tensor]:
        """`_mix` with convolutions over the whole past."""
        taps = self._taps(state.past.shape[1] + x.shape[1])
        return self._mix(x, state.short, lambda u, i: long_conv(u, taps[:, i], state.past[:, :, i]))

    def _mix(
        self, x: Tensor, short: Tensor, convolve: Callable[[Tensor, int], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The output, what the short convolution remembers, and the inputs of the long ones, (b, t, o, d)."""
        projected, short = self.short_conv.extend(self.in_proj(x), short)
        first, *gates, v = projected.split(self.dim, -1)
        v, inputs = v.to(state_dtype(self.out_proj.weight)), []
        for i, gate in enumerate(reversed(gates)):
            inputs.append(v * gate)
            v = convolve(inputs[-1], i)
        return self.out_proj((v * first).to(x.dtype)), short, torch.stack(inputs, 2)

    def _taps(self, length: int) -> Tensor:
        """The first `length` taps of the filters, at most max_length, (l, o, d); the first includes b."""
        with full_precision(self.skip.device):
            taps = self.filter(length).unflatten(-1, (self.dim, -1))
            taps[0] += self.skip.view(-1, self.dim).T
        return taps.mT


def _no_lookahead(past: Tensor) -> Lookahead:
    none = past[:, :0]
    return Lookahead(none.clone(), none.clone(), none.clone(), past.new_zeros(len(past), dtype=torch.long))


def _merge(past: Tensor, lookahead: Lookahead) -> Tensor:
    """The inputs of the past (b, s, o, d) and those since, the newest first; zeros follow where a row has fewer."""
    room = lookahead.recent.shape[1]
    if room == 0:
        return past
    inputs = torch.cat([lookahead.recent, past, torch.zeros_like(lookahead.recent)], 1)
    index = (room - lookahead.used)[:, None] + torch.arange(room + past.shape[1], device=past.device)
    return inputs.gather(1, index[:, :, None, None].expand(-1, -1, *past.shape[2:]))
