"""Another mixer on the command line or in a config has its own defaults, not the options of the one before it.

jsonargparse keeps options of the earlier class, its defaults among them, where the later one has options of the same
name: `--model.mixer=attention` would have as many heads as the default mixer, retention.
"""

from typing import Any

from jsonargparse import Namespace, _typehints

from lit_modules.training.mixer_config import complete
from mixers.checks import UsageError

_keep_some = _typehints.discard_init_args_on_class_path_change


def keep_own_defaults() -> None:
    """Makes parsers forget the options of a mixer when another is named."""
    _typehints.discard_init_args_on_class_path_change = _forget_options


def _forget_options(parser_or_action: Any, before: Any, after: Any) -> None:
    if is_other_mixer(before, after):
        before["init_args"] = Namespace()
    else:
        _keep_some(parser_or_action, before, after)


def is_other_mixer(before: Any, after: Any) -> bool:
    """Whether two values of an option are configs of mixers, and not of the same; a mixer may have several paths."""
    if not (before and "init_args" in before and before["class_path"] != after["class_path"]):
        return False
    try:
        return complete(before["class_path"]).cls is not complete(after["class_path"]).cls
    except (ImportError, AttributeError, UsageError):  # no mixers, or none that may be imported
        return False
