"""Checkpoints as models of EleutherAI's lm-evaluation-harness."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import Collator
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from lit_modules.evaluation.completion import Sampling, complete
from lit_modules.evaluation.continuations import Likelihood, likelihoods
from lit_modules.training import checkpoint
from lit_modules.training.precision import device_kind
from mixers.checks import at_least


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
        """How likely whole texts are after an end-of-text token, each token scored once."""
        texts = []
        for request in requests:
            tokens = self.tok_encode(request.args[0])
            windows = get_rolling_token_windows(tokens, self.eot_token_id, self.max_length or len(tokens) or 1, 1)
            texts.append([(None, *make_disjoint_window(window)) for window in windows])
        found = iter(self._loglikelihood_tokens(list(chain.from_iterable(texts))))
        return [sum(next(found).log for _ in windows) for windows in texts]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations of texts, each with the options of its request."""
        prompts = [request.args for request in requests]
        collator = Collator(prompts, sort_fn=lambda prompt: len(prompt[0]), group_by="gen_kwargs")
        written: list[str] = []
        for batch in collator.get_batched(n=self.batch_size):
            texts, options = zip(*batch, strict=True)
            written += complete(self.model, self._tokens, texts, _sampling(options[0]))
        return collator.get_original(written)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False
    ) -> list[Likelihood]:
        pairs = []
        for _, context, continuation in requests:
            context = context or [self.eot_token_id]
            if self.max_length is not None:  # the last token of the continuation is not read
                context = context[-max(1, self.max_length + 1 - len(continuation)) :]
            pairs.append((context, continuation))
        return likelihoods(self.model, pairs, batch_size=self.batch_size)


def _sampling(options: dict[str, Any]) -> Sampling:
    """How a request wants its text written: by the likeliest tokens, unless it asks to sample."""
    until = options.get("until") or []
    return Sampling(
        max_tokens=options.get("max_gen_toks", 256),  # by default as in the harness's own models
        temperature=options.get("temperature", 1.0) if options.get("do_sample") else 0.0,
        top_k=options.get("top_k"),
        top_p=options.get("top_p"),
        stop=(until,) if isinstance(until, str) else tuple(until),
    )
