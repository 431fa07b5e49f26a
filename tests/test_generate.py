"""Generation against the plain forward pass."""

import warnings
from itertools import islice

import pytest
import torch
from torch.testing import assert_close

import mixers
from mixers import LanguageModel
from mixers.model.generate import draw, generate, prefill

PROMPTS = [torch.tensor([1, 2, 3]), torch.tensor([4]), torch.tensor([5, 6, 7, 8, 9, 10]), torch.tensor([11, 12, 13])]


@pytest.fixture(params=mixers.available())
def model(request):
    """A small model of each mixer; in one so small Hyena's filters outweigh the block, which does not matter here."""
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore"):
        return LanguageModel(mixers.get(request.param), vocab_size=50, dim=32, depth=2).double().eval()


def test_greedy_tokens_are_those_of_the_whole_forward_pass(model):
    tokens = torch.stack(list(islice(generate(model, PROMPTS, temperature=0), 10)), 1)
    for prompt, continuation in zip(PROMPTS, tokens, strict=True):
        ids = prompt
        for expected in continuation:
            assert model(ids[None])[0, -1].argmax() == expected
            ids = torch.cat([ids, expected[None]])


def test_a_model_generates_by_itself(model):
    ours = [token.tolist() for token in islice(model.generate(PROMPTS, temperature=0), 5)]
    assert ours == [token.tolist() for token in islice(generate(model, PROMPTS, temperature=0), 5)]


def test_prompts_of_different_lengths_are_read_as_if_alone(model):
    logits, _ = prefill(model, PROMPTS)
    for row, prompt in zip(logits, PROMPTS, strict=True):
        assert_close(row, model(prompt[None])[0, -1], rtol=1e-9, atol=1e-9)


def test_a_seed_makes_draws_repeatable(model):
    def tokens(seed):
        return [token.tolist() for token in islice(generate(model, PROMPTS, seed=seed), 8)]

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


def test_a_seed_leaves_torchs_generator_alone(model):
    before = torch.get_rng_state()
    list(islice(generate(model, PROMPTS, seed=1), 3))
    assert torch.equal(torch.get_rng_state(), before)


def drawn(logits, **options):
    generator = torch.Generator().manual_seed(0)
    options = {"top_k": None, "top_p": None} | options
    return set(draw(logits.expand(2000, -1), generator=generator, **options).tolist())


def test_top_k_and_top_p_keep_the_likeliest():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    assert drawn(logits) == {0, 1, 2, 3}
    assert drawn(logits, top_k=2) == {2, 3}
    assert drawn(logits, top_k=9) == {0, 1, 2, 3}
    assert drawn(logits, top_p=0.3) == {3}
    assert drawn(logits, top_p=0.65) == {2, 3}
    assert drawn(logits, top_p=1.0) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 is out of range"),
        ({"top_k": 0}, "top_k=0 is too small"),
        ({"top_p": 0.0}, "top_p=0.0 is out of range"),
        ({"top_p": 1.5}, "top_p=1.5 is out of range"),
    ],
)
def test_options_out_of_range_are_named_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        generate(None, PROMPTS, **options)


def test_an_empty_prompt_is_refused_at_once():
    with pytest.raises(ValueError, match="at least one token"):
        generate(None, [torch.tensor([], dtype=torch.long)])
