"""Whether weights are those of a model, before anything is done with them."""

from collections.abc import Mapping

from torch import Tensor, nn

from mixers.checks import UsageError


def check_weights(model: nn.Module, weights: Mapping[str, Tensor], whose: str) -> None:
    """Raises UsageError unless weights have the names and the shapes of a model's own.

    Args:
        model: The model, which may be on the meta device, but not shared out yet.
        weights: Tensors by name.
        whose: What errors call them.
    """
    own = model.state_dict()
    wrong = {
        "lacks": [name for name in own if name not in weights],
        "also has": [name for name in weights if name not in own],
        "has another shape of": [
            f"{name} ({_shape(weights[name])}, not {_shape(own[name])})"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ],
    }
    if said := [f"{what} {_first(names)}" for what, names in wrong.items() if names]:
        raise UsageError(
            f"{whose} does not hold the weights of this model: it {', and '.join(said)}. Write another checkpoint, or "
            "make the model with its options."
        )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _first(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
