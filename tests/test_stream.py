"""Text as it comes: whole characters, and nothing of what a stop string cuts off."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import torch
from small_runs import model, text

from lit_modules.data.tokenizer import Tokenizer, bytes_tokenizer, train_bpe
from lit_modules.evaluation.completion import Completion, Sampling, complete, stream_completion

TOKENIZER = bytes_tokenizer()


def pieces(written: str, *, stop: tuple[str, ...] = ()) -> list[str]:
    """What a completion shows for each byte of a text, and then at the end."""
    completion = Completion(TOKENIZER, stop=stop)
    shown = [completion.add(token) for token in TOKENIZER.encode(written) if not completion.done]
    return [*shown, completion.finish()]


@pytest.mark.parametrize("written", ["plain", "naïve café", "日本語", "🙂🙂", "a\N{REPLACEMENT CHARACTER}b", ""])
def test_characters_come_whole_and_nothing_is_lost(written: str) -> None:
    shown = pieces(written)
    assert "".join(shown) == written
    assert (
        all("\N{REPLACEMENT CHARACTER}" not in piece for piece in shown[:-1]) or "\N{REPLACEMENT CHARACTER}" in written
    )


def test_bytes_that_are_no_text_are_shown_as_such_when_that_is_certain() -> None:
    completion = Completion(TOKENIZER)
    half = TOKENIZER.encode("é")[0]
    letter = TOKENIZER.encode("x")[0]
    assert completion.add(half) == ""
    assert completion.add(letter) == "\N{REPLACEMENT CHARACTER}x"
    assert completion.add(half) == ""
    assert completion.finish() == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("written", "stop", "expected"),
    [
        ("one. two. three", (".",), "one"),
        ("one END two", ("END",), "one "),
        ("an EN and an END", ("END",), "an EN and an "),
        ("both X and END", ("END", "X"), "both "),
        ("ENEND", ("END",), "EN"),
        ("never", ("END",), "never"),
        ("nearly EN", ("END",), "nearly EN"),
    ],
)
def test_a_stop_string_cuts_the_text_before_it(written: str, stop: tuple[str, ...], expected: str) -> None:
    assert "".join(pieces(written, stop=stop)) == expected


def test_the_end_token_ends_the_text() -> None:
    completion = Completion(TOKENIZER)
    assert completion.add(TOKENIZER.encode("a")[0]) == "a"
    assert completion.add(TOKENIZER.end) == ""
    assert completion.done


class CountingDecoder:
    """A decoder of tokenizers that counts the tokens it is given."""

    def __init__(self) -> None:
        self.tokens = 0

    def decode_chain(self, tokens: list[str]) -> list[str]:
        self.tokens += len(tokens)
        return tokens


@pytest.mark.parametrize("stop", [(), ("END", "abcabd")])
def test_a_token_late_in_a_text_costs_as_much_to_decode_as_an_early_one(stop: tuple[str, ...]) -> None:
    inner, counter = tokenizers.Tokenizer.from_str(TOKENIZER.to_json()), CountingDecoder()
    inner.decoder = tokenizers.decoders.Decoder.custom(counter)
    completion, decoded = Completion(Tokenizer(inner), stop=stop), []
    for _ in range(20):
        before = counter.tokens
        for token in TOKENIZER.encode("abc" * 50):
            completion.add(token)
        decoded.append(counter.tokens - before)
    assert decoded[-1] <= decoded[1] <= 4 * 150


@pytest.mark.parametrize("made", [bytes_tokenizer, lambda: train_bpe(["größer als 🙂 € 日本語. " * 40], 400)])
@pytest.mark.parametrize("seed", range(5))
def test_random_tokens_come_as_the_text_they_decode_to_together(made: Callable[[], Tokenizer], seed: int) -> None:
    tokenizer = made()
    tokens = torch.randint(tokenizer.vocab_size, (400,), generator=torch.Generator().manual_seed(seed)).tolist()
    tokens = [token for token in tokens if token != tokenizer.end]
    completion = Completion(tokenizer)
    shown = "".join(completion.add(token) for token in tokens) + completion.finish()
    assert shown == tokenizer.decode(tokens)


@pytest.mark.parametrize(
    "options",
    [{"temperature": -0.1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_tokens": -1}, {"stop": ("",)}],
)
def test_values_that_mean_nothing_are_refused(options: dict[str, object]) -> None:
    [name] = options
    with pytest.raises(ValueError, match=name):
        Sampling(**options)  # type: ignore[arg-type]


def test_several_prompts_together_are_continued_as_each_alone(tmp_path: Path) -> None:
    module = model(text(tmp_path), dropout=0.0).eval().model
    greedy = Sampling(max_tokens=12, temperature=0)
    prompts = ["the state", "", "a"]
    alone = ["".join(stream_completion(module, TOKENIZER, prompt, greedy)) for prompt in prompts]
    assert complete(module, TOKENIZER, prompts, greedy) == alone


def test_a_seed_gives_the_same_text_and_leaves_the_random_numbers_of_training_alone(tmp_path: Path) -> None:
    module = model(text(tmp_path)).eval().model
    sampling = Sampling(max_tokens=12, temperature=1.0, seed=3)
    before = torch.get_rng_state()
    first, second = (complete(module, TOKENIZER, ["the"], sampling) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)
