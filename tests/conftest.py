"""Fixtures that several files share."""

from pathlib import Path

import pytest
from small_runs import SMALL_WORDS, write_text


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a run that is small, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "corpus.txt")
    return list(SMALL_WORDS)
