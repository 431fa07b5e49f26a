"""Options out of range, refused in one sentence: `at_least(1, depth=depth)`."""

from collections.abc import Collection


def at_least(least: float, **options: float) -> None:
    """Raises ValueError for an option below `least`."""
    for name, value in options.items():
        if not value >= least:
            raise ValueError(f"{name}={value} is too small: write {least} or more.")


def one_of(allowed: Collection[str], **options: str) -> None:
    """Raises ValueError for an option that is none of `allowed`."""
    for name, value in options.items():
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is not one of: {', '.join(allowed)}.")
