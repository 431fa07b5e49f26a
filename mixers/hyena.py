"""Hyena: long convolutions with filters made by a small network, gated by the input (arXiv:2302.10866)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mixers.checks import at_least
from mixers.mixer import Mixer, state_dtype
from mixers.ops.long_conv import long_conv
from mixers.ops.precision import full_precision
from mixers.parts.ahead import look_ahead, remember
from mixers.parts.growing import prepend
from mixers.parts.implicit_filter import ImplicitFilter
from mixers.parts.short_conv import ShortConv
from mixers.registry import register

# Axes: b batch, t time, s time already past, d channels, o long convolutions (order - 1 of them).


class HyenaState(NamedTuple):
    short: Tensor  # (b, short_width - 1, (order + 1) d): what the short convolution remembers
    past: Tensor  # (b, s, o, d): the inputs of the long convolutions, the newest first


@register("hyena")
class Hyena(Mixer[HyenaState]):
    """The Hyena operator: v ← h_i * (v ⊙ x_i) + b_i ⊙ (v ⊙ x_i) for each long filter, then W_out (v ⊙ x_0).

    v and the gates x_0 … x_{order-1} are linear projections of the input, each followed by a short convolution
    (arXiv:2302.10866, Definition 3.1 and Algorithms 1 to 3). Filters, transforms and the state are float32 even in
    a half-precision model.

    Defaults are those of the authors' runs on the Pile. Where this differs from their code: a sequence may be
    longer than `max_length`; a filter has that many taps and does not reach further back. Up to there it is their
    operator.

    Its exact state is its past inputs, up to max_length - 1 of them.

    Args:
        dim: Width of the input and of the output.
        order: Number of gates, one more than the long convolutions.
        short_width: Taps of the short convolution after the projections.
        max_length: Taps of a long filter; also the length over which positions and windows are spread.
        filter_width: Width of the network that makes the filters.
        filter_features: Features of a position that it reads, an odd number.
        filter_frequency: Of its sine activation, at the start.
        filter_lr: Highest learning rate of the filters, whose fast sines make them more sensitive than the rest: at a
            few 1e-3 two runs that differ by rounding part within 20 steps. None means that of the model.

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
        self.in_proj = nn.Linear(dim, (order + 1) * dim)
        self.short_conv = ShortConv((order + 1) * dim, width=short_width)
        self.filter = ImplicitFilter(
            (order - 1) * dim,
            max_length=max_length,
            width=filter_width,
            features=filter_features,
            frequency=filter_frequency,
            lr=filter_lr,
        )
        self.skip = nn.Parameter(torch.randn((order - 1) * dim))  # b_i, one after the other
        self.out_proj = nn.Linear(dim, dim)

    def initial_state(self, batch: int) -> HyenaState:
        weight = self.out_proj.weight
        past = weight.new_zeros(batch, 0, self.order - 1, self.dim, dtype=state_dtype(weight))
        return HyenaState(self.short_conv.initial_state(batch), past)

    def forward(self, x: Tensor) -> Tensor:
        state, taps = self.initial_state(x.shape[0]), self._taps(x.shape[1])
        return self._mixed(x, state.short, lambda u, i: long_conv(u, taps[..., i], state.past[:, :, i]))[0]

    def extend(self, x: Tensor, state: HyenaState) -> tuple[Tensor, HyenaState]:
        if x.shape[1] == 1 and not (torch.is_grad_enabled() or torch.compiler.is_compiling()):
            return self._next(x, state)
        taps = self._taps(state.past.shape[1] + x.shape[1])
        y, short, inputs = self._mixed(x, state.short, lambda u, i: long_conv(u, taps[..., i], state.past[:, :, i]))
        return y, HyenaState(short, prepend(inputs.flip(1), state.past, self.max_length - 1))

    def _next(self, x: Tensor, state: HyenaState) -> tuple[Tensor, HyenaState]:
        """`extend` by one token, which does not sum over the whole past."""
        ahead = look_ahead(self, state.past, lambda: self._taps(self.max_length))
        y, short, inputs = self._mixed(x, state.short, lambda u, i: ahead.output(u, state.past, i))
        past = prepend(inputs, state.past, self.max_length - 1)
        remember(past, ahead)
        return y, HyenaState(short, past)

    def _mixed(
        self, x: Tensor, short: Tensor, convolve: Callable[[Tensor, int], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The output, what the short convolution remembers, and the inputs of the long ones, (b, t, o, d)."""
        projected, short = self.short_conv.extend(self.in_proj(x), short)
        first, *gates, v = projected.split(self.dim, -1)
        with full_precision(x.device):
            v, inputs = v.to(state_dtype(self.out_proj.weight)), []
            for i, gate in enumerate(reversed(gates)):
                inputs.append(v * gate)
                v = convolve(inputs[-1], i)
            v = v * first
        return self.out_proj(v.to(x.dtype)), short, torch.stack(inputs, 2)

    def _taps(self, length: int) -> Tensor:
        """The filters, (l, d, o), whose first tap includes b."""
        with full_precision(self.skip.device):
            taps = self.filter(min(self.max_length, length)).unflatten(-1, (self.dim, -1))
            taps[0].add_(self.skip.view(-1, self.dim).T)
        return taps
