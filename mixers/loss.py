"""Cross entropy of a large vocabulary without ever holding all logits."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_LOGITS = {"cpu": 2**21}  # logits held at once: about what caches hold
CHUNK_LOGITS_ELSEWHERE = 2**26  # 256 MB in float32: enough rows to keep a GPU busy
IGNORED = -100  # a target that is not predicted, torch's own convention


def negative_log_likelihood(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Σ -log softmax(x Wᵀ)[target] over the targets that are not -100, in nats, in float32 or better.

    A few rows of logits are made at a time and their gradients taken at once, so that memory does not grow with the
    number of tokens times the vocabulary, and nothing is computed twice. Matrix products are in autocast's dtype.

    Args:
        x: (tokens, dim).
        weight: (vocabulary, dim).
        targets: (tokens,).
    """
    if not torch.is_grad_enabled():  # a Function is told that parameters want gradients even then
        x, weight = x.detach(), weight.detach()
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    loss: Tensor = _ChunkedNLL.apply(x, weight, targets)
    return loss


class _ChunkedNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        precise = torch.promote_types(x.dtype, torch.float32)
        total = x.new_zeros((), dtype=precise)
        x_grad = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        weight_grad = torch.zeros_like(weight, dtype=precise) if ctx.needs_input_grad[1] else None
        rows = max(1, CHUNK_LOGITS.get(x.device.type, CHUNK_LOGITS_ELSEWHERE) // weight.shape[0])
        for start in range(0, len(x), rows):
            part, target = x[start : start + rows], targets[start : start + rows]
            predicted, chosen = (target != IGNORED)[:, None], target.clamp(min=0)[:, None]
            log_probs = (part @ weight.mT).to(precise).log_softmax(-1)
            total = total - (log_probs.gather(1, chosen) * predicted).sum()
            if x_grad is None and weight_grad is None:
                continue
            logits_grad = log_probs.exp_().scatter_add_(1, chosen, log_probs.new_full((), -1).expand_as(chosen))
            logits_grad = logits_grad.to(x.dtype)
            if x_grad is not None:
                x_grad[start : start + rows] = (logits_grad @ weight) * predicted
            if weight_grad is not None:
                weight_grad += logits_grad.mT @ (part * predicted)
        ctx.save_for_backward(x_grad, weight_grad)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_grad, weight_grad = ctx.saved_tensors
        if x_grad is not None:
            x_grad = x_grad * grad.to(x_grad.dtype)
        if weight_grad is not None:
            weight_grad = (weight_grad * grad).to(ctx.weight_dtype)
        return x_grad, weight_grad, None
