"""Which way imports go, as pyproject.toml writes it down."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
LINT = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"


def test_imports_go_one_way_only() -> None:
    # in a process of its own, since import-linter switches off the loggers that are there
    run = subprocess.run([sys.executable, "-c", LINT], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
