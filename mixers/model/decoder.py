"""Decoding token by token, in memory that is written in place and, on CUDA, by a graph that is replayed."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mixers.mixer import Mixer

# Tokens that a growing state gets room for at a time: more take memory and a little time at each token, with fewer the
# past is copied, and on CUDA a graph captured, more often.
ROOM = {"cpu": 128}
ROOM_ELSEWHERE = 512
WARM_UP = 3  # tokens decoded before a graph is captured, as torch asks for


class Decodable(Protocol):
    """What `Decoder` needs of a mixer or a language model."""

    def prepare_decoding(self, state: Any, tokens: int) -> Any: ...

    def decode(self, x: Tensor, state: Any) -> tuple[Tensor, Any]: ...


class Decoder:
    """Continues a state by one token at a time: what `extend` gives, in less time.

    The state is the decoder's own. Where it grows, it gets room for many tokens at once. On a CUDA device the work is
    captured as a graph after a few tokens and replayed from then on, so that Python no longer holds up the GPU; it is
    captured again when the state gets more room or autocast is switched on or off.

    Args:
        model: A mixer or a language model.
        state: Where to go on from, as `initial_state` and `extend` return it; it is left as it was.
    """

    def __init__(self, model: Decodable, state: Any):
        self._model, self._state = model, state
        modules = model.modules() if isinstance(model, nn.Module) else ()
        self._grows = any(isinstance(module, Mixer) and not module.constant_state for module in modules)
        self._captures: bool = getattr(model, "captures_graphs", True)
        self._start_token: int | None = getattr(model, "start_token", None)
        self._room = 0  # tokens that the state has room for; if it does not grow, 1 once it is prepared
        self._warm = 0  # tokens decoded since it was prepared
        self._graph: _Graph | None = None

    @property
    @torch.no_grad()
    def state(self) -> Any:
        """A copy of the state after the tokens so far, for `extend`."""
        return pytree.tree_map(torch.clone, self._model.prepare_decoding(self._state, 0))

    @torch.inference_mode()  # always: what is made within it cannot be written outside of it
    def __call__(self, x: Tensor) -> Tensor:
        """The output for one more token of each row; on CUDA the next call overwrites it.

        Args:
            x: The token's id (batch,) for a language model, its input (batch, dim) for a mixer.

        Returns:
            Logits (batch, vocabulary) for a language model, the output (batch, dim) for a mixer.
        """
        if self._start_token is not None and (begins := x == self._start_token).any():
            self._state = self._model.restart(self._model.prepare_decoding(self._state, 0), begins)  # type: ignore[attr-defined]
            self._room = 0
        if self._room == 0:
            self._room = ROOM.get(x.device.type, ROOM_ELSEWHERE) if self._grows else 1
            self._state = self._model.prepare_decoding(self._state, self._room)
            self._warm, self._graph = 0, None
        self._room -= self._grows
        return self._step(x.unsqueeze(1)).squeeze(1)

    def _step(self, x: Tensor) -> Tensor:
        if not (x.is_cuda and self._captures) or self._warm < WARM_UP:
            self._warm += 1
            y, self._state = self._model.decode(x, self._state)
            return y
        if self._graph is None or self._graph.autocast != _autocast():
            self._graph = _Graph(self._model, x, self._state)
            self._state = self._graph.state
        return self._graph(x)


class _Graph:
    """A captured step: its input, its state and its output lie in memory that stays the same."""

    def __init__(self, model: Decodable, x: Tensor, state: Any):
        self.autocast = _autocast()
        self.x, self.state = x.clone(), pytree.tree_map(torch.clone, state)
        enabled, dtype = self.autocast
        self.graph = torch.cuda.CUDAGraph()
        # Weights that autocast has cached in half precision would stay in the graph as they are now.
        uncached = torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False)
        with torch.cuda.device(x.device):
            stream = torch.cuda.Stream()  # torch's own belongs to the device of the first capture
            with uncached, torch.cuda.graph(self.graph, stream=stream):
                self.y = decode_in_place(model, self.x, self.state)

    def __call__(self, x: Tensor) -> Tensor:
        self.x.copy_(x)
        with torch.cuda.device(x.device):
            self.graph.replay()
        return self.y


def decode_in_place(model: Decodable, x: Tensor, state: Any) -> Tensor:
    """The output of `decode`, whose state is written over the one before."""
    y, after = model.decode(x, state)
    pytree.tree_map(lambda mine, new: mine.copy_(new), state, after)
    return y


def _autocast() -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
