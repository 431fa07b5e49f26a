"""A block of the language model, and what it is built from."""

import warnings
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from mixers.checks import UsageError
from mixers.mixer import Mixer
from mixers.model.packed import Documents, mix_documents
from mixers.parts.feed_forward import MATRICES, FeedForwardKind
from mixers.registry import get

State = tuple[Any, ...]
MixerFactory = Callable[[int], Mixer[Any]]

BLOCK_PARAMETERS = 12  # times dim²: a Transformer's block, and the paper's rule (arXiv:2307.08621, section 3.1)
WIDTH_MULTIPLE = 8  # feed-forward widths are rounded to it, which matrix units want

NormKind = Literal["layer", "rms"]
NORMS: dict[NormKind, Callable[[int], nn.Module]] = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}


class Block(nn.Module):
    """Mixes along the sequence, then within each token; both on top of the residual stream.

    Y = X + mixer(norm(X)), X' = Y + ffn(norm(Y)).

    Args:
        mixer: Mixes along the sequence.
        ffn: Works within each token.
        norm: `layer` or `rms`.
        dropout: Probability of dropping each element that is added to the stream.
    """

    def __init__(self, mixer: Mixer[Any], ffn: nn.Module, *, norm: NormKind = "layer", dropout: float = 0.0):
        super().__init__()
        self.mixer_norm, self.mixer = NORMS[norm](mixer.dim), mixer
        self.ffn_norm, self.ffn = NORMS[norm](mixer.dim), ffn
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, documents: Documents | None = None) -> Tensor:
        """The outputs for a whole sequence, or for rows of documents that are mixed as if alone."""
        normed = self.mixer_norm(x)
        y = self.mixer(normed) if documents is None else mix_documents(self.mixer, normed, documents)
        return self._add(x, y)

    def initial_state(self, batch: int) -> State:
        return self.mixer.initial_state(batch)

    def prepare_decoding(self, state: State, tokens: int) -> State:
        return self.mixer.prepare_decoding(state, tokens)

    def extend(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self.mixer.extend(self.mixer_norm(x), state)
        return self._add(x, y), state

    def decode(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self.mixer.decode(self.mixer_norm(x), state)
        return self._add(x, y), state

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        x = x + self.dropout(y)
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


def matched_width(mixer: Mixer[Any], ffn: FeedForwardKind) -> int:
    """The feed-forward width with which a block of this mixer has 12·dim² parameters.

    A mixer that has more by itself, as Hyena's filters at a small dim, gets the smallest one and a warning.
    """
    taken, budget = sum(parameter.numel() for parameter in mixer.parameters()), BLOCK_PARAMETERS * mixer.dim**2
    width = round((budget - taken) / (MATRICES[ffn] * mixer.dim) / WIDTH_MULTIPLE) * WIDTH_MULTIPLE
    if width < WIDTH_MULTIPLE:
        warnings.warn(
            f"{type(mixer).__name__} alone has {taken:,} parameters, more than the 12·dim² = {budget:,} of a block at "
            f"dim={mixer.dim}, so this model is larger than others of its width; ffn_dim sets the feed-forward width.",
            stacklevel=3,
        )
    return max(width, WIDTH_MULTIPLE)


def mixer_factory(mixer: MixerFactory | str) -> MixerFactory:
    """What builds a mixer of that name; anything else than a name or a built mixer is returned as it is."""
    if isinstance(mixer, nn.Module):
        name = type(mixer).__name__
        raise UsageError(
            f"mixer is a {name}, built already: write {name} or partial({name}, ...), which builds one a block."
        )
    return get(mixer) if isinstance(mixer, str) else mixer
