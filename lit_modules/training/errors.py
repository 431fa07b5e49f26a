"""One sentence for each mistake on the command line."""

import errno
import re
from pkgutil import resolve_name
from typing import NoReturn

from jsonargparse import ArgumentParser
from torch.distributed import DistError

from lit_modules.console import did_you_mean
from lit_modules.training.allowed_imports import refusal
from lit_modules.training.mixer_config import complete
from mixers import registry
from mixers.checks import UsageError

# What jsonargparse says of its own workings, and what to say instead.
NOISE = {
    r"^Parser key \"([\w.]+)\":": r"--\1:",
    r"- Expected a path but \S+ either not accessible or invalid - ": "",
    r"Type \S*Callable.*? expects a function or a callable class: (?:Parser key )?": "",
    r"\.* Got value: Namespace\(.*": "",
    r"<class '([\w.]+)'>": r"\1",
    r"(?:typing|collections\.abc)\.": "",
}
# What it says of a value that may be of several plain kinds, where none fits.
UNION = (
    r"Does not validate against any of the Union subtypes Subtypes: "
    r"\[(?P<kinds>(?:\w|, |Literal\[[^\]]*\]|list\[\w+\])*)\]"
    r" Errors: .* Given value type: \S+ Given value: (?P<value>.*)$"
)
NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false", "NoneType": "null", "str": "text"}
# What options of objects are called, what to write there, and where short names of classes are looked up.
OBJECTS: dict[str, tuple[str, str, str | None]] = {
    "trainer.logger": (
        "logger",
        "true, false, or a class of pytorch_lightning.loggers, such as {class_path: CSVLogger, init_args: {save_dir: "
        "runs}}",
        "pytorch_lightning.loggers",
    ),
    "trainer.callbacks": (
        "list of callbacks",
        "classes of pytorch_lightning.callbacks, such as [{class_path: EarlyStopping, init_args: {monitor: val/loss}}]",
        "pytorch_lightning.callbacks",
    ),
    "trainer.plugins": ("list of plugins", "classes of pytorch_lightning.plugins, or leave it out", None),
    "model.overrides": ("mixer for each of some blocks", "their numbers and mixers, such as {3: attention}", None),
}
WRONG_OBJECT = r"Parser key \"(?P<name>[\w.]+)\": .*Union subtypes Subtypes: .*Given value: (?P<value>.*)$"

FULL_DISK = errno.ENOSPC, errno.EDQUOT
GO_ON = "go on with fit --ckpt_path=last"


def explain(error: Exception) -> UsageError | None:
    """What a full disk, or a process that this one needs, ended a run with, as one sentence; None for other errors."""
    said = str(error).strip()
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return UsageError(f"the disk is full ({said}): make room, and {GO_ON}.")
    if re.match(r"Caught \w+ in DataLoader worker process", said):
        sentence = said.splitlines()[-1].partition(": ")[2]  # what follows the error's name, below its traceback
        if isinstance(error, UsageError):
            return UsageError(sentence)
        if isinstance(error, OSError):
            return UsageError(f"the training text cannot be read ({sentence}): {GO_ON}, which prepares it anew.")
    if match := re.match(r"DataLoader worker \(pid.*?\) (is killed by signal: \w+|exited unexpectedly)", said):
        return UsageError(
            f"a process that reads the training text ended too early (it {match[1]}): {GO_ON}, and with a smaller "
            "--data.num_workers if memory ran out."
        )
    if said.startswith("Error(s) in loading state_dict"):
        return UsageError(
            f"ckpt_path holds not the weights of its own model ({' '.join(said.split())}): write another."
        )
    if isinstance(error, DistError) or "gloo" in said:
        return UsageError(
            f"another process of this run was killed, or has not answered within trainer.process_timeout: see what it "
            f"said last, and {GO_ON}."
        )
    return None


class Parser(ArgumentParser):
    """A parser that answers a mistake with a UsageError, of one sentence, instead of its whole usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser within a parser: the outer one speaks
            super().error(message, ex)
        parsers = [self, *getattr(self._subcommands_action, "choices", {}).values()]
        options = {name for parser in parsers for name in parser._option_string_actions}
        raise UsageError(sentence(message, options)) from ex


def sentence(message: str, options: set[str]) -> str:
    """A parser's message as one sentence: with the nearest right name where one of `options` was meant."""
    if match := re.search(r"Importing '([\w.]+)' is not allowed", message):
        key = re.match(r"Parser key \"([\w.]+)\"", message)
        return (f"--{key[1]}: " if key else "") + refusal(match[1])
    if match := re.search(r"Option '([\w.]+)' is not accepted\. Got value: Namespace\(class_path='([\w.]+)'", message):
        mixer = complete(match[2])
        there = f"There are: {', '.join(sorted(mixer.options))}." if mixer.options else "It has none."
        hint = did_you_mean(match[1], mixer.options)
        return f"The mixer {mixer.name!r} has no option {match[1]!r}{hint} {there}"
    message = re.sub(r"Group '([\w.]+)' does not accept option '", r"does not accept option '\1.", message)
    if match := re.search(r"(?:unrecognized arguments: --?|does not accept option ')([\w.-]+)", message):
        name = f"--{match[1]}"
        return f"There is no option {name}{did_you_mean(name, options)}"
    if match := re.search(r"arguments are required: (?:(?:fit|validate|test)\.)?([\w.]+)", message):
        name = f"--{match[1]}" if f"--{match[1]}" in options else match[1]
        return f"{name} is needed and has no default: set it; --help says what to write."
    if match := re.search(
        r'"(?:model\.(?:mixer|overrides|pattern)|mixers)"[\s\S]*dot import path string: (\S+)', message
    ):
        return registry.unknown(match[1])
    message = " ".join(message.split())
    if (match := re.match(WRONG_OBJECT, message)) and match["name"] in OBJECTS:
        return _wrong_object(match["name"], match["value"], message)
    for noise, instead in NOISE.items():
        message = re.sub(noise, instead, message)
    if match := re.search(r"--model\.pattern: .*Expected (?:a list|an import path).*Given value: (.*)$", message):
        return f"--model.pattern: write a list of mixers, as in [retention,retention,attention]. Got value: {match[1]}"
    if match := re.search(UNION, message):
        wanted = [NAMES.get(kind, kind) for kind in match["kinds"].split(", ")]
        message = f"{message[: match.start()]}Expected {' or '.join(wanted)}. Got value: {match['value']}"
    return message


def _wrong_object(option: str, value: str, message: str) -> str:
    """What is wrong with the value of an option that takes objects, out of a parser's message on one line."""
    what, instead, module = OBJECTS[option]
    if nested := re.fullmatch(r"NestedArg\(key='(.*)', val=.*\)", value):  # as --option.KEY=...
        option, value = f"{option}.{nested[1]}", f"{{{nested[1]}: ...}}"
    reason = f"is no {what}"
    if match := re.search(r"class_path '([\w.]+)': Option '(\w+)' is not accepted", message):
        reason = f"cannot be, since {match[1]} has no option {match[2]!r}"
    elif match := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        reason = f"cannot be, since {match[1]} has no {match[2]!r}"
    known = resolve_name(module).__all__ if module else ()  # slow to import
    return f"--{option}={value} {reason}{did_you_mean(value.rpartition('.')[2], known)} Write {instead}."
