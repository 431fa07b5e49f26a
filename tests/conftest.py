"""Fixtures that several files share."""

import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: each core has a process of tests, and more threads than cores wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from small_runs import SMALL_WORDS, write_text
from small_text import write_words


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a run that is small, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "corpus.txt")
    return list(SMALL_WORDS)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for tokens and tokenizers that is empty."""
    monkeypatch.setenv("LIT_MIXERS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    """Sixty short documents in one file."""
    return write_words(tmp_path)


@pytest.fixture(autouse=True)
def nothing_of_a_launcher_stays() -> Iterator[None]:
    """Removes what Lightning sets for the other processes of a run: the next test's would wait for those."""
    yield
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)
