"""The command line: `python cli.py COMMAND`, or `lit-mixers COMMAND` where it is installed."""

import ast
import sys
import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from lit_modules.console import command

# Where the function of each command is: its signature is the command's options, its docstring their help.
LIGHTNING_COMMANDS = {
    "fit": "lit_modules.training.trainer:Trainer.fit",
    "validate": "lit_modules.training.trainer:Trainer.validate",
    "test": "lit_modules.training.trainer:Trainer.test",
}
OWN_COMMANDS = {
    "generate": "lit_modules.commands.generate:generate",
    "evaluate": "lit_modules.commands.evaluate:evaluate",
    "benchmark": "lit_modules.commands.benchmark:benchmark",
    "compare": "lit_modules.commands.compare.command:compare",
}
COMMANDS = LIGHTNING_COMMANDS | OWN_COMMANDS


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line. A mistake of the user ends with one sentence and exit code 2.

    Args:
        argv: The command and its options; by default those this program was called with.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv[0] if argv else ""
    if name in ("-h", "--help", "--version"):
        print(f"{command()} {version()}" if name == "--version" else overview())
        sys.exit(0)
    if not name:
        fail(f"name a command: {', '.join(COMMANDS)}.")
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        fail(f"There is no command {name!r}{hint} There are: {', '.join(COMMANDS)}.")
    if "torch" not in sys.modules:
        print(f"lit-mixers {version()}: loading torch", file=sys.stderr, flush=True)
    from mixers.checks import UsageError  # here, after the first output, since torch takes seconds

    try:
        _run(argv)
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT
    except (UsageError, FloatingPointError) as error:  # a loss that is not finite asks for another learning rate
        fail(str(error))


def overview() -> str:
    """The list of all commands, with one line on each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary(path)}" for name, path in COMMANDS.items()]
    return "\n".join(
        [
            "Trains language models with any sequence mixer, and compares them.\n",
            f"usage: {command()} COMMAND [options]\n",
            *lines,
            f"\nOptions of a command: {command()} COMMAND --help",
        ]
    )


def summary(path: str) -> str:
    """The first line of a function's docstring, read from its file, since importing it may take seconds."""
    module, _, name = path.partition(":")
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    node: ast.AST = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for part in name.split("."):
        node = next(child for child in ast.iter_child_nodes(node) if getattr(child, "name", None) == part)
    assert isinstance(node, ast.FunctionDef)
    return (ast.get_docstring(node) or "").split("\n")[0]


def version() -> str:
    """The version of lit-mixers, installed or run from its folder."""
    try:
        return metadata.version("lit-mixers")
    except metadata.PackageNotFoundError:
        project = Path(__file__).parent.parent / "pyproject.toml"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


def fail(message: str) -> NoReturn:
    """Ends the program with one sentence about what was wrong."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _run(argv: list[str]) -> None:
    name, *options = argv
    if name in LIGHTNING_COMMANDS:
        import_module("lit_modules.training.cli").run_command(argv)
    else:
        module, _, function = OWN_COMMANDS[name].partition(":")
        run = import_module("lit_modules.commands.parser").run
        run(getattr(import_module(module), function), options)
