"""Decoding in fixed memory: the same tensors and the same work for every token, which a CUDA graph can replay."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mixers.checks import UsageError
from mixers.mixer import Mixer
from mixers.model.language_model import LanguageModel

WARM_UP = 3  # runs on a stream of their own before a graph is captured, as torch asks for


class Decoder:
    """Continues states by one token at a time, like `extend`, but keeps them to itself and writes them in place.

    On a CUDA device the work is captured as a graph at the first token and replayed from then on, so that Python no
    longer holds up the GPU. Elsewhere the same steps run without one.

    Args:
        model: A language model whose mixers all have states of constant size.
        states: Where to go on from; they are copied.

    Raises:
        ValueError: a mixer's state grows.
    """

    def __init__(self, model: LanguageModel, states: tuple[Any, ...]):
        growing = {type(m).__name__ for m in model.modules() if isinstance(m, Mixer) and not m.constant_state}
        if growing:
            raise UsageError(f"Decoder needs states of constant size; that of {', '.join(sorted(growing))} grows.")
        self._model = model
        self._graph: torch.cuda.CUDAGraph | None = None
        self._states: tuple[Any, ...] = pytree.tree_map(torch.clone, states)
        self._token: Tensor | None = None
        self._logits: Tensor | None = None

    @property
    def states(self) -> tuple[Any, ...]:
        """A copy of the states after the tokens so far."""
        copied: tuple[Any, ...] = pytree.tree_map(torch.clone, self._states)
        return copied

    @torch.no_grad()
    def __call__(self, token: Tensor) -> Tensor:
        """The logits (batch, vocabulary) after one more token of each row (batch,); the next call overwrites them."""
        if self._token is None:
            self._token = token.clone()
            if token.is_cuda:
                self._capture()
        self._token.copy_(token)
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()
        assert self._logits is not None
        return self._logits

    def _step(self) -> None:
        assert self._token is not None
        logits, after = self._model.next_logits(self._token[:, None], self._states)
        self._logits = logits.clone() if self._logits is None else self._logits.copy_(logits)
        pytree.tree_map(lambda mine, new: mine.copy_(new), self._states, after)

    def _capture(self) -> None:
        before, aside = self.states, torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        self._graph = graph
        pytree.tree_map(lambda mine, old: mine.copy_(old), self._states, before)
