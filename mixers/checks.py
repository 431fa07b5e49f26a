"""Options out of range, refused in one sentence: `at_least(1, depth=depth)`."""

from collections.abc import Collection


class UsageError(ValueError):
    """A mistake of whoever called: one sentence that names the argument, its value and what to write instead."""


class MissingFileError(UsageError, FileNotFoundError):
    """A file, folder or package that was named and is not there."""


def at_least(least: float, **options: float) -> None:
    """Raises UsageError for an option below `least`."""
    for name, value in options.items():
        if not value >= least:
            raise UsageError(f"{name}={value} is too small: write {least} or more.")


def one_of(allowed: Collection[str], **options: str) -> None:
    """Raises UsageError for an option that is none of `allowed`."""
    for name, value in options.items():
        if value not in allowed:
            raise UsageError(f"{name}={value!r} is not one of: {', '.join(allowed)}.")
