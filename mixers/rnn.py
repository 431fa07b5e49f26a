"""The recurrent networks before Transformers, LSTM and GRU."""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from mixers.mixer import Mixer, State, state_dtype
from mixers.ops.precision import full_precision, product_dtype
from mixers.registry import register

# Axes: b batch, t time, d channels, g gates (4 of an LSTM, 3 of a GRU).


class LSTMState(NamedTuple):
    hidden: Tensor  # (b, d): the last output
    cell: Tensor  # (b, d): what the gates write to and forget


class GRUState(NamedTuple):
    hidden: Tensor  # (b, d): the last output


class _RNN(Mixer[State]):
    """One layer of torch's recurrent networks, `layer`, with the parameters of its `cell`."""

    cell_class: ClassVar[type[nn.LSTMCell | nn.GRUCell]]
    layer: ClassVar[Callable[..., tuple[Tensor, ...]]]

    def __init__(self, dim: int):
        super().__init__(dim)
        self.cell = self.cell_class(dim, dim)

    def initial_state(self, batch: int) -> State:
        weight = self.cell.weight_hh
        zero = weight.new_zeros(batch, self.dim, dtype=state_dtype(weight))
        return self.state_class(*(zero.clone() for _ in self.state_class._fields))  # type: ignore[attr-defined]

    def extend(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        weights = self._weights(x)
        # torch's layers do not check the width of a state, and read past its end.
        parts = [part.to(weights[0].dtype).view(1, len(x), self.dim) for part in state]
        options = {"has_biases": True, "num_layers": 1, "dropout": 0.0, "bidirectional": False, "batch_first": True}
        with full_precision(x.device):
            before = parts if len(parts) > 1 else parts[0]
            y, *after = self.layer(x.to(weights[0].dtype), before, weights, train=torch.is_grad_enabled(), **options)
        return y.to(x.dtype), type(state)(*(new[0].to(old.dtype) for new, old in zip(after, state, strict=True)))

    def _weights(self, x: Tensor) -> list[Tensor]:
        """W_ih (g d, d), W_hh (g d, d), b_ih (g d,) and b_hh (g d,), in the dtype of the computation."""
        cell = self.cell
        weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
        if x.device.type == "cpu":
            return [weight.to(state_dtype(weight)) for weight in weights]
        # One after the other in memory, as cuDNN wants them; else it copies them itself, and warns.
        dtype = product_dtype(x, cell.weight_ih)
        parts = torch.cat([weight.flatten().to(dtype) for weight in weights]).split([w.numel() for w in weights])
        return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]


@register("lstm")
class LSTM(_RNN[LSTMState]):
    """A long short-term memory: c_n = f ⊙ c_{n-1} + i ⊙ tanh(g), h_n = o ⊙ tanh(c_n), and h_n is the output.

    i, f, g and o are W_ih x_n + b_ih + W_hh h_{n-1} + b_hh, all but g through a sigmoid (Hochreiter and Schmidhuber,
    1997, doi:10.1162/neco.1997.9.8.1735; the forget gate f came with Gers et al., 2000). It is one layer of torch's
    `nn.LSTM` with its initialisation; weights of an `nn.LSTMCell` load by name, below `cell`. On a CPU it runs in
    float32 even in half precision, which is no faster there and would round the state at every token.

    torch.compile takes it, but unrolls the tokens: compiling takes half a minute for 20 of them.

    Args:
        dim: Width of the input, of the state and of the output.
    """

    cell_class, layer = nn.LSTMCell, staticmethod(torch.lstm)


@register("gru")
class GRU(_RNN[GRUState]):
    """A gated recurrent unit: h_n = z ⊙ h_{n-1} + (1 - z) ⊙ tanh(W_in x_n + b_in + r ⊙ (W_hn h_{n-1} + b_hn)).

    r and z are sigmoids of W_ih x_n + b_ih + W_hh h_{n-1} + b_hh (arXiv:1406.1078). It is one layer of torch's `nn.GRU`
    with its initialisation, which resets the product and not, as the paper's Eq. 8 does, what is multiplied; weights of
    an `nn.GRUCell` load by name, below `cell`. Precision and torch.compile are as in `LSTM`.

    Args:
        dim: Width of the input, of the state and of the output.
    """

    cell_class, layer = nn.GRUCell, staticmethod(torch.gru)
