"""Functions within each token, a few tokens at a time."""

import pytest
import torch
from torch.testing import assert_close

from mixers.ops import chunks
from mixers.ops.tokenwise import tokenwise


def both(x, y, weight, unused):
    return x.sigmoid() * y + weight, (x * weight).sum(-1)


@pytest.fixture
def tensors(monkeypatch):
    monkeypatch.setattr(chunks, "CACHE_ELEMENTS", 2 * 3 * 4)  # 3 tokens at a time
    torch.manual_seed(0)
    shapes = (2, 11, 4), (2, 11, 4), (4,), (4,)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("used", [[0, 1], [0], [1]])
def test_a_few_tokens_at_a_time_give_what_all_at_once_give(tensors, used):
    def gradients(outputs):
        loss = sum(outputs[i].square().sum() for i in used)
        return torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)

    actual, expected = tokenwise(both, tensors[:2], tensors[2:]), both(*tensors)
    assert_close(actual, expected)
    assert_close(gradients(actual), gradients(expected))


def test_what_wants_no_gradient_gets_none(tensors):
    tensors = [x.detach() for x in tensors]
    tensors[1].requires_grad_()
    outputs = tokenwise(both, tensors[:2], tensors[2:])
    outputs[0].sum().backward()
    assert_close(tensors[1].grad, tensors[0].sigmoid())
    assert all(x.grad is None for x in (tensors[0], *tensors[2:]))


def test_only_the_inputs_are_kept(tensors):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        tokenwise(both, tensors[:2], tensors[2:])
    assert sum(kept) == sum(x.numel() for x in tensors)


@pytest.mark.parametrize("shape", [(0, 11, 4), (2, 0, 4)])
def test_no_rows_and_no_tokens_are_ordinary(shape):
    x = torch.zeros(shape, requires_grad=True)
    outputs = tokenwise(both, (x, x), (torch.zeros(4), torch.zeros(4)))
    assert [y.shape for y in outputs] == [shape, shape[:2]]
    outputs[0].sum().backward()
