"""Cross entropy of a large vocabulary without holding all logits at once."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mixers.ops.linear import linear
from mixers.ops.precision import in_product_dtype

# Logits held at once: about what caches hold, or what keeps a GPU busy (256 MB in float32). But at least `dim` rows,
# or adding up the gradient of the weight takes longer than computing it.
CHUNK_LOGITS = {"cpu": 2**22}
CHUNK_LOGITS_ELSEWHERE = 2**26
IGNORED = -100  # a target that is not predicted, torch's own convention


def negative_log_likelihood(x: Tensor, weight: Tensor, targets: Tensor, *, sparse: bool | None = None) -> Tensor:
    """Σ -log softmax(x Wᵀ)[target] over the targets that are not -100, in nats, in float32 or better.

    Logits are computed for a few rows at a time, and their gradients with them, so that memory does not grow with the
    number of tokens times the vocabulary, and nothing is computed twice. Matrix products are in autocast's dtype.

    Args:
        x: (..., dim).
        weight: (vocabulary, dim).
        targets: (...).
        sparse: Whether to leave out the rows whose target is -100, for which a GPU has to wait until it knows them;
            None does so on a CPU.
    """
    if not torch.is_grad_enabled():  # a Function is told that parameters want gradients even then
        x, weight = x.detach(), weight.detach()
    x, targets = x.flatten(0, -2), targets.flatten()
    if sparse or (sparse is None and targets.device.type == "cpu"):
        rows = _rows_with_target(targets)
        if len(rows) < len(targets):
            x, targets = x.index_select(0, rows), targets[rows]
    return _ChunkedNLL.apply(*in_product_dtype(x, weight), targets)


@torch.no_grad()
def negative_log_likelihoods(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """What `negative_log_likelihood` sums, (...), 0 where the target is -100; without gradients."""
    return _at_targets([losses for losses, _, _ in _losses_by_chunk(x, weight, targets)], targets)


@torch.no_grad()
def scores(x: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """`negative_log_likelihoods`, and whether each target is the likeliest token, (...) each."""
    chunks = [(losses, logits.argmax(-1) == part) for losses, logits, part in _losses_by_chunk(x, weight, targets)]
    losses, likeliest = zip(*chunks, strict=True)
    return _at_targets(losses, targets), _at_targets(likeliest, targets)


def _losses_by_chunk(x: Tensor, weight: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Losses and logits of a few rows with a target at a time in float32 or better, with their targets."""
    predicted = _rows_with_target(targets)
    x, weight = in_product_dtype(x.flatten(0, -2)[predicted], weight)
    rows = _chunk_rows(x, weight)
    for part, target in zip(x.split(rows), targets.flatten()[predicted].split(rows), strict=True):
        logits = linear(part, weight, None).to(torch.promote_types(x.dtype, torch.float32))
        yield F.cross_entropy(logits, target, reduction="none"), logits, target


def _rows_with_target(targets: Tensor) -> Tensor:
    """Where targets, as one row of all, are not -100: (targets,)."""
    return (targets.flatten() != IGNORED).nonzero().flatten()


def _at_targets(chunks: Sequence[Tensor], targets: Tensor) -> Tensor:
    """The values of the rows with a target where these are, zeros elsewhere: (...)."""
    values = torch.cat(list(chunks))
    return values.new_zeros(targets.shape).masked_scatter_(targets != IGNORED, values)


class _ChunkedNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        precise = torch.promote_types(x.dtype, torch.float32)
        total = x.new_zeros((), dtype=precise)
        x_grad = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        weight_grad = torch.zeros_like(weight, dtype=precise) if ctx.needs_input_grad[1] else None
        rows = _chunk_rows(x, weight)
        # The same memory serves every chunk: on a CPU, new pages cost more than what is written there.
        rounded = x.new_empty(min(rows, len(x)), len(weight))
        buffer = rounded if x.dtype == precise else torch.empty_like(rounded, dtype=precise)
        for start in range(0, len(x), rows):
            part, target = x[start : start + rows], targets[start : start + rows]
            predicted = (target != IGNORED)[:, None]
            loss, logits_grad = _chunk(part, weight, target, rounded[: len(part)], buffer[: len(part)])
            total += (loss * predicted).sum()
            if x_grad is not None:
                torch.mul(linear(logits_grad, weight.mT, None), predicted, out=x_grad[start : start + rows])
            if weight_grad is not None:
                weight_grad += linear(logits_grad.mT, (part * predicted).mT, None)
        ctx.save_for_backward(x_grad, weight_grad)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_grad, weight_grad = (None if own is None else own * grad.to(own.dtype) for own in ctx.saved_tensors)
        return x_grad, weight_grad, None  # autograd rounds the weight's to its dtype


def _chunk_rows(x: Tensor, weight: Tensor) -> int:
    return max(CHUNK_LOGITS.get(x.device.type, CHUNK_LOGITS_ELSEWHERE) // len(weight), x.shape[1])


def _chunk(x: Tensor, weight: Tensor, targets: Tensor, rounded: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each row, (rows, 1), and the logits' gradient; both buffers have an element for each logit."""
    chosen = targets.clamp(min=0)[:, None]
    logits = buffer.copy_(linear(x, weight, None))
    logits -= logits.amax(-1, keepdim=True)
    chosen_logits = logits.gather(1, chosen)
    probs = logits.exp_()
    norm = probs.sum(-1, keepdim=True)
    grad = probs.div_(norm).scatter_add_(1, chosen, probs.new_full((), -1).expand_as(chosen))
    return norm.log() - chosen_logits, rounded.copy_(grad)
