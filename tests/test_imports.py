"""Which way imports go, as pyproject.toml writes it down."""

from pathlib import Path

import pytest
from importlinter.cli import lint_imports

PROJECT = Path(__file__).parents[1]


def test_imports_go_one_way_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(PROJECT)
    assert lint_imports(no_cache=True) == 0, capsys.readouterr().out
