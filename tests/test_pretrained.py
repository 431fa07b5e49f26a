"""Models as folders: saved, loaded, uploaded, and converted from checkpoints."""

import hashlib
import json
import re
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors import safe_open
from small_runs import says

import lit_modules
from lit_modules import PretrainedLanguageModel
from lit_modules.data.tokenizer import bytes_tokenizer
from lit_modules.training import pretrained
from mixers import Attention, LanguageModel, Retention, available
from mixers.checks import MissingFileError, UsageError

IDS = torch.arange(24).view(2, 12) * 7 % 257


def small(mixer: Any = "retention", **options: Any) -> PretrainedLanguageModel:
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore"):  # that some mixers are large for a model so small
        model = PretrainedLanguageModel(mixer, tokenizer=bytes_tokenizer(), vocab_size=257, dim=32, depth=2, **options)
    return model.eval()


def again(folder: Path, **options: Any) -> PretrainedLanguageModel:
    with warnings.catch_warnings(action="ignore"):
        return PretrainedLanguageModel.from_pretrained(folder, **options)


@pytest.mark.parametrize("mixer", sorted(available()))
def test_a_model_of_every_mixer_comes_back_as_it_was(mixer: str, tmp_path: Path) -> None:
    model = small(mixer)
    model.save_pretrained(tmp_path)
    loaded = again(tmp_path)
    assert torch.equal(loaded(IDS), model(IDS))
    assert loaded.tokenizer == model.tokenizer
    assert not loaded.training


@pytest.mark.parametrize(
    "options",
    [
        {"mixer": partial(Retention, num_heads=2), "overrides": {1: partial(Attention, num_heads=8)}},
        {"mixer": Attention, "tie_embeddings": False, "norm": "rms", "ffn": "swiglu", "start_token": 256},
    ],
    ids=["hybrid", "untied"],
)
def test_so_do_its_options(options: dict[str, Any], tmp_path: Path) -> None:
    model = small(**options)
    model.save_pretrained(tmp_path)
    loaded = again(tmp_path)
    assert torch.equal(loaded(IDS), model(IDS))
    assert str(loaded) == str(model)
    assert loaded.start_token == model.start_token
    saved = json.loads((tmp_path / "config.json").read_text())
    assert loaded.config() == model.config() == {name: saved[name] for name in saved if name != "weights_sha256"}
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_text() == (tmp_path / "config.json").read_text()


def test_its_weights_keep_their_precision(tmp_path: Path) -> None:
    small().bfloat16().save_pretrained(tmp_path)
    assert {weight.dtype for weight in again(tmp_path).parameters()} == {torch.bfloat16}


def test_tied_weights_are_saved_once(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert [name for name in file.keys() if file.get_slice(name).get_shape() == [257, 32]] == ["embed.weight"]  # noqa: SIM118


def test_options_beside_the_folder_replace_those_of_its_config(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    assert again(tmp_path, dropout=0.5).dropout.p == 0.5


def test_a_model_card_is_written_and_says_what_the_model_is(tmp_path: Path) -> None:
    small(overrides={1: Attention}).save_pretrained(tmp_path)
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "lit-mixers"
    assert card.data.pipeline_tag == "text-generation"
    assert "2 blocks of width 32 that mix with retention-attention, and 257\ntokens" in card.text


def test_a_model_is_pushed_to_the_hub_with_all_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: dict[str, Any] = {}

    def upload_folder(self: Any, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        pushed[repo_id] = sorted(path.name for path in folder_path.iterdir())
        return "the commit's address"

    repository = huggingface_hub.RepoUrl("https://huggingface.co/me/model")
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, **options: repository)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    assert small().push_to_hub("me/model") == "the commit's address"
    assert pushed == {"me/model": ["README.md", "config.json", "model.safetensors", "tokenizer.json"]}


def test_a_config_that_names_what_is_not_allowed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("foreign.py").write_text("from pathlib import Path\nPath('it_ran').touch()")
    for path in ("foreign.Mixer", "os.system"):
        _change("folder", mixer={"class_path": path, "init_args": {}})
        with pytest.raises(UsageError, match=path):
            again(Path("folder"))
    assert not Path("it_ran").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"dim": 64}, "do not fit"), ({"dimm": 64}, "dimm"), ({"depth": 0}, "depth=0"), ({"depth": 3}, "do not fit")],
    ids=str,
)
def test_a_config_that_does_not_fit_is_refused(
    options: dict[str, Any], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _change("folder", **options)
    with pytest.raises(UsageError, match=expected):
        again(Path("folder"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(MissingFileError, match=f"no {name}"):
        again(tmp_path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"model\.safetensors"):
        again(tmp_path)


@pytest.mark.parametrize("where", ["from_pretrained", "load", "init_from", "generate"])
def test_weights_with_one_flipped_bit_are_refused_by_name(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small().save_pretrained("folder")
    _flip_a_bit(Path("folder"))
    match = r"'folder/model\.safetensors' is damaged or was changed.*delete weights_sha256 from config\.json"
    if where == "generate":
        assert re.search(match, says(["generate", "--ckpt_path=folder"], capsys))
        return
    with pytest.raises(UsageError, match=match):
        {"from_pretrained": again, "load": lit_modules.load, "init_from": partial(pretrained.read, root="runs")}[where](
            Path("folder")
        )


def test_folders_without_a_checksum_are_loaded(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    _flip_a_bit(tmp_path)
    config = tmp_path / "config.json"
    content = json.loads(config.read_text())
    assert content.pop("weights_sha256") != hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    config.write_text(json.dumps(content))
    again(tmp_path)


def test_a_changed_model_is_saved_with_its_own_checksum(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    model = again(tmp_path)
    with torch.no_grad():
        model.embed.weight.mul_(2)
    model.save_pretrained(tmp_path)
    assert torch.equal(again(tmp_path)(IDS), model(IDS))


@pytest.mark.parametrize("text", ["{", "[]", "", "\xff"])
def test_so_is_a_damaged_config(text: str, tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"config\.json"):
        lit_modules.load(tmp_path)


def test_a_mixer_that_plain_values_cannot_express_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="functools"):
        small(lambda dim: Retention(dim)).save_pretrained(tmp_path / "folder")
    assert not any((tmp_path / "folder").iterdir())


def test_load_takes_a_folder_as_it_takes_a_checkpoint(tmp_path: Path) -> None:
    model = small()
    model.save_pretrained(tmp_path)
    loaded, tokenizer = lit_modules.load(tmp_path)
    assert isinstance(loaded, LanguageModel)
    assert torch.equal(loaded(IDS), model(IDS))
    assert tokenizer == model.tokenizer
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(MissingFileError, match=r"tokenizer\.json"):
        lit_modules.load(tmp_path)


def _flip_a_bit(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)


def _change(folder: str, **options: Any) -> None:
    """A folder of a model, with other options in its config.json."""
    small().save_pretrained(folder)
    config = Path(folder, "config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), **options}))
