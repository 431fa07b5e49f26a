"""What a command line says of a few options, its config files included, before its parser can be built."""

import argparse
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from lit_modules.training.config_file import is_file


def options_of(argv: Sequence[str], *names: str) -> dict[str, list[str | None]]:
    """Of the options in `argv`, those with certain names: each of the values that were given to it."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        short = ["-c"] if name == "--config" else []
        finder.add_argument(*short, name, action="append", nargs="?", dest=name, default=[])
    return dict(vars(finder.parse_known_args(argv)[0]))


def given(argv: Sequence[str], *names: str) -> dict[str, Any]:
    """The values of options that are given, by name such as `data.name`; those typed win over those of config files.

    What cannot be read as a config is passed over: the parser says what is wrong with it.
    """
    typed = options_of(argv, "--config", *(f"--{name}" for name in names))
    found: dict[str, Any] = {}
    for config in filter(None, typed["--config"]):
        with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):
            content = yaml.safe_load(Path(config).read_text("utf-8") if is_file(config) else config)
            found |= {name: value for name in names if (value := _at(content, name.split("."))) is not None}
    return found | {name: values[-1] for name in names if (values := typed[f"--{name}"])}


def _at(content: Any, keys: Iterable[str]) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content
