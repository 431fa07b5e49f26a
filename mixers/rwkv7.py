"""RWKV-7's time mixing: a delta rule whose decay and rate differ from channel to channel (arXiv:2503.14456)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.checks import UsageError, at_least
from mixers.mixer import RecurrentMixer, state_dtype
from mixers.ops.dplr import dplr
from mixers.ops.tokenwise import tokenwise
from mixers.parts.linear import Linear
from mixers.registry import register

# Axes: b batch, t time, d channels, h head, k key width, v value width (the same), r rank.

FASTEST = -math.exp(-0.5)  # log of the fastest decay: every channel keeps more than 0.545 a step


class RWKV7State(NamedTuple):
    previous: Tensor  # (b, d): the last input
    kv: Tensor  # (b, h, k, v): what is remembered, the paper's state transposed


@register("rwkv7")
class RWKV7(RecurrentMixer[RWKV7State]):
    """Time mixing of RWKV, version 7 "Goose" (arXiv:2503.14456, section 4).

    In each head the state S takes in a key and value, and gives up part of what it has under the key κ,
    S_n = Diag(w) S_{n-1} - (κ ⊙ a) (κᵀ S_{n-1}) + k vᵀ, with a decay w and a rate a in (0, 1) for each channel. Then
    y = W_o (g ⊙ (GN(Sᵀ r) + (r · (r_k ⊙ k)) v)). Here r, k and v are projections, w, a and the gate g low-rank
    functions, each of its own mix of a token with the one before, x_n + μ (x_{n-1} - x_n); log w = -e^{-½} σ(...); κ is
    k ⊙ k_k divided by its length; and the key that is stored is k ⊙ (1 + (a - 1) k_a). The state and what it decays by
    are float32 whatever the autocast.

    Where this differs from the authors' model: the value residual is left out. There every layer but the first moves
    its values towards those of the first, which a mixer, a function of its own input, cannot see. So this is the
    authors' first layer, in every layer. Of their checkpoints the first layer's `att` weights load by name; all have
    v0, v1 and v2, which only later layers use and which `load_state_dict(strict=False)` passes over. Later layers then
    load, too, but compute something else, and need training.

    Initialisation depends on depth, and is theirs once `init_weights` was called, as the model does: the output is then
    zero, and so are the first matrices of the low-rank functions. Built alone, a mixer has the vectors of a first layer
    and matrices as torch initialises them, since with theirs it would give nothing but zeros. Only the four square
    matrices have weight decay, as theirs; w0, which they train at twice the learning rate, has that of all others.

    Args:
        dim: Width of the input and of the output.
        head_dim: Width of a head. Without it the largest divisor of dim up to 64, which is the authors' width.
        decay_rank: Rank of the decay's function. Without it, as the authors suggest, 2.5 √dim, rounded to a multiple of
            32 and at least 32.
        rate_rank: Rank of the rate's function, the same without it.
        gate_rank: Rank of the gate's function; without it 5 √dim, rounded in the same way.
        chunk_size: Tokens mixed in parallel before the state is carried on, rounded down to a power of two. Changes
            speed and memory, not the result.

    Raises:
        ValueError: head_dim does not divide dim, or an option is out of range.
    """

    changeable_options = frozenset({"chunk_size"})

    def __init__(
        self,
        dim: int,
        *,
        head_dim: int | None = None,
        decay_rank: int | None = None,
        rate_rank: int | None = None,
        gate_rank: int | None = None,
        chunk_size: int = 32,
    ):
        super().__init__(dim)
        own_dim = max(n for n in range(1, min(dim, 64) + 1) if dim % n == 0)
        head_dim = own_dim if head_dim is None else head_dim
        decay_rank = _rank(2.5, dim) if decay_rank is None else decay_rank
        rate_rank = _rank(2.5, dim) if rate_rank is None else rate_rank
        gate_rank = _rank(5, dim) if gate_rank is None else gate_rank
        at_least(1, head_dim=head_dim, decay_rank=decay_rank, rate_rank=rate_rank, gate_rank=gate_rank)
        at_least(1, chunk_size=chunk_size)
        if dim % head_dim:
            raise UsageError(f"head_dim={head_dim} does not divide dim={dim}: write {own_dim}, for example.")
        self.head_dim, self.chunk_size = head_dim, chunk_size
        mixes = (nn.Parameter(torch.empty(1, 1, dim)) for _ in range(6))
        self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g = mixes
        self.w0, self.a0, self.k_k, self.k_a = (nn.Parameter(torch.empty(1, 1, dim)) for _ in range(4))
        ranks = decay_rank, rate_rank, gate_rank
        self.w1, self.a1, self.g1 = (nn.Parameter(torch.empty(dim, rank)) for rank in ranks)
        self.w2, self.a2, self.g2 = (nn.Parameter(torch.empty(rank, dim)) for rank in ranks)
        self.r_k = nn.Parameter(torch.empty(dim // head_dim, head_dim))
        self.receptance = Linear(dim, dim, bias=False)
        self.key = Linear(dim, dim, bias=False)
        self.value = Linear(dim, dim, bias=False)
        self.output = Linear(dim, dim, bias=False)
        self.ln_x = nn.GroupNorm(dim // head_dim, dim, eps=1e-5 * head_dim)
        self.optimizer_options = {"weight_decay": 0.0}
        for linear in (self.receptance, self.key, self.value, self.output):
            linear.optimizer_options = {"weight_decay": None}  # type: ignore[assignment]  # the run's own
        self._init_vectors(layer=0, depth=1)
        for matrix in (self.w1, self.a1, self.g1, self.w2, self.a2, self.g2):
            nn.init.uniform_(matrix, -(len(matrix) ** -0.5), len(matrix) ** -0.5)

    def init_weights(self, layer: int, depth: int) -> None:
        self._init_vectors(layer, depth)
        for first, second in ((self.w1, self.w2), (self.a1, self.a2), (self.g1, self.g2)):
            nn.init.zeros_(first)
            nn.init.orthogonal_(second, 0.1 * max(1.0, len(second) / self.dim) ** 0.5)
        for matrix, bound in ((self.receptance, 0.5), (self.key, 0.05), (self.value, 0.5)):
            nn.init.uniform_(matrix.weight, -bound * self.dim**-0.5, bound * self.dim**-0.5)
        nn.init.zeros_(self.output.weight)

    @torch.no_grad()
    def _init_vectors(self, layer: int, depth: int) -> None:
        """Mixes, decays and rates as the authors' code has them: from slow to fast over the channels, and in a head."""
        down, up = 1 - layer / depth, layer / max(depth - 1, 1)  # over the layers, from 1 and to 1
        i = torch.arange(self.dim, dtype=torch.float32, device=self.w0.device)
        for exponent, mixes in ((0.2, (self.x_r, self.x_g)), (0.9, (self.x_w, self.x_a)), (0.7, (self.x_k, self.x_v))):
            for mix in mixes:
                mix.copy_(1 - (i / self.dim) ** (exponent * down))
        share, middle = i / max(self.dim - 1, 1), (self.head_dim - 1) / 2
        in_head = (i % self.head_dim - middle) / max(middle, 1)
        curve, line = in_head * in_head.abs(), share - 0.5
        self.w0.copy_(-5.5 + 6 * share ** (1 + up**0.3) + 2.5 * curve)
        self.a0.copy_(-0.19 + 0.3 * curve + 0.4 * line)
        self.k_k.copy_(0.71 - 0.1 * line)
        nn.init.constant_(self.k_a, 1.02)
        nn.init.constant_(self.r_k, -0.04)

    def initial_state(self, batch: int) -> RWKV7State:
        weight, h = self.key.weight, len(self.r_k)
        previous = weight.new_zeros(batch, self.dim, dtype=state_dtype(weight))
        return RWKV7State(previous, previous.new_zeros(batch, h, self.head_dim, self.head_dim))

    def _mix(self, x: Tensor, state: RWKV7State | None) -> tuple[Tensor, RWKV7State]:
        dtype, shape = state_dtype(self.key.weight), self.r_k.shape
        first = torch.zeros_like(x[:, :1]) if state is None else state.previous[:, None].to(x.dtype)
        mixes = (self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g)
        x_r, x_w, x_k, x_v, x_a, x_g = tokenwise(_shifted, (x, torch.cat([first, x[:, :-1]], 1)), mixes)
        r, k, v = (y.unflatten(-1, shape) for y in (self.receptance(x_r), self.key(x_k), self.value(x_v)))
        decay, rate = (x_w @ self.w1).tanh() @ self.w2, x_a @ self.a1 @ self.a2
        gate = (x_g @ self.g1).sigmoid() @ self.g2
        w0, a0, k_k, k_a = (weight.view(shape).to(dtype) for weight in (self.w0, self.a0, self.k_k, self.k_a))
        inputs = k, decay.unflatten(-1, shape), rate.unflatten(-1, shape)
        k, removed, returned, log_decay = tokenwise(_keys, inputs, (w0, a0, k_k, k_a))
        past = None if state is None else state.kv
        o, kv = dplr(r, k, v, removed, returned, log_decay, past, self.chunk_size, FASTEST)
        weight, bias = self.ln_x.weight.view(shape), self.ln_x.bias.view(shape)
        (y,) = tokenwise(self._normed, (o, r, k, v, gate.unflatten(-1, shape)), (self.r_k, weight, bias))
        return self.output(y.flatten(2)), RWKV7State(x[:, -1].to(dtype), kv)

    def _normed(
        self, o: Tensor, r: Tensor, k: Tensor, v: Tensor, gate: Tensor, r_k: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor]:
        """What is read and normalised, and the token's own value, gated."""
        normed = torch.addcmul(bias, F.layer_norm(o, o.shape[-1:], eps=self.ln_x.eps), weight)
        y = torch.addcmul(normed, (r * k * r_k).sum(-1, keepdim=True), v) * gate
        return (y.to(gate.dtype),)


def _shifted(x: Tensor, before: Tensor, *mixes: Tensor) -> tuple[Tensor, ...]:
    step = before - x
    return tuple(torch.addcmul(x, step, mix.to(x.dtype)) for mix in mixes)


def _keys(
    k: Tensor, decay: Tensor, rate: Tensor, w0: Tensor, a0: Tensor, k_k: Tensor, k_a: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The key that is stored, what is read with and what is written under to remove, and the logarithm of the decay."""
    rate = (rate + a0).sigmoid()
    removed = F.normalize(k * k_k, dim=-1)
    stored = torch.addcmul(k, k * k_a, rate - 1)
    return stored.to(k.dtype), removed, -removed * rate, (decay + w0).sigmoid() * FASTEST


def _rank(factor: float, dim: int) -> int:
    """A multiple of 32 near factor √dim; halves are rounded to even ones, as in the authors' code."""
    return max(32, 32 * round(factor * dim**0.5 / 32))
