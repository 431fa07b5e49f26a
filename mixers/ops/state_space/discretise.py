"""From continuous to discrete time: the modes of a diagonal state space in steps of dt (S4D, arXiv:2206.11893).

Axes: h state spaces, n modes; complex numbers are pairs of real ones in a dimension of 2 before n, real part first.
"""

from typing import Literal

import torch
from torch import Tensor

from mixers.ops.state_space.reference import Modes, times

Discretisation = Literal["bilinear", "zoh"]


def discretise(log_dt: Tensor, log_rate: Tensor, frequency: Tensor, c: Tensor, method: Discretisation) -> Modes:
    """The modes of ds/dt = A s + u and y = 2 Re(C s), where A = -exp(log_rate) + i frequency.

    `bilinear` has ā = (1 + w) / (1 - w) and B̄ = dt / (1 - w), where w = A dt / 2; `zoh`, the zero-order hold,
    ā = exp(A dt) and B̄ = (ā - 1) / A. Here ln |ā| and ā - 1 are computed without ā, which is so near to 1 that float32
    would lose them in it.

    Shapes: log_dt (h,), log_rate and frequency (h, n), c (h, 2, n).
    """
    dt = log_dt.exp()[:, None]
    rate, turn = -log_rate.exp() * dt, frequency * dt  # A dt
    if method == "zoh":
        growth = torch.expm1(rate) * turn.cos() - 2 * (turn / 2).sin().square()  # of e^x cos y - 1
        gain = times(torch.stack([growth, rate.exp() * turn.sin()], 1), _reciprocal(rate / dt, frequency))
        return Modes(rate, turn, times(c, gain))
    log_decay = (
        torch.log1p(2 * rate / ((1 - rate / 2).square() + turn.square() / 4)) / 2
    )  # |1 + w|² = |1 - w|² + 4 Re w
    angle = torch.atan2(turn / 2, 1 + rate / 2) + torch.atan2(turn / 2, 1 - rate / 2)
    return Modes(log_decay, angle, times(c, _reciprocal(1 - rate / 2, -turn / 2) * dt[:, None]))


def _reciprocal(re: Tensor, im: Tensor) -> Tensor:
    return torch.stack([re, -im], 1) / (re.square() + im.square())[:, None]
