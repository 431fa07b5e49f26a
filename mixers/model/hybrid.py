"""Which mixer each block of a model has."""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from mixers.checks import UsageError
from mixers.mixer import Mixer
from mixers.model.block import MixerFactory, mixer_factory


def block_mixers(
    mixer: MixerFactory | str,
    pattern: Sequence[MixerFactory | str] | None,
    overrides: Mapping[int, MixerFactory | str] | None,
    *,
    depth: int,
    default: type[Mixer[Any]],
) -> list[MixerFactory]:
    """The mixer factory of each block: of `overrides`, else of the repeated `pattern`, else `mixer`.

    Args:
        mixer: What blocks have without a pattern; beside one it may only be `default`, which then is not used.
        pattern: Mixers of the first blocks, then again from the first.
        overrides: Other mixers for single blocks, by index from 0.
        depth: Number of blocks.
        default: What `mixer` is where none is given.

    Raises:
        UsageError: The pattern is empty, longer than the depth, or there is a mixer beside it; or there is no such
            block as `overrides` names.
    """
    overrides = overrides or {}
    if wrong := [layer for layer in overrides if not 0 <= layer < depth]:
        raise UsageError(f"overrides names block {wrong[0]}; with depth={depth} there are blocks 0 to {depth - 1}.")
    if pattern is not None:
        _check_pattern(pattern, depth)
        if not _builds(mixer_factory(mixer), default):
            raise UsageError(
                "pattern is given and so is mixer, of which no block would be made: leave one out, or write the mixer "
                "into the pattern."
            )
    repeated = [mixer] if pattern is None else pattern
    return [mixer_factory(overrides.get(layer, repeated[layer % len(repeated)])) for layer in range(depth)]


def _check_pattern(pattern: Sequence[MixerFactory | str], depth: int) -> None:
    if isinstance(pattern, str) or not isinstance(pattern, Sequence):
        raise UsageError(f"pattern={pattern!r} is no list: write one of mixers, [retention,retention,attention].")
    if not pattern:
        raise UsageError("pattern=[] is empty: write at least one mixer, or leave it out.")
    if len(pattern) > depth:
        raise UsageError(f"pattern has {len(pattern)} mixers, more than depth={depth} blocks: write as many or fewer.")


def _builds(mixer: MixerFactory, cls: type[Mixer[Any]]) -> bool:
    """Whether a factory, which may come from a command line or a checkpoint, builds a class with default options."""
    defaults = {name: each.default for name, each in inspect.signature(cls).parameters.items()}
    called, options = ((mixer.func, *mixer.args), mixer.keywords) if isinstance(mixer, partial) else ((mixer,), {})
    same = any(isinstance(each, type) and issubclass(each, cls) for each in called)
    return same and all(defaults.get(name) == value for name, value in options.items())
