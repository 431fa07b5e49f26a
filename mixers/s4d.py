"""S4D: each channel through a diagonal state space of its own (arXiv:2206.11893)."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from mixers.checks import at_least
from mixers.mixer import RecurrentMixer, state_dtype
from mixers.ops.state_space import state_space
from mixers.parts.diagonal_ssm import DiagonalSSM, Discretisation, Spectrum
from mixers.parts.linear import Linear
from mixers.registry import register

# Axes: b batch, t time, d channels, n modes.


class S4DState(NamedTuple):
    ssm: Tensor  # (b, d, 2, n, 1): the modes of each channel, real and imaginary parts


@register("s4d")
class S4D(RecurrentMixer[S4DState]):
    """S4D, y = GLU(W gelu(K * u + D u)): one long convolution a channel, whose kernel is a diagonal state space's.

    K_i = 2 Re Σ_n C_n B̄_n Ā_n^i (arXiv:2206.11893, section 3). Channels meet only in the output projection, which is
    that of the authors' S4D code, twice as wide and gated by its own second half; the plain one of the first S4 is
    `glu=False`. Kernels and states are float32 even in a half-precision model.

    Args:
        dim: Width of the input and of the output.
        state_size: Real elements of a channel's state, N, even: two for each complex mode.
        spectrum: A_n at the start: `lin` is -1/2 + iπn, `inv` -1/2 + i (N/π)(N/(2n+1) - 1), `real` -(n+1).
        discretisation: `zoh`, the zero-order hold, is the authors' S4D; `bilinear` that of S4 and H3.
        glu: Whether the output projection is gated.
        ssm_lr: Highest learning rate of A and of the steps dt: as in the authors' runs, they have 0.001, or the model's
            if that is lower. None means that of the model, whatever it is.
        chunk_size: Tokens mixed in parallel before the state is carried on. Changes speed and memory, not the result.

    Raises:
        ValueError: an option is out of range.
    """

    changeable_options = frozenset({"chunk_size", "ssm_lr"})

    def __init__(
        self,
        dim: int,
        *,
        state_size: int = 64,
        spectrum: Spectrum = "lin",
        discretisation: Discretisation = "zoh",
        glu: bool = True,
        ssm_lr: float | None = 1e-3,
        chunk_size: int = 32,
    ):
        super().__init__(dim)
        at_least(1, chunk_size=chunk_size)
        self.chunk_size, self.glu = chunk_size, glu
        self.ssm = DiagonalSSM(dim, size=state_size, spectrum=spectrum, method=discretisation, lr=ssm_lr)
        self.out_proj = Linear(dim, 2 * dim if glu else dim)

    def initial_state(self, batch: int) -> S4DState:
        c = self.ssm.c
        return S4DState(c.new_zeros(batch, *c.shape, 1, dtype=state_dtype(c)))

    def _mix(self, x: Tensor, state: S4DState | None) -> tuple[Tensor, S4DState]:
        modes, skip = self.ssm.modes()
        past = None if state is None else state.ssm
        y, past = state_space(x[..., None].to(skip.dtype), modes, skip, past, self.chunk_size)
        y = self.out_proj(F.gelu(y.squeeze(-1)).to(x.dtype))
        return F.glu(y, -1) if self.glu else y, S4DState(past)
