"""The BPE of a corpus: trained on a fair share of each of its parts, and kept."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from lit_modules.data.cache import built_once, replace_text, writing
from lit_modules.data.corpora import Corpus, Part
from lit_modules.data.tokenizer import Tokenizer, train_bpe

TRAINING_TEXT = 2**28  # characters: more text takes minutes and memory, and hardly changes which pairs are frequent
BAR_DELAY = 2  # seconds: a progress bar appears only if training takes longer
TICK = 1  # seconds between updates of the bar while pairs are merged


def cached_bpe(path: Path, documents: Callable[[], Iterable[str]], vocab_size: int) -> Tokenizer:
    """The BPE at `path`, which is trained on `documents` first if it is not there or damaged."""

    def train(path: Path) -> Tokenizer:
        with _bar() as bar:
            tokenizer = train_bpe(_counted(documents(), bar), vocab_size)
        with writing(path.parent):
            replace_text(path, tokenizer.to_json())
        return tokenizer

    return built_once(path, lambda path: Tokenizer.from_json(path.read_text(encoding="utf-8")), train)


def training_text(corpus: Corpus) -> Iterator[str]:
    """The training documents of a corpus, or of a large one TRAINING_TEXT characters: the beginning of every part.

    Each part gives in proportion to its size, or equally much if a size is not known.

    Raises:
        ValueError: If the corpus has no text for training.
    """
    corpus.documents("train")  # raises if there are none
    for part, share in zip(corpus.parts, _shares(corpus.parts), strict=True):
        left = share
        for split, document in part.read():
            if left <= 0:
                break
            if split == "train":
                yield document[:left]
                left -= len(document)


def _shares(parts: Sequence[Part]) -> list[int]:
    """How many characters each part gives at most."""
    sizes = [part.size for part in parts] if all(part.size for part in parts) else [1] * len(parts)
    return [-(-TRAINING_TEXT * size // sum(sizes)) for size in sizes]


def _counted(documents: Iterable[str], bar: "tqdm[None]") -> Iterator[str]:
    for document in documents:
        yield document
        bar.update(len(document))


@contextmanager
def _bar() -> "Iterator[tqdm[None]]":
    """A bar of characters that goes on showing the time after the last, while the library is busy with them."""
    done = threading.Event()
    with tqdm(
        desc="training the tokenizer", unit=" characters", unit_scale=True, delay=BAR_DELAY, miniters=0
    ) as bar:  # an update by nothing is one too
        ticks = threading.Thread(target=_tick, args=(bar, done), daemon=True)
        ticks.start()
        try:
            yield bar
        finally:
            done.set()
            ticks.join()


def _tick(bar: "tqdm[None]", done: threading.Event) -> None:
    while not done.wait(TICK):
        bar.update(0)
