"""The BPE and the tokens of a corpus, each made when first asked for and kept in a cache."""

import hashlib
from pathlib import Path

from lit_modules.data.cache import built_once, replace_text
from lit_modules.data.corpora import Corpus
from lit_modules.data.token_file import TokenFile, token_file
from lit_modules.data.tokenizer import Tokenizer, train_bpe

LAYOUT = "2"  # part of every name in the cache: to be raised when cleaning, splitting or the files change


def prepared_bpe(corpus: Corpus, vocab_size: int, cache_dir: Path) -> Tokenizer:
    """A BPE of `vocab_size` ids, trained on the training split alone."""

    def train(path: Path) -> Tokenizer:
        tokenizer = train_bpe(corpus.documents("train"), vocab_size)
        replace_text(path, tokenizer.to_json())
        return tokenizer

    return built_once(_cached(cache_dir / "tokenizers", ".json", corpus.key, str(vocab_size)), _saved, train)


def prepared_tokens(corpus: Corpus, split: str, tokenizer: Tokenizer, cache_dir: Path) -> TokenFile:
    """The tokens of a split: "train", "validation", "test" or "unseen", as a `Corpus` has them."""
    path = _cached(cache_dir / "tokens", ".bin", corpus.key, split, tokenizer.to_json())
    return token_file(path, lambda: corpus.documents(split), tokenizer)


def _cached(folder: Path, suffix: str, *facts: str) -> Path:
    """The path of a file that depends on these facts alone."""
    return folder / (hashlib.sha256("\0".join((LAYOUT, *facts)).encode()).hexdigest() + suffix)


def _saved(path: Path) -> Tokenizer | None:
    try:
        return Tokenizer.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or damaged
        return None
