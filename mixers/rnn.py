"""The recurrent networks before Transformers, LSTM (Hochreiter and Schmidhuber, 1997) and GRU (arXiv:1406.1078)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mixers.mixer import Mixer, state_dtype
from mixers.ops.precision import full_precision, product_dtype
from mixers.registry import register

# Axes: b batch, t time, d channels, g gates (4 of an LSTM, 3 of a GRU).


class LSTMState(NamedTuple):
    hidden: Tensor  # (b, d): the last output
    cell: Tensor  # (b, d): what the gates write to and forget


class GRUState(NamedTuple):
    hidden: Tensor  # (b, d): the last output


@register("lstm")
class LSTM(Mixer[LSTMState]):
    """A long short-term memory: c_n = f ⊙ c_{n-1} + i ⊙ tanh(g), h_n = o ⊙ tanh(c_n), and h_n is the output.

    i, f, g and o are W_ih x_n + b_ih + W_hh h_{n-1} + b_hh, all but g through a sigmoid. (The forget gate f came after
    the paper, with Gers et al., 2000.) It is one layer of torch's `nn.LSTM` with its initialisation; weights of an
    `nn.LSTMCell` load by name, below `cell`. On a CPU it runs in float32 even in half precision, which is no faster
    there and would round the state at every token.

    torch.compile takes it, but unrolls the tokens: compiling takes half a minute for 20 of them.

    Args:
        dim: Width of the input, of the state and of the output.
    """

    def __init__(self, dim: int):
        super().__init__(dim)
        self.cell = nn.LSTMCell(dim, dim)

    def initial_state(self, batch: int) -> LSTMState:
        zero = _zero(self.cell, batch)
        return LSTMState(zero, zero.clone())

    def extend(self, x: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        weights = _weights(self.cell, x)
        inputs, hidden, cell = (part.to(weights[0].dtype) for part in (x, *state))
        with full_precision(x.device):
            y, hidden, cell = torch.lstm(inputs, (hidden[None], cell[None]), weights, **_one_layer())
        return y.to(x.dtype), LSTMState(hidden[0].to(state.hidden.dtype), cell[0].to(state.cell.dtype))


@register("gru")
class GRU(Mixer[GRUState]):
    """A gated recurrent unit: h_n = z ⊙ h_{n-1} + (1 - z) ⊙ tanh(W_in x_n + b_in + r ⊙ (W_hn h_{n-1} + b_hn)).

    r and z are sigmoids of W_ih x_n + b_ih + W_hh h_{n-1} + b_hh. It is one layer of torch's `nn.GRU` with its
    initialisation, which resets the product and not, as the paper's Eq. 8 does, what is multiplied; weights of an
    `nn.GRUCell` load by name, below `cell`. On a CPU it runs in float32 even in half precision, which is no faster
    there and would round the state at every token.

    torch.compile takes it, but unrolls the tokens: compiling takes half a minute for 20 of them.

    Args:
        dim: Width of the input, of the state and of the output.
    """

    def __init__(self, dim: int):
        super().__init__(dim)
        self.cell = nn.GRUCell(dim, dim)

    def initial_state(self, batch: int) -> GRUState:
        return GRUState(_zero(self.cell, batch))

    def extend(self, x: Tensor, state: GRUState) -> tuple[Tensor, GRUState]:
        weights = _weights(self.cell, x)
        inputs, hidden = (part.to(weights[0].dtype) for part in (x, *state))
        with full_precision(x.device):
            y, hidden = torch.gru(inputs, hidden[None], weights, **_one_layer())
        return y.to(x.dtype), GRUState(hidden[0].to(state.hidden.dtype))


def _zero(cell: nn.RNNCellBase, batch: int) -> Tensor:
    """What a state begins with, (b, d)."""
    return cell.weight_hh.new_zeros(batch, cell.hidden_size, dtype=state_dtype(cell.weight_hh))


def _weights(cell: nn.RNNCellBase, x: Tensor) -> list[Tensor]:
    """W_ih (g d, d), W_hh (g d, d), b_ih (g d,) and b_hh (g d,) as they meet x, in the dtype of the computation."""
    weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
    if x.device.type == "cpu":
        return [weight.to(state_dtype(weight)) for weight in weights]
    # One after the other in memory, as cuDNN wants them; else it copies them itself, and warns.
    dtype = product_dtype(x, cell.weight_ih)
    parts = torch.cat([weight.flatten().to(dtype) for weight in weights]).split([w.numel() for w in weights])
    return [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]


def _one_layer() -> dict[str, Any]:
    """The arguments of torch's recurrent layers for one layer, batch first; `train` keeps what gradients need."""
    return {
        "has_biases": True,
        "num_layers": 1,
        "dropout": 0.0,
        "train": torch.is_grad_enabled(),
        "bidirectional": False,
        "batch_first": True,
    }
