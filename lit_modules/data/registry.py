"""The kinds of data that `--data=NAME` chooses from, and what checkpoints hold of them."""

from pkgutil import resolve_name
from typing import Any

from lit_modules.console import did_you_mean
from lit_modules.data.errors import usage_error

# Where each class is, so that a command loads only the one it needs.
DATA = {
    "text": "lit_modules.data.datamodule:Text",
    "instructions": "lit_modules.data.instructions:Instructions",
}
DEFAULT = "text"


def get(name: str) -> type[Any]:
    """The data module of that name; raises UsageError if there is none."""
    if name not in DATA:
        raise usage_error(f"data={name!r} is not known{did_you_mean(name, DATA)} There are: {', '.join(DATA)}.")
    return resolve_name(DATA[name])


def saved_name(checkpoint: dict[str, Any]) -> str | None:
    """The name of the data that a checkpoint was trained on; None if it is none of ours."""
    return next((name for name in DATA if _key(name) in checkpoint), None)


def saved_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds of its data, the tokenizer among it; KeyError if its data is none of ours."""
    return checkpoint[_key(saved_name(checkpoint) or DEFAULT)]


def _key(name: str) -> str:
    """What Lightning keeps the state of a data module under: the name of its class."""
    return DATA[name].partition(":")[2]
