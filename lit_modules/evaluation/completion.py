"""Completions of prompts: text in, text out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lit_modules.data.tokenizer import Tokenizer
from lit_modules.evaluation.saved_state import ReadText
from mixers import LanguageModel
from mixers.checks import UsageError, at_least
from mixers.model.generate import check_sampling, generate
from mixers.model.states import select_rows


@dataclass(frozen=True)
class Sampling:
    """How tokens are sampled, and where a text ends; raises ValueError for a value out of range."""

    max_tokens: int = 200  # most tokens to add to a text
    temperature: float = 0.8  # 0 always takes the likeliest token, 1 draws as the model predicts
    top_k: int | None = None  # draw from this many of the likeliest tokens only
    top_p: float | None = None  # draw from the likeliest tokens that together have this probability only
    seed: int | None = None
    stop: tuple[str, ...] = ()  # strings that end a text just before them

    def __post_init__(self) -> None:
        at_least(0, max_tokens=self.max_tokens)
        check_sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed)
        if "" in self.stop:
            raise UsageError("stop='' would end every text at once: leave it out.")


class Completion:
    """Turns tokens into text as they come, holding back what later tokens may change or a stop string cut off."""

    def __init__(self, tokenizer: Tokenizer, *, stop: Sequence[str] = ()):
        self.tokenizer, self.stop, self.done = tokenizer, stop, False
        self._decode = tokenizer.decode_stream()
        self._undecoded: list[int] = []  # tokens of a character that lacks bytes
        self._held_back = ""  # text that may turn out to be the beginning of a stop string

    def add(self, token: int) -> str:
        """The text that is certain now and was not before; nothing once the text has ended."""
        if self.done or token == self.tokenizer.end:
            return self.finish()
        self._undecoded.append(token)
        if (decoded := self._decode(token)) is None:
            return ""
        self._undecoded.clear()
        text = self._held_back + decoded
        if stops := [start for stop in self.stop if (start := text.find(stop)) >= 0]:
            self.done = True
            return text[: min(stops)]
        begun = (n for stop in self.stop for n in range(1, len(stop)) if text.endswith(stop[:n]))
        certain = len(text) - max(begun, default=0)
        self._held_back = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """The rest of the text, when no more tokens come."""
        if self.done:
            return ""
        self.done = True
        return self._held_back + self.tokenizer.decode(self._undecoded)


def stream_completion(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str, sampling: Sampling, before: ReadText | None = None
) -> Iterator[str]:
    """Continues a prompt, piece by piece as tokens come; an empty prompt starts a new text.

    Args:
        model: Writes the text.
        tokenizer: Its tokenizer.
        prompt: The text to continue.
        sampling: How to continue it.
        before: A text that the prompt follows.
    """
    return (piece for [piece] in _pieces(model, tokenizer, [prompt], sampling, before))


def complete(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    sampling: Sampling,
    before: ReadText | None = None,
) -> list[str]:
    """Continues several prompts of any lengths together, and returns the continuations; each may follow one text."""
    return ["".join(pieces) for pieces in zip(*_pieces(model, tokenizer, prompts, sampling, before), strict=True)]


def _pieces(
    model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str], sampling: Sampling, before: ReadText | None
) -> Iterator[list[str]]:
    """What is added to each text by one token after another."""
    device = next(model.parameters()).device
    first = [before.last] if before else []
    encoded = [first + tokenizer.encode(prompt) or [tokenizer.end] for prompt in prompts]
    if any(ids == [tokenizer.end] for ids in encoded) and tokenizer.end >= model.embed.num_embeddings:
        raise UsageError(
            "prompt='' is empty, and this model's ids are no text that begins: write some, such as '1 2 0'."
        )
    ids = [torch.tensor(one, device=device) for one in encoded]
    states = select_rows(before.states, torch.zeros(len(prompts), dtype=torch.long)) if before else None
    completions = [Completion(tokenizer, stop=sampling.stop) for _ in prompts]
    options = {name: getattr(sampling, name) for name in ("temperature", "top_k", "top_p", "seed")}
    tokens = generate(model, ids, states=states, **options)
    for _ in range(sampling.max_tokens):
        yield [completion.add(token) for completion, token in zip(completions, next(tokens).tolist(), strict=True)]
        if all(completion.done for completion in completions):
            return
    yield [completion.finish() for completion in completions]
