"""The language model: embedding, blocks, norm and head."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mixers.checks import UsageError, at_least, fits_memory, one_of
from mixers.model.block import (
    BLOCK_PARAMETERS,
    NORMS,
    Block,
    MixerFactory,
    NormKind,
    State,
    matched_width,
)
from mixers.model.generate import generate
from mixers.model.hybrid import block_mixers
from mixers.model.loss import IGNORED, negative_log_likelihood, negative_log_likelihoods, scores
from mixers.model.packed import find_documents
from mixers.model.states import where_rows
from mixers.ops.linear import linear
from mixers.parts.feed_forward import MATRICES, FeedForward, FeedForwardKind
from mixers.parts.linear import Linear
from mixers.retention import Retention

States = tuple[State, ...]  # one for each block


class LanguageModel(nn.Module):
    """Predicts the next token from those before it: embedding, blocks, norm, head.

    Extending over any split of a text gives what `forward` gives over the whole, as with its mixers.

    Initialisation is that of the RetNet authors' code: embeddings are normal with standard deviation dim^(-1/2),
    feed-forward matrices have torch's default, and mixers initialise themselves. (The paper's text says "following
    DeepNet", without a formula.)

    Args:
        mixer: Builds the mixer of a block from the width: a class, `partial(Retention, num_heads=8)`, or from Python
            also a name such as "retention".
        pattern: Hybrids: the mixers of the first blocks, such as [retention,retention,retention,attention], repeated
            over the depth. It takes the place of `mixer`, so only one of the two can be given.
        overrides: Other mixers for single blocks, by index from 0, instead of `mixer` or that of the pattern.
        vocab_size: Number of distinct tokens.
        dim: Width of the residual stream.
        depth: Number of blocks.
        ffn: Feed-forward layer: `gelu` has two matrices, `swiglu` three.
        ffn_dim: Its width. None solves for it so that the mixer and the feed-forward layer of each block have
            12·dim² parameters, whatever the mixer.
        norm: `layer` or `rms`, before each mixer, each feed-forward layer and the head.
        tie_embeddings: Whether the head's matrix is that of the embedding.
        dropout: Probability of dropping each element of the embedding and of what blocks add to the stream.
        recompute: Whether training keeps only what enters each block, and computes the rest of it again when it takes
            gradients (arXiv:1604.06174): about a third slower, and most of the activations' memory saved.
        start_token: Id that begins a document: documents of a row are mixed as if alone. None mixes rows as a whole.

    Raises:
        ValueError: an option is out of range.
    """

    changeable_options = frozenset({"dropout", "recompute"})  # that may change when a run is resumed
    captures_graphs = True  # whether `Decoder` may capture decoding as a CUDA graph

    def __init__(
        self,
        mixer: MixerFactory = Retention,
        *,
        pattern: list[MixerFactory] | None = None,
        overrides: dict[int, MixerFactory] | None = None,
        vocab_size: int,
        dim: int = 1024,
        depth: int = 16,
        ffn: FeedForwardKind = "gelu",
        ffn_dim: int | None = None,
        norm: NormKind = "layer",
        tie_embeddings: bool = True,
        dropout: float = 0.0,
        recompute: bool = False,
        start_token: int | None = None,
    ):
        super().__init__()
        at_least(1, vocab_size=vocab_size, dim=dim, depth=depth, ffn_dim=1 if ffn_dim is None else ffn_dim)
        one_of(MATRICES, ffn=ffn)
        one_of(NORMS, norm=norm)
        at_least(0, dropout=dropout)
        if not dropout < 1:
            raise UsageError(f"dropout={dropout} is out of range: write a number from 0 to below 1.")
        if start_token is not None and not 0 <= start_token < vocab_size:
            raise UsageError(f"start_token={start_token} is out of range: write an id from 0 to {vocab_size - 1}.")
        least = vocab_size * dim + depth * (
            BLOCK_PARAMETERS * dim**2 if ffn_dim is None else MATRICES[ffn] * dim * ffn_dim
        )
        what = f"a model of dim={dim}, depth={depth}, vocab_size={vocab_size}, ffn_dim={ffn_dim}"
        fits_memory(least * torch.get_default_dtype().itemsize, what)
        factories = block_mixers(mixer, pattern, overrides, depth=depth, default=Retention)
        self.recompute, self.start_token = recompute, start_token
        self.embed = nn.Embedding(vocab_size, dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks: list[Block] = nn.ModuleList()  # type: ignore[assignment]
        for layer, build in enumerate(factories):
            built = build(dim)
            built.init_weights(layer, depth)
            width = matched_width(built, ffn) if ffn_dim is None else ffn_dim
            self.blocks.append(Block(built, FeedForward(dim, width, kind=ffn), norm=norm, dropout=dropout))
        self.norm = NORMS[norm](dim)
        self.head = None if tie_embeddings else Linear(dim, vocab_size, bias=False)
        for matrix in dict.fromkeys((self.embed.weight, self._output_weight)):  # one if they are tied
            nn.init.normal_(matrix, std=dim**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (batch, time, vocabulary) of the token after each of ids (batch, time)."""
        return linear(self._features(ids), self._output_weight, None)

    def loss(self, ids: Tensor, targets: Tensor, *, sparse: bool | None = None) -> Tensor:
        """Mean negative log-likelihood of targets (batch, time), in nats per token; those of -100 do not count.

        With `sparse` their logits are not computed, for which a GPU has to wait until it knows where they are; None
        leaves them out on a CPU.
        """
        total = negative_log_likelihood(self._features(ids), self._output_weight, targets, sparse=sparse)
        return total / (targets != IGNORED).sum().clamp(min=1)

    @torch.no_grad()
    def losses(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood of each of targets (batch, time), in nats; those that are -100 have 0."""
        return negative_log_likelihoods(self._features(ids), self._output_weight, targets)

    @torch.no_grad()
    def scores(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """`losses`, and whether each of targets is the likeliest token, (batch, time) each."""
        return scores(self._features(ids), self._output_weight, targets)

    generate = generate

    def initial_state(self, batch: int) -> States:
        """The states of all mixers before the first token."""
        return self._initial_state(batch)

    def extend(self, ids: Tensor, states: States) -> tuple[Tensor, States]:
        """Logits for the next tokens, any number of them, and the states after them."""
        features, states = self._extend(ids, states)
        return linear(features, self._output_weight, None), states

    def next_logits(self, ids: Tensor, states: States) -> tuple[Tensor, States]:
        """`extend`, with the logits (batch, vocabulary) after the last token only."""
        features, states = self._extend(ids, states)
        return linear(features[:, -1], self._output_weight, None), states

    def prepare_decoding(self, states: States, tokens: int) -> States:
        """The states with room for `decode` to add `tokens` tokens; with `tokens=0` states without such room."""
        pairs = zip(self.blocks, states, strict=True)
        return tuple(block.prepare_decoding(state, tokens) for block, state in pairs)

    def decode(self, ids: Tensor, states: States) -> tuple[Tensor, States]:
        """`extend` by one token (batch, 1), which may write into `states`, made by `prepare_decoding`.

        What `start_token` asks for is left to the caller, `Decoder`, since looking at ids would make a GPU wait.
        """
        features, states = self._advance("decode", ids, states)
        return linear(features, self._output_weight, None), states

    def restart(self, states: States, rows: Tensor) -> States:
        """The states with those rows (batch,) that are true as they were before their first token."""
        return self._restart(states, rows)

    def parameter_counts(self) -> dict[str, int]:
        """Numbers of parameters by purpose: mixer, feed_forward, embedding (with the head) and norm."""
        purposes = {".mixer.": "mixer", ".ffn.": "feed_forward", "norm": "norm", "": "embedding"}  # by part of a name
        counts = dict.fromkeys(("mixer", "feed_forward", "embedding", "norm"), 0)
        for name, parameter in self.named_parameters():
            counts[next(purpose for part, purpose in purposes.items() if part in name)] += parameter.numel()
        return counts

    # What follows is called within the public methods, each of which a sharded model wraps: none of them calls another.

    def _initial_state(self, batch: int) -> States:
        return tuple(block.initial_state(batch) for block in self.blocks)

    def _restart(self, states: States, rows: Tensor) -> States:
        if not rows.any():
            return states
        initial = self._initial_state(len(rows))
        return initial if rows.all() else where_rows(rows, initial, states)

    def _features(self, ids: Tensor) -> Tensor:
        x = self.dropout(self.embed(ids))
        documents = None if self.start_token is None else find_documents(ids == self.start_token)
        again = self.recompute and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, documents, use_reentrant=False) if again else block(x, documents)
        return self.norm(x)

    def _extend(self, ids: Tensor, states: States) -> tuple[Tensor, States]:
        if self.start_token is None:
            return self._advance("extend", ids, states)
        columns, features = (ids == self.start_token).any(0).nonzero().flatten(), []  # where a document begins in a row
        for piece in ids.tensor_split(columns.tolist(), 1):
            states = self._restart(states, (piece[:, :1] == self.start_token).any(1))
            x, states = self._advance("extend", piece, states)
            features.append(x)
        return torch.cat(features, 1), states

    def _advance(self, step: Literal["extend", "decode"], ids: Tensor, states: States) -> tuple[Tensor, States]:
        x, after = self.dropout(self.embed(ids)), []
        for block, state in zip(self.blocks, states, strict=True):
            x, state = getattr(block, step)(x, state)
            after.append(state)
        return self.norm(x), tuple(after)

    @property
    def _output_weight(self) -> Tensor:
        return self.embed.weight if self.head is None else self.head.weight
