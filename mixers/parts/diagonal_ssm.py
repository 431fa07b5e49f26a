"""The diagonal state space of S4D, as it is learned (arXiv:2206.11893)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from mixers.checks import UsageError, at_least, one_of
from mixers.ops.precision import state_dtype
from mixers.ops.state_space import Modes, times

Spectrum = Literal["lin", "inv", "real"]
Discretisation = Literal["bilinear", "zoh"]


class DiagonalSSM(nn.Module):
    """ds/dt = A s + u and y = 2 Re(C s) + D u in discrete time, A diagonal.

    B is one, since an output knows its product with C only. C and D are normal, the steps dt log-uniform in
    [0.001, 0.1], as in the authors' code. A and dt are exempt from weight decay.

    Args:
        channels: Number of state spaces; the other arguments are options of `S4D`.
    """

    def __init__(self, channels: int, *, size: int, spectrum: Spectrum, method: Discretisation, lr: float | None):
        super().__init__()
        at_least(2, state_size=size)
        one_of(("lin", "inv", "real"), spectrum=spectrum)
        one_of(("bilinear", "zoh"), discretisation=method)
        if size % 2:
            raise UsageError(f"state_size={size} is odd: write an even number, two for each complex one.")
        self.method = method
        self.dynamics = Dynamics(channels, size=size, spectrum=spectrum, lr=lr)
        self.c = nn.Parameter(torch.randn(channels, 2, size // 2) / math.sqrt(2))  # of variance one as complex numbers
        self.skip = nn.Parameter(torch.randn(channels))

    def modes(self) -> tuple[Modes, Tensor]:
        """The modes and D, in float32 or better.

        `bilinear` has ā = (1 + w) / (1 - w) and B̄ = dt / (1 - w), where w = A dt / 2; `zoh`, the zero-order hold,
        ā = exp(A dt) and B̄ = (ā - 1) / A. Here ln |ā| and ā - 1 are computed without ā, which is so near to 1 that
        float32 would lose them in it.
        """
        learned = (self.skip, self.c, self.dynamics.log_dt, self.dynamics.log_rate, self.dynamics.frequency)
        skip, c, log_dt, log_rate, frequency = (x.to(state_dtype(x)) for x in learned)
        dt = log_dt.exp()[:, None]
        rate, turn = -log_rate.exp() * dt, frequency * dt  # A dt
        if self.method == "zoh":
            growth = torch.expm1(rate) * turn.cos() - 2 * (turn / 2).sin().square()  # of e^x cos y - 1
            gain = times(torch.stack([growth, rate.exp() * turn.sin()], 1), _reciprocal(rate / dt, frequency))
            return Modes(rate, turn, times(c, gain)), skip
        # |1 + w|² = |1 - w|² + 4 Re w
        log_decay = torch.log1p(2 * rate / ((1 - rate / 2).square() + turn.square() / 4)) / 2
        angle = torch.atan2(turn / 2, 1 + rate / 2) + torch.atan2(turn / 2, 1 - rate / 2)
        gain = _reciprocal(1 - rate / 2, -turn / 2) * dt[:, None]
        return Modes(log_decay, angle, times(c, gain)), skip


class Dynamics(nn.Module):
    """A = -exp(log_rate) + i frequency and dt, which may learn more slowly than the rest."""

    def __init__(self, channels: int, *, size: int, spectrum: Spectrum, lr: float | None):
        super().__init__()
        n = torch.arange(size // 2).expand(channels, -1)
        rate = n + 1.0 if spectrum == "real" else torch.full(n.shape, 0.5)
        frequency = {
            "lin": math.pi * n,
            "inv": size / math.pi * (size / (2 * n + 1) - 1),
            "real": torch.zeros(n.shape),
        }[spectrum]
        self.log_dt = nn.Parameter(torch.empty(channels).uniform_(math.log(1e-3), math.log(0.1)))
        self.log_rate = nn.Parameter(rate.log())
        self.frequency = nn.Parameter(frequency)
        self.optimizer_options = {"weight_decay": 0.0} | ({} if lr is None else {"lr": lr})


def _reciprocal(re: Tensor, im: Tensor) -> Tensor:
    return torch.stack([re, -im], 1) / (re.square() + im.square())[:, None]
