"""What a block does within each token."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from mixers.parts.linear import Linear

FeedForwardKind = Literal["gelu", "swiglu"]
MATRICES: dict[FeedForwardKind, int] = {"gelu": 2, "swiglu": 3}  # of dim × width each


class FeedForward(nn.Module):
    """gelu(x W_1) W_2, or (swish(x W_g) ⊙ x W_1) W_2 (arXiv:2002.05202), without biases.

    Args:
        dim: Width of the input and of the output.
        width: Width between the matrices.
        kind: `gelu` or `swiglu`.
    """

    def __init__(self, dim: int, width: int, *, kind: FeedForwardKind = "gelu"):
        super().__init__()
        self.up = Linear(dim, width, bias=False)
        self.gate = Linear(dim, width, bias=False) if kind == "swiglu" else None
        self.down = Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(F.gelu(self.up(x)))
        return self.down(F.silu(self.gate(x)) * self.up(x))
