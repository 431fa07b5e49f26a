"""Mixer factories as plain data, so that checkpoints hold no code and rebuild any mixer."""

import inspect
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from mixers import Mixer, available
from mixers.checks import UsageError
from mixers.model import MixerFactory


def as_config(value: Any) -> Any:
    """A mixer factory as the config that builds it; a dict with each of its values turned so; any other value as it is.

    Raises:
        ValueError: The value is a function, which plain data cannot express.
    """
    if isinstance(value, dict):
        return {key: as_config(item) for key, item in value.items()}
    if not callable(value):
        return value
    # A factory parsed from a command line is a partial of an instantiator whose first argument is the class.
    called = (value.func, *value.args) if isinstance(value, partial) else (value,)
    for cls in called:
        if isinstance(cls, type) and issubclass(cls, Mixer):
            options = value.keywords if isinstance(value, partial) else {}
            return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": as_config(dict(options))}
    raise UsageError(
        f"{value!r} cannot be kept in a checkpoint: give a mixer class or functools.partial(MixerClass, option=value)."
    )


def factory(config: str | dict[str, Any]) -> MixerFactory:
    """The mixer factory of a config: a name, an import path, or `{class_path, init_args}`."""
    found = complete({"class_path": config} if isinstance(config, str) else config)
    return partial(found.cls, **found.options)


class Complete(NamedTuple):
    """A mixer's config with nothing left out."""

    name: str
    cls: type[Mixer[Any]]
    options: dict[str, Any]


def complete(config: dict[str, Any]) -> Complete:
    """Looks up the class of a config `{class_path, init_args}` and fills in the options it leaves to their defaults."""
    cls = class_at(config["class_path"])
    parameters = list(inspect.signature(cls).parameters.values())[1:]  # the first is the width
    defaults = {parameter.name: parameter.default for parameter in parameters}
    return Complete(mixer_name(cls), cls, {**defaults, **config.get("init_args", {})})


def class_at(path: str) -> type[Mixer[Any]]:
    """The mixer class at an import path, which for a short name is the class that the name stands for."""
    module, _, name = path.rpartition(".")
    if module in ("", "mixers.names"):
        return available()[name]
    cls: type[Mixer[Any]] = getattr(import_module(module), name)
    return cls


def mixer_name(cls: type[Mixer[Any]]) -> str:
    """The short name of a mixer class, or the class's own name where it is not registered."""
    return next((name for name, known in available().items() if known is cls), cls.__name__)
