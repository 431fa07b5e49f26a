"""Checkpoints as models of EleutherAI's lm-evaluation-harness."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from lit_modules.evaluation.completion import Sampling, complete
from lit_modules.evaluation.continuations import likelihoods
from lit_modules.training import checkpoint
from lit_modules.training.precision import device_kind
from mixers.checks import at_least

MAX_TOKENS = 256  # of a text for which a task names no number, as in the harness's own models


class HarnessLM(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """A checkpoint as a model of the harness, for `lm_eval.simple_evaluate(model=HarnessLM("last"), tasks=[...])`.

    Texts are read whole, however long they are, unless `max_length` is given: then only the tokens before a
    continuation that fit are read, and a text that is scored by itself is read in windows.

    Args:
        ckpt_path: Checkpoint of the model; `last` is the newest of all runs.
        root: The folder of all runs.
        device: The torch device to run on; by default a GPU if there is one.
        batch_size: Requests at once.
        max_length: Most tokens that are read at once.

    Raises:
        ValueError: If a number is out of range, or the file is not one of our checkpoints.
    """

    def __init__(
        self,
        ckpt_path: str = "last",
        *,
        root: str = "runs",
        device: str | None = None,
        batch_size: int = 8,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        at_least(1, batch_size=batch_size, max_length=1 if max_length is None else max_length)
        self.model, self._tokens = checkpoint.load(ckpt_path, root=root)
        self._device = torch.device(device or device_kind("auto"))
        self.model.to(self._device)
        self.batch_size, self.max_length = batch_size, max_length

    @property
    def eot_token_id(self) -> int:
        return self._tokens.end

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return self._tokens.encode(string)  # there is nothing to add

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """How likely whole texts are after an end-of-text token."""
        texts = [self.tok_encode(request.args[0]) for request in requests]
        windows = [self._windows(tokens) for tokens in texts]
        found = iter(self._likelihoods([pair for pairs in windows for pair in pairs]))
        return [sum(next(found)[0] for _ in pairs) for pairs in windows]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations of texts, each with the options of its request."""
        texts: dict[int, str] = {}
        places = sorted(range(len(requests)), key=lambda place: str(_sampling(requests[place].args[1])))
        for _, group in groupby(places, key=lambda place: _sampling(requests[place].args[1])):
            alike = list(group)
            for start in range(0, len(alike), self.batch_size):
                batch = alike[start : start + self.batch_size]
                prompts = [requests[place].args[0] for place in batch]
                options = _sampling(requests[batch[0]].args[1])
                texts |= zip(batch, complete(self.model, self._tokens, prompts, options), strict=True)
        return [texts[place] for place in range(len(requests))]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        return self._likelihoods([(context, continuation) for _, context, continuation in requests])

    def _likelihoods(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        fitting = [(self._fitting(context or [self.eot_token_id], after), after) for context, after in pairs]
        found = likelihoods(self.model, fitting, batch_size=self.batch_size)
        return [(each.log, each.greedy) for each in found]

    def _fitting(self, context: list[int], continuation: list[int]) -> list[int]:
        """The end of a context that can be read; the last token of the continuation is not."""
        if self.max_length is None:
            return context
        return context[-max(1, self.max_length + 1 - len(continuation)) :]

    def _windows(self, tokens: list[int]) -> list[tuple[list[int], list[int]]]:
        """A text as contexts and what follows them, each token once."""
        if not tokens:
            return []
        longest = self.max_length or len(tokens)
        windows = get_rolling_token_windows(tokens, self.prefix_token_id, longest, context_len=1)
        return [make_disjoint_window(window) for window in windows]


def _sampling(options: dict[str, Any]) -> Sampling:
    """How a request wants its text written: by the likeliest tokens, unless it asks to sample."""
    until = options.get("until") or []
    return Sampling(
        max_tokens=options.get("max_gen_toks", MAX_TOKENS),
        temperature=options.get("temperature", 1.0) if options.get("do_sample") else 0.0,
        top_k=options.get("top_k"),
        top_p=options.get("top_p"),
        stop=(until,) if isinstance(until, str) else tuple(until),
    )
