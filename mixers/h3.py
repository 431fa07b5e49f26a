"""H3: a memory of associations, made of two state spaces between multiplications (arXiv:2212.14052)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mixers.checks import UsageError, at_least
from mixers.mixer import RecurrentMixer, state_dtype
from mixers.ops.long_conv import long_conv
from mixers.ops.state_space import state_space_attention
from mixers.parts.diagonal_ssm import DiagonalSSM, Discretisation, Spectrum
from mixers.parts.gpt2_init import gpt2_init
from mixers.parts.linear import Linear
from mixers.registry import register

# Axes: b batch, t time, d channels, h heads, p width of a head, n modes, l taps of the shift.


class H3State(NamedTuple):
    shift: Tensor  # (b, l - 1, d): the keys before, the newest first
    ssm: Tensor  # (b, h, 2, n, p²): real and imaginary parts of each mode of the outer products


@register("h3")
class H3(RecurrentMixer[H3State]):
    """H3, o_t = W_out (q_t Σ_{s≤t} K_{t-s} k̃_sᵀ v_s), where k̃ has passed a shift (arXiv:2212.14052, Algorithm 1).

    Keys pass a state space whose matrix shifts, k̃ = C * k + D_k k: a filter of `shift_size` learned taps a channel.
    The outer products of k̃ and v pass a diagonal state space (`S4D`'s), one a head, and queries read them. All four
    projections have biases, as in the authors' code. Kernels and states are float32 even in a half-precision model.

    Where this differs from their code: the shift's B, which they may train too, stays the first unit vector, so that
    the filter is its taps; heads of any width run without Fourier transforms of their outer products. Their output
    projection reads the channels of all heads in turn: with heads wider than 1, `out_proj.weight` is theirs as
    `weight.unflatten(1, (head_dim, -1)).transpose(1, 2).flatten(1)`.

    In a model (`init_weights`) all projections are drawn anew with standard deviation 0.02 and without biases, as in
    their language models. The output projection is no exception: their rule, which would divide it by √(2 depth),
    looks for another name than it has.

    Args:
        dim: Width of the input and of the output.
        head_dim: Width of a head, whose head_dim² products of keys and values pass its state space. RetNet's
            comparison has 8, the authors' language models 1 (125M) or 8.
        shift_size: Taps of the shift, which reaches back shift_size - 1 tokens.
        state_size: Real elements of the state of each of them, N, even: two for each complex mode.
        spectrum: A_n at the start: `lin` is -1/2 + iπn, `inv` -1/2 + i (N/π)(N/(2n+1) - 1), `real` -(n+1).
        discretisation: `bilinear` is the authors'; `zoh` the zero-order hold.
        ssm_lr: Highest learning rate of A and of the steps dt: as in the authors' runs, they have 0.001, or the model's
            if that is lower. None means that of the model, whatever it is.
        chunk_size: Tokens mixed in parallel before the state is carried on. Changes speed and memory, not the result.

    Raises:
        ValueError: head_dim does not divide dim, or an option is out of range.
    """

    changeable_options = frozenset({"chunk_size", "ssm_lr"})

    def __init__(
        self,
        dim: int,
        *,
        head_dim: int = 8,
        shift_size: int = 64,
        state_size: int = 64,
        spectrum: Spectrum = "lin",
        discretisation: Discretisation = "bilinear",
        ssm_lr: float | None = 1e-3,
        chunk_size: int = 128,
    ):
        super().__init__(dim)
        at_least(1, head_dim=head_dim, shift_size=shift_size, chunk_size=chunk_size)
        if dim % head_dim:
            raise UsageError(f"head_dim={head_dim} does not divide dim={dim}.")
        self.head_dim, self.chunk_size = head_dim, chunk_size
        self.q_proj = Linear(dim, dim)
        self.k_proj = Linear(dim, dim)
        self.v_proj = Linear(dim, dim)
        bound = shift_size**-0.5  # torch's own for a convolution with one input channel
        self.shift = nn.Parameter(torch.empty(shift_size, dim).uniform_(-bound, bound))
        self.shift_skip = nn.Parameter(torch.randn(dim))
        self.ssm = DiagonalSSM(dim // head_dim, size=state_size, spectrum=spectrum, method=discretisation, lr=ssm_lr)
        self.out_proj = Linear(dim, dim)

    def init_weights(self, layer: int, depth: int) -> None:
        gpt2_init(self, None, depth)

    def initial_state(self, batch: int) -> H3State:
        c, taps = self.ssm.c, self.shift
        shift = taps.new_zeros(batch, len(taps) - 1, self.dim, dtype=state_dtype(taps))
        return H3State(shift, shift.new_zeros(batch, *c.shape, self.head_dim**2))

    def _mix(self, x: Tensor, state: H3State | None) -> tuple[Tensor, H3State]:
        q, v = self.q_proj(x), self.v_proj(x)
        k = self.k_proj(x).to(state_dtype(self.shift))
        before = self.initial_state(len(x)).shift if state is None else state.shift
        recent = k[:, max(0, k.shape[1] - before.shape[1]) :].flip(1)
        shift = torch.cat([recent, before], 1)[:, : before.shape[1]]
        taps = torch.cat([self.shift[:1] + self.shift_skip, self.shift[1:]]).to(k.dtype)
        k = long_conv(k, taps, before[:, :0] if state is None else before)
        q, k, v = (y.to(v.dtype).unflatten(-1, (-1, self.head_dim)) for y in (q, k, v))
        past = None if state is None else state.ssm
        o, past = state_space_attention(q, k, v, *self.ssm.modes(), past, self.chunk_size)
        return self.out_proj(o.flatten(2)), H3State(shift, past)
