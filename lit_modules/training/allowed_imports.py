"""What configs, checkpoints and the command line may have imported: importing runs code, so it is trusted code only."""

import os
import re
import sys
from importlib import import_module
from typing import Any

from jsonargparse import set_parsing_settings

from mixers import Mixer, available
from mixers.checks import UsageError

# Of torch not all, since parts of it run or unpickle files: torch.hub, torch.load, torch.utils.cpp_extension.
ALLOWED = ("mixers", "lit_modules", "pytorch_lightning", "lightning_fabric", "lightning", "torch.nn", "torch.optim")
VARIABLE = "LIT_MIXERS_ALLOW"  # names more, with commas between them


def allowed() -> list[str]:
    """Packages and modules from which anything may be imported, those of installed mixers included.

    Raises:
        UsageError: The environment variable does not name any.
    """
    more = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    for name in more:
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name) or name.partition(".")[0] == "jsonargparse":
            raise UsageError(f"{VARIABLE} has {name!r}: write the import names of packages, as in my_package,other.")
    return [*ALLOWED, *{mixer.__module__.partition(".")[0] for mixer in available().values()}, *more]


def restrict_imports() -> None:
    """Has jsonargparse import only what is allowed, whatever a config, a checkpoint or an option names."""
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=allowed(),
        instantiate_subclass_spec_in_any=False,
    )


def import_mixer(path: str) -> type[Mixer[Any]]:
    """The mixer class of an import path, from a package that is allowed or a module that is imported already.

    Raises:
        UsageError: It may not be imported, is not there, or is no mixer.
    """
    module, _, name = path.rpartition(".")
    if module not in sys.modules and not any(f"{path}.".startswith(f"{package}.") for package in allowed()):
        raise UsageError(refusal(path))
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"the mixer {path!r} cannot be imported ({error}): install its package.") from error
    if not (isinstance(cls, type) and issubclass(cls, Mixer)):
        raise UsageError(f"{path!r} is no mixer: write the name of one, or the import path of a class of mixers.")
    return cls


def refusal(path: str) -> str:
    """What to tell someone who asked to import what is not allowed."""
    package = path.partition(".")[0]
    hint = "" if package in sys.stdlib_module_names else f"; if you trust {package}, set {VARIABLE}={package}"
    return (
        f"{path!r} may not be imported, since that runs its code and only {', '.join(ALLOWED)} and the packages of "
        f"installed mixers are allowed{hint}."
    )
