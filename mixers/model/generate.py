"""Generation, one token at a time."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mixers.checks import UsageError, at_least, between
from mixers.model.decoder import Decoder
from mixers.model.states import concat_states, select_rows

LEAST_TEMPERATURE = 1e-6  # logits divided by less are not finite in float32
LARGEST_SEED = 2**64 - 1  # of torch's generators


def generate(
    model: Any,
    prompts: Sequence[Tensor],
    *,
    states: tuple[Any, ...] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> Iterator[Tensor]:
    """Continues prompts without end, yielding the next token of each, (batch,); `itertools.islice` bounds it.

    Args:
        model: A `LanguageModel`, or what has its `initial_state`, `next_logits`, `prepare_decoding` and `decode`.
        prompts: Token ids, (time,) each, at least one; lengths may differ.
        states: What the model remembers of the text before each prompt, a row for each; None where there is none.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Draw only from so many of the likeliest tokens.
        top_p: Draw only from the likeliest tokens that together have at least this probability (arXiv:1904.09751).
        seed: Makes the draws repeatable, whatever else uses torch's generator. None takes torch's generator.

    Raises:
        ValueError: a prompt is empty, or an option is out of range.
    """
    check_sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    if not prompts or any(len(prompt) == 0 for prompt in prompts):
        raise UsageError("prompts must have at least one token each.")

    @torch.inference_mode()
    def tokens() -> Iterator[Tensor]:
        generator = None if seed is None else torch.Generator(prompts[0].device).manual_seed(seed)
        logits, after = prefill(model, prompts, states)
        decoder = Decoder(model, after)
        while True:
            if temperature == 0:
                token = logits.argmax(-1)
            else:
                token = draw(logits.float() / temperature, top_k=top_k, top_p=top_p, generator=generator)
            yield token
            logits = decoder(token)

    return tokens()


def check_sampling(*, temperature: float, top_k: int | None, top_p: float | None, seed: int | None) -> None:
    """Raises ValueError for an option out of range."""
    if not (temperature == 0 or LEAST_TEMPERATURE <= temperature < torch.inf):
        raise UsageError(
            f"temperature={temperature} is out of range: write 0 for the likeliest token, or {LEAST_TEMPERATURE} to 1."
        )
    at_least(1, top_k=1 if top_k is None else top_k)
    if seed is not None:
        between(0, LARGEST_SEED, seed=seed)
    if top_p is not None and not 0 < top_p <= 1:
        raise UsageError(f"top_p={top_p} is out of range: write a number above 0 and up to 1.")


@torch.inference_mode()
def prefill(
    model: Any, prompts: Sequence[Tensor], states: tuple[Any, ...] | None = None
) -> tuple[Tensor, tuple[Any, ...]]:
    """The logits after each prompt, (batch, vocabulary), and the states there; `states` are those before the prompts.

    All prompts are read together, a piece at a time; a row is taken out where its prompt ends, so none is padded.
    """
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    states = model.initial_state(len(prompts)) if states is None else select_rows(states, torch.tensor(order))
    rows, finished, read = order, [], 0
    for end in sorted({len(prompt) for prompt in prompts}):
        logits, states = model.next_logits(torch.stack([prompts[row][read:end] for row in rows]), states)
        ended = sum(len(prompts[row]) == end for row in rows)
        finished.append((logits[:ended], select_rows(states, slice(ended))))
        rows, states, read = rows[ended:], select_rows(states, slice(ended, None)), end
    back = torch.tensor(order, device=prompts[0].device).argsort()
    all_logits, all_states = zip(*finished, strict=True)
    return torch.cat(all_logits)[back], select_rows(concat_states(all_states), back)


def draw(logits: Tensor, *, top_k: int | None, top_p: float | None, generator: torch.Generator | None) -> Tensor:
    """One token for each row of logits (batch, vocabulary)."""
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None and top_p < 1:
        probability, token = logits.softmax(-1).sort(descending=True)
        beyond = probability.cumsum(-1) - probability >= top_p  # what comes before it is enough already
        beyond[:, 0] = False  # in float32 a tiny top_p is 0
        logits = logits.masked_fill(beyond.scatter(1, token, beyond), -torch.inf)
    return logits.softmax(-1).multinomial(1, generator=generator).squeeze(1)
