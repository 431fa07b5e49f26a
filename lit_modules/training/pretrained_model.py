"""Language models as folders that others can load: weights in safetensors, options in config.json, the tokenizer."""

import json
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, PyTorchModelHubMixin, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lit_modules.data.cache import replace_text
from lit_modules.data.tokenizer import Tokenizer
from lit_modules.training.checkpoint_file import file_sha256
from lit_modules.training.mixer_config import model_mixers, whole_config, with_factories
from mixers import LanguageModel, Retention
from mixers.checks import MissingFileError, UsageError
from mixers.model import MixerFactory

WEIGHTS_SHA256 = "weights_sha256"  # the entry of config.json with which the weights are checked
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
CARD = """\
---
{{ card_data }}
---

# A language model of lit-mixers

{{ parameters }} parameters: {{ depth }} blocks of width {{ dim }} that mix with {{ mixers }}, and {{ vocab_size }}
tokens.

```python
from lit_modules import PretrainedLanguageModel

model = PretrainedLanguageModel.from_pretrained("OWNER/NAME")  # or the path of this folder
logits = model(ids)
```

From the command line, with the path of this folder: `lit-mixers generate --ckpt_path=FOLDER --prompt="The"`.

To be filled in: what it was trained on, how good it is, what it must not be used for, and its licence.
"""


class PretrainedLanguageModel(
    LanguageModel,
    PyTorchModelHubMixin,
    library_name="lit-mixers",
    pipeline_tag="text-generation",
    model_card_template=CARD,
):
    """A language model that can be saved as a folder, loaded from one, and shared on the Hugging Face Hub.

    `save_pretrained(folder)` writes model.safetensors, config.json, tokenizer.json and a model card, README.md;
    `from_pretrained(folder)` or `from_pretrained("owner/name")` loads them, in evaluation mode; options given beside
    replace those of config.json, as in `from_pretrained(folder, dropout=0.1)`. `push_to_hub("owner/name")` uploads
    them. config.json has the checksum of the weights, with which they are checked when they are loaded. No file is
    unpickled, and config.json may name only mixers that are allowed to be imported.

    Args:
        mixer: As `LanguageModel` has it.
        tokenizer: What turns text into its ids; None saves none.
        options: The other options of `LanguageModel`.
    """

    def __init__(self, mixer: MixerFactory | str = Retention, *, tokenizer: Tokenizer | None = None, **options: Any):
        super().__init__(mixer, **options)  # type: ignore[arg-type]
        self.tokenizer = tokenizer
        self._options = {"mixer": mixer, **options}

    def config(self) -> dict[str, Any]:
        """All options as plain values, those of the mixers included.

        Raises:
            UsageError: A mixer is a function, which plain values cannot express.
        """
        parameters = signature(LanguageModel).parameters.values()
        options = {each.name: each.default for each in parameters if each.default is not Parameter.empty}
        options |= self._options
        overrides = {str(layer): whole_config(mixer) for layer, mixer in (options["overrides"] or {}).items()}
        pattern = options["pattern"] and [whole_config(mixer) for mixer in options["pattern"]]
        return {**options, "mixer": whole_config(options["mixer"]), "overrides": overrides, "pattern": pattern}

    def generate_model_card(self, *args: Any, **options: Any) -> ModelCard:
        config = {name: self.config()[name] for name in ("depth", "dim", "vocab_size")}
        count = f"{sum(self.parameter_counts().values()):,}"
        facts = {"parameters": count, "mixers": model_mixers(self), **config, **options}
        return super().generate_model_card(*args, **facts)

    def _save_pretrained(self, save_directory: Path) -> None:
        config = self.config()  # which refuses what it cannot express before anything is written
        super()._save_pretrained(save_directory)
        config[WEIGHTS_SHA256] = file_sha256(save_directory / WEIGHTS)
        replace_text(save_directory / CONFIG, json.dumps(config, indent=2) + "\n")
        if self.tokenizer is not None:
            replace_text(save_directory / TOKENIZER, self.tokenizer.to_json())

    @classmethod
    def _from_pretrained(  # the mixin's own prints, fills what is missing with random numbers, and reads pickles
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **options: Any,
    ) -> "PretrainedLanguageModel":
        folder = Path(model_id)
        if not folder.is_dir():
            files = snapshot_download(
                model_id,
                allow_patterns=[CONFIG, WEIGHTS, TOKENIZER],
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
            folder = Path(files)
        if missing := [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]:
            made = "write a folder that save_pretrained or convert made"
            raise MissingFileError(f"{model_id!r} has no {missing[0]}: {made}.")
        _check_weights(folder, options.pop(WEIGHTS_SHA256, None))
        if (folder / TOKENIZER).is_file():
            options["tokenizer"] = Tokenizer.from_json((folder / TOKENIZER).read_text(encoding="utf-8"))
        try:
            model = cls(**with_factories(options))
            model.load_state_dict(load_file(folder / WEIGHTS), assign=True)  # in the precision that they were saved in
        except (TypeError, RuntimeError, SafetensorError) as error:  # a wrong option, other weights, a damaged file
            why = " ".join(str(error).split())
            raise UsageError(f"{model_id!r} cannot be used, since {WEIGHTS} and {CONFIG} do not fit: {why}.") from error
        return model.eval()


def _check_weights(folder: Path, sha256: str | None) -> None:
    """Raises UsageError if the weights in a folder have another checksum than its config says, where it says one."""
    if sha256 is not None and file_sha256(folder / WEIGHTS) != sha256:
        raise UsageError(
            f"{str(folder / WEIGHTS)!r} is damaged or was changed since it was saved: get the file anew, or, if you "
            f"changed it yourself, delete {WEIGHTS_SHA256} from {CONFIG}."
        )


def is_pretrained(path: str | Path) -> bool:
    """Whether a path is a folder that `save_pretrained` wrote."""
    return (Path(path) / CONFIG).is_file() and (Path(path) / WEIGHTS).is_file()


def from_folder(folder: Path) -> PretrainedLanguageModel:
    """The model of such a folder, in evaluation mode.

    Raises:
        UsageError: A file of it is damaged, or names what may not be imported.
    """
    try:
        if not isinstance(json.loads((folder / CONFIG).read_text(encoding="utf-8")), dict):
            raise ValueError("it has no keys")
    except ValueError as error:
        raise UsageError(f"{str(folder / CONFIG)!r} is no config of a model: {error}.") from error
    return PretrainedLanguageModel.from_pretrained(folder)


def from_checkpoint(content: dict[str, Any], tokenizer: Tokenizer, whose: str) -> PretrainedLanguageModel:
    """The model of a checkpoint's content, in evaluation mode; raises UsageError if the weights are not its own.

    Args:
        content: What `fit` saved.
        tokenizer: The tokenizer in it.
        whose: What errors call the checkpoint.
    """
    saved = content["hyper_parameters"]
    options = {name: saved[name] for name in signature(LanguageModel).parameters if name in saved}
    model = PretrainedLanguageModel(tokenizer=tokenizer, **with_factories(options))
    try:
        model.load_state_dict(weights_of(content))
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise UsageError(f"{whose} has not the weights of its own model: {why}") from error
    return model.eval()


def weights_of(content: dict[str, Any]) -> dict[str, Tensor]:
    """The weights in a checkpoint's content, by the names of `LanguageModel`."""
    return {name.removeprefix("model."): tensor for name, tensor in content["state_dict"].items()}
