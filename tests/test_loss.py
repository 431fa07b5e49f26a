"""The chunked cross entropy against torch's."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mixers import LanguageModel
from mixers.model import loss as loss_module
from mixers.model.loss import negative_log_likelihood, negative_log_likelihoods


@pytest.fixture(params=[1, 60, 10**9], ids=lambda logits: f"{logits} logits at once")
def chunks(request, monkeypatch):
    monkeypatch.setitem(loss_module.CHUNK_LOGITS, "cpu", request.param)


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    x = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 4, dtype=torch.float64, requires_grad=True)
    return x, weight, torch.tensor([0, 10, 3, -100, 5, 5, -100])


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("sparse", [True, False, None])
def test_it_is_cross_entropy_with_its_gradients(inputs, sparse):
    x, weight, targets = inputs
    ours = negative_log_likelihood(x, weight, targets, sparse=sparse)
    theirs = F.cross_entropy(x @ weight.mT, targets, reduction="sum")
    assert_close(ours, theirs)
    for own, other in zip(
        torch.autograd.grad(3 * ours, (x, weight)), torch.autograd.grad(3 * theirs, (x, weight)), strict=True
    ):
        assert_close(own, other)


@pytest.mark.parametrize("sparse", [True, False])
def test_without_any_target_the_loss_and_its_gradients_are_zero(inputs, sparse):
    x, weight, targets = inputs
    ignored = targets.fill_(-100)
    loss = negative_log_likelihood(x, weight, ignored, sparse=sparse)
    assert [loss, *(grad.abs().max() for grad in torch.autograd.grad(loss, (x, weight)))] == [0, 0, 0]
    assert_close(negative_log_likelihoods(x, weight, ignored), torch.zeros(7, dtype=torch.float64))


def test_no_logits_are_computed_where_there_is_no_target(inputs, monkeypatch):
    x, weight, targets = inputs
    seen = []
    chunk = loss_module._chunk

    def noting(part, *rest):
        seen.append(len(part))
        return chunk(part, *rest)

    monkeypatch.setattr(loss_module, "_chunk", noting)
    for sparse in (True, False, None):
        negative_log_likelihood(x, weight, targets, sparse=sparse)
    assert seen == [5, 7, 5]


def test_only_one_of_the_gradients_may_be_wanted(inputs):
    x, weight, targets = inputs
    expected = torch.autograd.grad(negative_log_likelihood(x, weight, targets), x)
    assert_close(torch.autograd.grad(negative_log_likelihood(x, weight.detach(), targets), x), expected)


def test_under_autocast_it_stays_near_float32():
    torch.manual_seed(0)
    x, weight, targets = torch.randn(50, 16), torch.randn(100, 16), torch.randint(100, (50,))
    exact = negative_log_likelihood(x, weight, targets)
    with torch.autocast("cpu", torch.bfloat16):
        half = negative_log_likelihood(x, weight, targets)
    assert half.dtype == torch.float32
    assert_close(half, exact, rtol=2e-2, atol=0)


def test_no_more_logits_are_held_than_one_chunk(monkeypatch):
    monkeypatch.setitem(loss_module.CHUNK_LOGITS, "cpu", 1000)
    x, weight = torch.randn(400, 8, requires_grad=True), torch.randn(100, 8, requires_grad=True)
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                sizes.append(result.numel())
            return result

    with Sizes():
        negative_log_likelihood(x, weight, torch.zeros(400, dtype=torch.long)).backward()
    assert max(sizes) <= max(x.numel(), weight.numel(), 1000)


def test_without_gradients_none_are_computed(inputs, monkeypatch):
    wanted = []
    forward = loss_module._ChunkedNLL.forward

    def noting(ctx, *args):
        wanted.append(any(ctx.needs_input_grad))
        return forward(ctx, *args)

    monkeypatch.setattr(loss_module._ChunkedNLL, "forward", staticmethod(noting))
    exact = negative_log_likelihood(*inputs)
    with torch.no_grad():
        assert_close(negative_log_likelihood(*inputs), exact.detach())
    assert wanted == [True, False]


@pytest.mark.usefixtures("chunks")
def test_the_losses_of_single_tokens_are_cross_entropy(inputs):
    x, weight, targets = inputs
    ours = negative_log_likelihoods(x, weight, targets)
    assert_close(ours, F.cross_entropy(x @ weight.mT, targets, reduction="none").detach())
    assert_close(ours.sum(), negative_log_likelihood(x, weight, targets).detach())
    assert not ours.requires_grad
    losses, right = loss_module.scores(x, weight, targets)
    assert_close(losses, ours)
    assert torch.equal(right, (x @ weight.mT).argmax(-1) == targets)


def test_the_mean_of_a_models_losses_is_its_loss():
    torch.manual_seed(0)
    model = LanguageModel(vocab_size=20, dim=8, depth=1).double()
    ids, targets = torch.randint(20, (2, 3, 7))
    losses = model.losses(ids, targets)
    assert losses.shape == (3, 7)
    assert_close(losses.mean(), model.loss(ids, targets).detach())
