"""Text for a terminal: short paths, aligned tables, and how this program was called."""

import sys
from collections.abc import Sequence
from pathlib import Path


def command() -> str:
    """How this program was called, for the commands that messages suggest."""
    return "lit-mixers" if Path(sys.argv[0]).stem == "lit-mixers" else "python cli.py"


def short_path(path: str | Path) -> str:
    """A path relative to the current folder, where it lies below it."""
    absolute = Path(path).absolute()
    return str(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute)


def number(value: object) -> str:
    """A number as all output for people shows it: integers in full, others in four digits; text as it is."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: its first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])] for name, *cells in lines)
    return "\n".join("  ".join(line) for line in padded)
