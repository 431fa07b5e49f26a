"""What a new run may start from: the weights, the model's options and the tokenizer of an earlier one."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from lit_modules.data.registry import saved_state
from lit_modules.data.tokenizer import Tokenizer
from lit_modules.training import checkpoint
from lit_modules.training.pretrained_model import TOKENIZER, is_pretrained, weights_of
from mixers.checks import MissingFileError, UsageError


class Pretrained(NamedTuple):
    """A trained model, before it is built."""

    path: Path
    options: checkpoint.Options  # those of its `LitLanguageModel`
    weights: Mapping[str, Tensor]  # by the names of `LanguageModel`
    tokenizer: Tokenizer

    @property
    def tokenizer_file(self) -> Path:
        """Where the tokenizer can be read from."""
        return self.path / TOKENIZER if is_pretrained(self.path) else checkpoint.main_file(self.path)


def read(init_from: str | Path, root: str | Path) -> Pretrained:
    """The model that `init_from` names.

    Args:
        init_from: A checkpoint of `fit`, a folder that `save_pretrained` or `convert` made, or `last`, the newest
            checkpoint of all runs.
        root: The folder of all runs.
    """
    if init_from != "last" and is_pretrained(init_from):
        model, tokenizer = checkpoint.load(init_from)
        return Pretrained(Path(init_from), model.config(), model.state_dict(), tokenizer)
    if init_from != "last" and not checkpoint.main_file(Path(init_from)).is_file():
        raise MissingFileError(f"init_from={str(init_from)!r} is no file: write the path of a .ckpt, or last.")
    path = checkpoint.find(init_from, root)
    content = checkpoint.read_whole(path)
    tokenizer = Tokenizer.from_json(saved_state(content)["tokenizer"])
    return Pretrained(path, content["hyper_parameters"], weights_of(content), tokenizer)


def refuse_both(ckpt_path: object, init_from: object) -> NoReturn:
    """Raises the UsageError for a run that is both to go on and to start anew."""
    raise UsageError(
        f"ckpt_path={ckpt_path!r} goes on with a run and init_from={init_from!r} starts a new one: leave one out."
    )


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Gives a model, on one device or sharded, the weights of an unsharded one; UsageError if they do not fit it."""
    try:
        set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True))
    except RuntimeError as error:
        raise UsageError(
            "the weights of init_from do not fit this model: make the model with the checkpoint's own options."
        ) from error
