"""Mistakes of whoever called, for modules that each process of a pool imports.

Importing `mixers.checks` brings torch, some 150 MB in each process; so it is imported when something is wrong.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mixers.checks import MissingFileError, UsageError


def usage_error(sentence: str) -> "UsageError":
    """The UsageError that says so."""
    from mixers.checks import UsageError

    return UsageError(sentence)


def missing_file(sentence: str) -> "MissingFileError":
    """The MissingFileError that says so."""
    from mixers.checks import MissingFileError

    return MissingFileError(sentence)
