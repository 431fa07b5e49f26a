"""The command line."""

from lit_modules.training.cli import main

__all__ = ["main"]
