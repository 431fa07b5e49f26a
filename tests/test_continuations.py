"""How likely continuations are: one at a time, and many."""

import pytest
import torch

from lit_modules.evaluation.continuations import likelihoods
from mixers import LanguageModel, available

PAIRS = [([1, 2, 3], [4, 5]), ([7], [8]), ([9] * 30, [1] * 11), ([5, 5], [0, 0, 0])]


@pytest.fixture(params=sorted(available()))
def model(request):
    torch.manual_seed(0)
    return LanguageModel(available()[request.param], vocab_size=10, dim=32, depth=2, ffn_dim=32).eval()


@torch.no_grad()
def test_each_is_the_sum_of_the_logarithms_of_its_tokens_probabilities(model):
    for (context, continuation), found in zip(PAIRS, likelihoods(model, PAIRS, batch_size=1), strict=True):
        logits = model(torch.tensor([[*context, *continuation]]))[0, len(context) - 1 : -1]
        logs = logits.log_softmax(-1)[range(len(continuation)), continuation]
        assert found.log == pytest.approx(logs.sum().item(), abs=1e-4)
        assert found.greedy == (logits.argmax(-1).tolist() == continuation)


def test_a_pair_scores_the_same_in_any_batch(model):
    alone = likelihoods(model, PAIRS, batch_size=1)
    for batch_size in (2, 3, 9):
        together = likelihoods(model, PAIRS, batch_size=batch_size)
        assert [pair.log for pair in together] == pytest.approx([pair.log for pair in alone], abs=1e-4)
        assert [pair.greedy for pair in together] == [pair.greedy for pair in alone]


@torch.no_grad()
def test_what_the_model_would_write_itself_is_greedy(model):
    written = [1, 2, 3]
    for _ in range(4):
        written.append(int(model(torch.tensor([written]))[0, -1].argmax()))
    other = [*written[:-1], (written[-1] + 1) % 10]
    pairs = [(written[:3], written[3:]), (other[:3], other[3:])]
    assert [found.greedy for found in likelihoods(model, pairs, batch_size=2)] == [True, False]


def test_a_context_of_nothing_is_refused(model):
    with pytest.raises(ValueError, match="at least one token"):
        likelihoods(model, [([], [1])], batch_size=1)
