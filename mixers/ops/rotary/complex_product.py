"""Rotation of pairs as complex numbers, in one pass over them; the compiler knows none.

Axes: as in reference.py.
"""

import torch
from torch import Tensor

from mixers.ops.op import unless_eager_on_cpu
from mixers.ops.precision import state_dtype


def unsupported_reason(x: Tensor, cos: Tensor, sin: Tensor) -> str | None:
    return unless_eager_on_cpu(x) if x.stride(-1) == 1 else "its pairs are not side by side"


def complex_product(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    precise = state_dtype(x)
    rotation = torch.complex(cos.to(precise), sin.to(precise))
    pairs = torch.view_as_complex(x.to(precise).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)
