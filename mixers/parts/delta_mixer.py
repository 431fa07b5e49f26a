"""What mixers with a delta rule share: projections, short convolutions, norms, and the rule itself."""

from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from mixers.checks import UsageError, above, at_least
from mixers.mixer import RecurrentMixer, state_dtype
from mixers.ops.delta import delta_rule
from mixers.parts.decay_step import precise
from mixers.parts.l2_norm import l2_norm
from mixers.parts.linear import Linear
from mixers.parts.output_norm import GateKind, OutputNorm
from mixers.parts.short_conv import ShortConv

# Axes: b batch, t time, h value head, k key width, v value width, l taps of a convolution.


class DeltaState(NamedTuple):
    q_inputs: Tensor  # (b, l - 1, ·): the last of the queries' convolution
    k_inputs: Tensor  # (b, l - 1, ·): of the keys'
    v_inputs: Tensor  # (b, l - 1, ·): of the values'
    kv: Tensor  # (b, h, k, v): what the delta rule has learned


class DeltaMixer(RecurrentMixer[DeltaState]):
    """y = W_o norm_and_gate(Sᵀ q), where S ← Diag(e^g) S, S ← S + k (w ∘ v - Sᵀ(b ∘ k))ᵀ (ops/delta/reference.py).

    q, k and v pass a projection, a short convolution and silu; q and k are then divided by their length, and q by √k
    as well. A subclass gives the decays g, the strengths b and w and the output's gate.

    Args:
        dim: Width of the input and of the output.
        num_heads: Number of heads of keys; the other arguments are options of `GatedDeltaNet`.
    """

    changeable_options = frozenset({"chunk_size"})

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        num_v_heads: int,
        head_dim: int,
        expand_v: float,
        gate: GateKind = "silu",
        conv_size: int,
        allow_neg_eigval: bool,
        steps: int = 1,
        norm_eps: float,
        chunk_size: int,
    ):
        super().__init__(dim)
        at_least(1, num_heads=num_heads, num_v_heads=num_v_heads, head_dim=head_dim, steps=steps, chunk_size=chunk_size)
        at_least(0, conv_size=conv_size)
        above(0, expand_v=expand_v, norm_eps=norm_eps)
        if num_v_heads % num_heads:
            raise UsageError(f"num_v_heads={num_v_heads} is no multiple of num_heads={num_heads}: write one that is.")
        self.num_heads, self.num_v_heads, self.head_dim, self.steps = num_heads, num_v_heads, head_dim, steps
        self.head_v_dim = max(1, round(head_dim * expand_v))
        self.conv_size, self.allow_neg_eigval, self.chunk_size = conv_size, allow_neg_eigval, chunk_size
        keys, values = num_heads * head_dim, num_v_heads * self.head_v_dim
        self.q_proj = Linear(dim, keys, bias=False)
        self.k_proj = Linear(dim, steps * keys, bias=False)
        self.v_proj = Linear(dim, steps * values, bias=False)
        self.q_conv1d = self._conv(keys)
        self.k_conv1d = self._conv(steps * keys)
        self.v_conv1d = self._conv(steps * values)
        self.o_norm = OutputNorm(self.head_v_dim, gate=gate, eps=norm_eps)
        self.o_proj = Linear(values, dim, bias=False)

    def _conv(self, channels: int) -> ShortConv | None:
        return ShortConv(channels, width=self.conv_size, bias=False) if self.conv_size else None

    @abstractmethod
    def log_decay(self, x: Tensor) -> Tensor:
        """g, (b, t, h) or (b, t, h, k), in float32 or better."""

    @abstractmethod
    def gate(self, x: Tensor) -> Tensor | None:
        """What the output is gated by, before its activation, (b, t, h·v)."""

    @abstractmethod
    def strengths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Those of erasing, b, and of writing, w, (b, t, steps·h) or with channels after it, in float32 or better."""

    def strength(self, logits: Tensor, *, erases: bool = True) -> Tensor:
        """σ of its logits, up to 2 with `allow_neg_eigval` where it erases."""
        strength = precise(logits).sigmoid()
        return 2 * strength if erases and self.allow_neg_eigval else strength

    def initial_state(self, batch: int) -> DeltaState:
        weight, taps = self.q_proj.weight, max(1, self.conv_size)
        q, k, v = (weight.new_zeros(batch, taps - 1, proj.out_features) for proj, _ in self._streams())
        shape = batch, self.num_v_heads, self.head_dim, self.head_v_dim
        return DeltaState(q, k, v, weight.new_zeros(shape, dtype=state_dtype(weight)))

    def _streams(self) -> list[tuple[Linear, ShortConv | None]]:
        """The projections and convolutions of q, k and v."""
        return [(self.q_proj, self.q_conv1d), (self.k_proj, self.k_conv1d), (self.v_proj, self.v_conv1d)]

    def _mix(self, x: Tensor, state: DeltaState | None) -> tuple[Tensor, DeltaState]:
        past = self.initial_state(len(x)) if state is None else state
        streams, inputs = [], []
        for (proj, conv), before in zip(self._streams(), past[:3], strict=True):
            y, recent = proj(x), before
            if conv is not None:
                y, recent = conv.extend(y, before)
            streams.append(F.silu(y))
            inputs.append(recent)
        q, k = (x.unflatten(-1, (-1, self.head_dim)) for x in streams[:2])
        v = streams[2].unflatten(-1, (-1, self.head_v_dim))
        arguments = [l2_norm(q, self.head_dim**-0.5), l2_norm(k), v, self.log_decay(x), *self.strengths(x)]
        if self.steps > 1:
            arguments = self._in_steps(*arguments)
        o, kv = delta_rule(*arguments, None if state is None else state.kv, self.chunk_size)
        o = o[:, self.steps - 1 :: self.steps]
        z = self.gate(x)
        y = self.o_norm(o, None if z is None else z.view(o.shape))
        return self.o_proj(y.flatten(2)), DeltaState(inputs[0], inputs[1], inputs[2], kv)

    def _in_steps(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, b: Tensor, w: Tensor) -> list[Tensor]:
        """Each token as several, of which the first decays and the last asks: (b, t, ...) as (b, steps·t, ...)."""
        n = self.steps
        k, v, strength = (x.unflatten(2, (n, -1)).flatten(1, 2) for x in (k, v, b))
        g = F.pad(g[..., None, :], (0, 0, 0, n - 1)).flatten(1, 2)
        q = F.pad(q[:, :, None], (0, 0, 0, 0, n - 1, 0)).flatten(1, 2)
        return [q, k, v, g, strength, strength if w is b else w.unflatten(2, (n, -1)).flatten(1, 2)]
