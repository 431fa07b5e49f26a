"""Mixer factories as plain data, so that checkpoints hold no code and rebuild any mixer."""

import inspect
from functools import partial
from typing import Any, NamedTuple

from lit_modules.training.allowed_imports import import_mixer
from mixers import LanguageModel, Mixer, available
from mixers.checks import UsageError
from mixers.model import MixerFactory
from mixers.registry import get


def as_config(mixer: Any) -> Any:
    """A mixer's class, partial or name as the config `{class_path, init_args}`; of a dict or a list, each in it.

    Raises:
        UsageError: It is a function, or has one as an option, which plain data cannot express.
    """
    if isinstance(mixer, dict):
        return {key: as_config(value) for key, value in mixer.items()}
    if isinstance(mixer, list | tuple):
        return [as_config(each) for each in mixer]
    called = get(mixer) if isinstance(mixer, str) else mixer
    options = called.keywords if isinstance(called, partial) else {}
    # A factory parsed from a command line is a partial of an instantiator whose first argument is the class.
    for cls in (called.func, *called.args) if isinstance(called, partial) else (called,):
        if isinstance(cls, type) and issubclass(cls, Mixer) and not any(map(callable, options.values())):
            return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": dict(options)}
    raise UsageError(
        f"{mixer!r} cannot be kept in a checkpoint: give a mixer class or functools.partial(MixerClass, option=value)."
    )


class Complete(NamedTuple):
    """A mixer's config with nothing left out."""

    name: str
    cls: type[Mixer[Any]]
    options: dict[str, Any]


def complete(config: str | dict[str, Any]) -> Complete:
    """A name, an import path or a config `{class_path, init_args}`, with the defaults of the options it leaves out."""
    path, options = (config, {}) if isinstance(config, str) else (config["class_path"], config.get("init_args", {}))
    module, _, name = path.rpartition(".")
    cls = get(name) if module in ("", "mixers.names") else import_mixer(path)
    parameters = list(inspect.signature(cls).parameters.values())[1:]  # the first is the width
    return Complete(mixer_name(cls), cls, {each.name: each.default for each in parameters} | options)


def whole_config(mixer: Any) -> dict[str, Any]:
    """A mixer's class, partial or name as the config `{class_path, init_args}` with every option.

    Raises:
        UsageError: It is a function, or has one as an option, which plain data cannot express.
    """
    config = as_config(mixer)
    return {**config, "init_args": complete(config).options}


def factory(config: str | dict[str, Any]) -> MixerFactory:
    """The mixer factory of a name, an import path or a config."""
    found = complete(config)
    return partial(found.cls, **found.options)


def with_factories(options: dict[str, Any]) -> dict[str, Any]:
    """Options of the model, with its mixers' configs as factories."""
    found = {"mixer": _factory(options["mixer"])} if "mixer" in options else {}
    overrides = {int(layer): _factory(mixer) for layer, mixer in (options.get("overrides") or {}).items()}
    pattern = options.get("pattern")
    return {**options, **found, "overrides": overrides, "pattern": pattern and [_factory(each) for each in pattern]}


def _factory(mixer: Any) -> MixerFactory:
    return factory(mixer) if isinstance(mixer, dict | str) else mixer


def model_mixers(model: LanguageModel) -> str:
    """The names of a model's mixers, each once, in the order of the blocks: `retention`, `retention-attention`."""
    return "-".join(dict.fromkeys(mixer_name(type(layer)) for layer in model.modules() if isinstance(layer, Mixer)))


def mixer_name(cls: type[Mixer[Any]]) -> str:
    """The short name of a mixer class, or the class's own name where it is not registered."""
    return next((name for name, known in available().items() if known is cls), cls.__name__)
