"""A typed function as a command: its signature is the command's options, its docstring their help."""

from collections.abc import Callable, Sequence
from typing import Annotated, get_type_hints

import docstring_parser

import mixers.names  # noqa: F401  (the short names)
from lit_modules.console import command
from lit_modules.training.allowed_imports import restrict_imports
from lit_modules.training.errors import Parser

Repeated = Annotated[list[str], "repeated"]  # an option that may be given several times, each time with one text


def run(function: Callable[..., None], argv: Sequence[str]) -> None:
    """Calls a function with the options of a command line.

    Args:
        function: Its parameters that are not keyword-only are given without their names.
        argv: The options.

    Raises:
        UsageError: They are not what the function takes.
    """
    restrict_imports()
    doc = docstring_parser.parse(function.__doc__ or "")
    # No abbreviations, or a typo that happens to begin an option would pass for it.
    parser = Parser(prog=f"{command()} {function.__name__}", description=doc.description, allow_abbrev=False)
    hints = get_type_hints(function, include_extras=True)
    repeated: set[str | int] = {name for name, hint in hints.items() if hint in (Repeated, Repeated | None)}
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=repeated)
    for parameter in doc.params:
        if parameter.arg_name in repeated:  # text even where it looks like YAML, as a list of jsonargparse would not be
            meaning = f"{parameter.description} It can be given several times."
            parser.add_argument(f"--{parameter.arg_name}", type=str, action="append", help=meaning)
    function(**parser.instantiate(parser.parse_args(argv)).as_dict())
