"""One sentence for each mistake on the command line, made of what the parser says about it."""

import argparse
import re
import traceback
from collections.abc import Iterable
from difflib import get_close_matches

from lit_modules.training.mixer_config import complete
from mixers import registry

TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "list": "a list"}


def sentence(message: str, options: Iterable[str] = ()) -> str:
    """What to tell someone whose command line the parser refused with a message.

    Args:
        message: The parser's message.
        options: Names of all the options there are.
    """
    if match := re.search(r"Option '([\w.]+)' is not accepted\. Got value: Namespace\(class_path='([\w.]+)'", message):
        return _unknown_mixer_option(match[1], match[2])
    if match := re.search(r"unrecognized arguments: --?([\w.-]+)", message):
        return _unknown_option(match[1], options)
    if match := re.search(r"does not accept option '([\w.]+)'", message):
        return _unknown_option(match[1], options)
    if match := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
        return f"There is no command {match[1]!r}; there are: {match[2]}."
    if match := re.search(r"\"subcommand\" to be one of {(.*)}", message):
        return f"Say what to do: one of {match[1].replace(',', ', ')}."
    if match := re.search(
        r'Parser key "(?:model\.mixer|model\.overrides|mixers)"[\s\S]*dot import path string: (\S+)', message
    ):
        return registry.unknown(match[1])
    if match := re.search(r"Expected '([\w.]+)' to be a subclass of (?:<class ')?(\w+)", message):
        return f"{match[1]} is no {match[2]}."
    if match := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        return f"There is no {match[2]} in {match[1]}."
    if match := re.search(r'"([\w.]+)":\s+Expected a ([^\n]*?)\. Got value: ([^\n]*?)(\. Got value: |\n|$)', message):
        return f"{_full_name(message, match[1])}={match[3]} should be {_type(match[2])}."
    if match := re.search(r'Parser key "([\w.]+)"[\s\S]*dot import path string: (\S+)', message):
        return f"{match[1]}={match[2]} is no class: write its import path, such as package.module.Class."
    if match := re.search(r'Parser key "([\w.]+)":\s+Does not validate against any[\s\S]*Given value: (.*)$', message):
        return f"{match[1]}={match[2]} is not what it should be: see --help."
    if match := re.search(r'Linked "([\w.]+)" must be given via "([\w.]+)"', message):
        return f"{match[1]} cannot be set: it follows from {match[2]}."
    if re.search(r"arguments are required: benchmark\.what", message):
        return "Say what to measure: train, prefill or decode."
    if re.search(r"arguments are required: compare\.study", message):
        return "Say which study: the path of its YAML file."
    if match := re.search(r"arguments are required: \w+\.(\w+)", message):
        return f"Say which {match[1]}: --{match[1]}=..."
    if match := re.search(r"File does not exist: '(.*)'", message):
        return f"There is no file {match[1]}."
    return re.sub(r"\s+", " ", message).strip()


def parser_options(parser: argparse.ArgumentParser) -> set[str]:
    """The names of all options of a parser and of its subcommands."""
    names = set()
    for action in parser._actions:
        names |= {option.lstrip("-") for option in action.option_strings}
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action._name_parser_map.values():
                names |= parser_options(subparser)
    return names


def is_a_mistake_of_use(exception: BaseException) -> bool:
    """Whether an exception came before the first batch: after that it is a bug, and its traceback is wanted."""
    frames = list(traceback.walk_tb(exception.__traceback__))
    names = [frame.f_code.co_name for frame, _ in frames]
    modules = [frame.f_globals.get("__name__", "") for frame, _ in frames]
    return "setup_data" in names or not any(name.startswith("pytorch_lightning.loops") for name in modules)


def reason(exception: BaseException) -> str:
    """What an exception says, without what jsonargparse says around the words of ours that it passes on."""
    while exception.__cause__ is not None and str(exception).startswith("Call to compute_fn of link"):
        exception = exception.__cause__
    return str(exception)


def _unknown_option(name: str, options: Iterable[str]) -> str:
    close = get_close_matches(name, list(options), n=1)
    return f"There is no option --{name}" + (f"; did you mean --{close[0]}?" if close else ".")


def _unknown_mixer_option(name: str, class_path: str) -> str:
    mixer = complete({"class_path": class_path})
    close = get_close_matches(name, mixer.options, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    there = f"There are: {', '.join(sorted(mixer.options))}." if mixer.options else "It has none."
    return f"The mixer {mixer.name!r} has no option {name!r}{hint} {there}"


def _full_name(message: str, name: str) -> str:
    """The option's name with those of what it is an option of."""
    outer = re.search(r'Parser key "([\w.]+)"', message)
    return f"{outer[1]}.{name}" if outer and outer[1] != name else name


def _type(described: str) -> str:
    if match := re.fullmatch(r"<class '(\w+)'>", described):
        return TYPES.get(match[1], f"a {match[1]}")
    if match := re.fullmatch(r"typing\.Literal\[(.*)\]", described):
        return f"one of {match[1]}"
    return f"a {described}"
