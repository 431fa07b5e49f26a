"""The command line: `python cli.py COMMAND`, or `lit-mixers COMMAND` where it is installed."""

import ast
import sys
import tomllib
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from pkgutil import resolve_name
from typing import NoReturn

from lit_modules.console import command, did_you_mean, hide_deprecations

# Where the function of each command is: its signature is the command's options, its docstring their help.
LIGHTNING_COMMANDS = {
    "fit": "lit_modules.training.trainer:Trainer.fit",
    "validate": "lit_modules.training.measuring:Measuring.validate",
    "test": "lit_modules.training.measuring:Measuring.test",
}
OWN_COMMANDS = {
    "generate": "lit_modules.commands.generate:generate",
    "evaluate": "lit_modules.commands.evaluate:evaluate",
    "convert": "lit_modules.commands.convert:convert",
    "benchmark": "lit_modules.commands.benchmark:benchmark",
    "compare": "lit_modules.commands.compare.command:compare",
}
COMMANDS = LIGHTNING_COMMANDS | OWN_COMMANDS


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line. A mistake of the user ends with one sentence and exit code 2.

    Args:
        argv: The command and its options; by default those this program was called with.
    """
    hide_deprecations()
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv[0] if argv else ""
    if name in ("-h", "--help", "--version"):
        print(f"{command()} {version()}" if name == "--version" else overview())
        sys.exit(0)
    if not name:
        fail(f"name a command: {', '.join(COMMANDS)}.")
    if name not in COMMANDS:
        fail(f"There is no command {name!r}{did_you_mean(name, COMMANDS)} There are: {', '.join(COMMANDS)}.")
    if "torch" not in sys.modules:
        print(f"lit-mixers {version()}: loading torch", file=sys.stderr, flush=True)
    from mixers.checks import UsageError, is_out_of_memory  # here, after the first output, since torch takes seconds

    try:
        if name in LIGHTNING_COMMANDS:
            import_module("lit_modules.training.cli").run_command(argv)
        else:
            import_module("lit_modules.commands.parser").run(resolve_name(OWN_COMMANDS[name]), argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT
    except (UsageError, FloatingPointError) as error:  # a loss that is not finite asks for another learning rate
        fail(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"{str(error.filename)!r} cannot be used ({error.strerror}): check the path and its permissions.")
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        fail(f"memory ran out ({first_line(error)}): make the model, its batches or its sequences smaller.")


def first_line(error: BaseException) -> str:
    """What an error says, without the notes that torch adds in further lines."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def overview() -> str:
    """The list of all commands, with one line on each."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {summary(path)}" for name, path in COMMANDS.items())
    return f"""Trains language models with any sequence mixer, and compares them.

usage: {command()} COMMAND [options]

{lines}

Options of a command: {command()} COMMAND --help"""


def summary(path: str) -> str:
    """The first line of a function's docstring, read from its file, since importing it may take seconds."""
    module, _, name = path.partition(":")
    file = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    docstrings = {node.name: ast.get_docstring(node) or "" for node in nodes if isinstance(node, ast.FunctionDef)}
    return docstrings[name.split(".")[-1]].split("\n")[0]


def version() -> str:
    """The version of lit-mixers, installed or run from its folder."""
    try:
        return metadata.version("lit-mixers")
    except metadata.PackageNotFoundError:
        project = Path(__file__).parents[1] / "pyproject.toml"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


def fail(message: str) -> NoReturn:
    """Ends the program with one sentence about what was wrong."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
