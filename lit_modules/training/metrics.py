"""Loss summed over tokens, the one number that perplexity and bits per byte come from."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

# Sums over a whole validation set lose digits in float32; Apple's GPUs have nothing wider.
SUM_DTYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64


class TokenLoss(Metric):
    """Mean negative log-likelihood over all tokens seen, in nats per token, on all processes together.

    Batches count by their tokens, so that a short last batch weighs what it should.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    nll: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nll", torch.zeros((), dtype=SUM_DTYPE), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, loss: Tensor, tokens: int) -> None:
        """Adds a batch.

        Args:
            loss: Mean negative log-likelihood of the batch, in nats per token.
            tokens: Number of tokens that the mean is over.
        """
        self.nll += loss.to(SUM_DTYPE) * tokens
        self.tokens += tokens

    def compute(self) -> Tensor:
        return self.nll / self.tokens


def bits_per_byte(loss: Tensor, bytes_per_token: float) -> Tensor:
    """A loss in nats per token as bits per byte of text, which compares across tokenizers."""
    return loss / math.log(2) / bytes_per_token
