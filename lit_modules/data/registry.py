"""The kinds of data that `--data=NAME` chooses from, and what checkpoints hold of them."""

from pkgutil import resolve_name
from typing import Any

from lit_modules.console import did_you_mean
from lit_modules.data.errors import usage_error

# Where each class is, so that a command loads only the one it needs.
DATA = {
    "text": "lit_modules.data.datamodule:Text",
    "instructions": "lit_modules.data.instructions:Instructions",
    "mqar": "lit_modules.data.synthetic.mqar:MQAR",
    "in_context_recall": "lit_modules.data.synthetic.mad_recall:InContextRecall",
    "noisy_recall": "lit_modules.data.synthetic.mad_recall:NoisyRecall",
    "fuzzy_recall": "lit_modules.data.synthetic.mad_fuzzy:FuzzyRecall",
    "memorization": "lit_modules.data.synthetic.mad_memory:Memorization",
    "compression": "lit_modules.data.synthetic.mad_memory:Compression",
    "selective_copying": "lit_modules.data.synthetic.copying:SelectiveCopying",
    "induction_heads": "lit_modules.data.synthetic.copying:InductionHeads",
    "parity": "lit_modules.data.synthetic.state_tracking:Parity",
    "modular_arithmetic": "lit_modules.data.synthetic.arithmetic:ModularArithmetic",
    "group_words": "lit_modules.data.synthetic.groups:GroupWords",
}
DEFAULT = "text"


def get(name: str) -> type[Any]:
    """The data module of that name; raises UsageError if there is none."""
    if name not in DATA:
        raise usage_error(f"data={name!r} is not known{did_you_mean(name, DATA)} There are: {', '.join(DATA)}.")
    return resolve_name(DATA[name])


def name_of(cls: type) -> str:
    """The name that a data module is chosen by; that of the class if it is none of ours."""
    place = f"{cls.__module__}:{cls.__qualname__}"
    return next((name for name in DATA if DATA[name] == place), cls.__qualname__)


def saved_name(checkpoint: dict[str, Any]) -> str | None:
    """The name of the data that a checkpoint was trained on; None if it is none of ours."""
    return next((name for name in DATA if _key(name) in checkpoint), None)


def saved_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds of its data, the tokenizer among it; KeyError if its data is none of ours."""
    return checkpoint[_key(saved_name(checkpoint) or DEFAULT)]


def _key(name: str) -> str:
    """What Lightning keeps the state of a data module under: the name of its class."""
    return DATA[name].partition(":")[2]
