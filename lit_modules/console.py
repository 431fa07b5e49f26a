"""Text for a terminal: short paths, numbers, aligned tables, suggestions, and how this program was called."""

import sys
import warnings
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path


def command() -> str:
    """How this program was called, for the commands that messages suggest."""
    return "lit-mixers" if Path(sys.argv[0]).stem == "lit-mixers" else "python cli.py"


def hide_deprecations() -> None:
    """Keeps from the user what other libraries say of their own future, unless `python -W` asks for warnings."""
    if not sys.warnoptions:
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=r"(?!(mixers|lit_modules)\b)")


def short_path(path: str | Path) -> str:
    """A path relative to the current folder, where it lies below it."""
    absolute = Path(path).absolute()
    return str(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is not known: the nearest one that is, if any is near."""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0] if close[0].startswith('--') else repr(close[0])}?" if close else "."


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
