"""The diagonal state space of S4D, as it is learned (arXiv:2206.11893)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from mixers.checks import UsageError, at_least, one_of
from mixers.ops.precision import full_precision, state_dtype
from mixers.ops.state_space import Discretisation, Modes, discretise

Spectrum = Literal["lin", "inv", "real"]

LOG_DT = math.log(1e-3), math.log(0.1)  # between which steps are drawn, as in the authors' code


class DiagonalSSM(nn.Module):
    """ds/dt = A s + u and y = 2 Re(C s) + D u in discrete time, A diagonal.

    B is one, since an output knows its product with C only. C and D are normal, the steps dt log-uniform in
    [0.001, 0.1]. A and dt are exempt from weight decay.

    Args:
        channels: Number of state spaces.
        size: Real elements of each one's state, N, even: two for each complex mode.
        spectrum: A_n at the start: `lin` is -1/2 + iπn, `inv` -1/2 + i (N/π)(N/(2n+1) - 1), `real` -(n+1).
        method: How time is made discrete: `bilinear` or `zoh`, the zero-order hold.
        lr: Learning rate of A and dt; None means that of the model.
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
        """The modes and D, in float32 or better."""
        learned, dtype = self.dynamics, state_dtype(self.skip)
        log_dt, log_rate, frequency = (x.to(dtype) for x in (learned.log_dt, learned.log_rate, learned.frequency))
        with full_precision(self.skip.device):
            return discretise(log_dt, log_rate, frequency, self.c.to(dtype), self.method), self.skip.to(dtype)


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
        self.log_dt = nn.Parameter(torch.empty(channels).uniform_(*LOG_DT))
        self.log_rate = nn.Parameter(rate.log())
        self.frequency = nn.Parameter(frequency)
        self.optimizer_options = {"weight_decay": 0.0} | ({} if lr is None else {"lr": lr})
