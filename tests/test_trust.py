"""What other people hand over, checkpoints and configs, runs no code."""

import shutil
import sys
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentError
from small_runs import says
from small_study import STUDY, prepare

import lit_modules
from lit_modules.commands.compare.study import read_study
from lit_modules.data.tokenizer import read_tokenizer
from lit_modules.main import main
from lit_modules.training.allowed_imports import allowed
from lit_modules.training.language_model import LitLanguageModel
from lit_modules.training.mixer_config import complete
from mixers import Retention, registry
from mixers.checks import UsageError

OLD_RUN = Path(__file__).parent / "data" / "old_run" / "runs" / "retention-attention" / "version_0"
STRANGER = """
from pathlib import Path
from lit_modules.main import main
from lit_modules.training.allowed_imports import allowed
from lit_modules.training.language_model import LitLanguageModel
from mixers import Retention, registry

Path("it_ran").touch()


class Stranger(Retention):
    pass
"""


class Payload:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("it_ran"),)


def checkpoint_with(path: str, **content: Any) -> str:
    """A checkpoint that a run wrote, with something else in it."""
    old = torch.load(OLD_RUN / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({**old, **content}, path)
    return path


def test_the_payload_of_these_tests_runs_where_it_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.load(checkpoint_with("evil.ckpt", more=Payload()), weights_only=False)
    assert Path("it_ran").exists()


@pytest.mark.parametrize("where", ["state_dict", "hyper_parameters", "Text", "callbacks", "more"])
def test_a_checkpoint_with_code_is_refused_and_the_code_does_not_run(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = checkpoint_with("evil.ckpt", **{where: {"tokenizer": Payload()}})
    with pytest.raises(UsageError, match=r"evil\.ckpt"):
        lit_modules.load(path)
    with pytest.raises(UsageError, match=r"evil\.ckpt"):
        read_tokenizer(path, cache_dir=tmp_path)
    assert not Path("it_ran").exists()


@pytest.mark.parametrize(
    "said",
    [
        ["generate", "--ckpt_path=evil.ckpt"],
        ["fit", "--ckpt_path=evil.ckpt"],
        ["validate", "--ckpt_path=evil.ckpt"],
        ["test", "--ckpt_path=evil.ckpt"],
        ["fit", "--data.corpus=corpus.txt", "--data.tokenizer=evil.ckpt"],
    ],
    ids=" ".join,
)
def test_so_it_is_by_every_command(said: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint_with("evil.ckpt", more=Payload())
    assert "evil.ckpt" in says(said, capsys)
    assert not Path("it_ran").exists()


# What the command `evaluate` imports of the harness before it reads a checkpoint, where the harness is not installed.
HARNESS = {
    "__init__": "def simple_evaluate(*args, **options): raise AssertionError",
    "tasks": "TaskManager = dict",
    "utils": "make_table = get_rolling_token_windows = make_disjoint_window = None",
    "api/model": "class TemplateLM: pass",
    "models/utils": "Collator = None",
}


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-evaluation-harness, or as much of it as is imported."""
    if find_spec("lm_eval") is not None:
        return
    for name, content in HARNESS.items():
        file = tmp_path / "harness" / "lm_eval" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    monkeypatch.syspath_prepend(tmp_path / "harness")


@pytest.mark.usefixtures("harness")
@pytest.mark.parametrize("where", ["evil.ckpt", "evil/checkpoint.ckpt", "runs/gru/version_0/checkpoints/last.ckpt"])
def test_evaluate_refuses_it_too(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(where).parent.mkdir(parents=True, exist_ok=True)
    checkpoint_with(where, more=Payload())
    path = "last" if "runs" in where else where.split("/")[0]
    assert "no checkpoint of lit-mixers" in says(["evaluate", "--tasks=[piqa]", f"--ckpt_path={path}"], capsys)
    assert not Path("it_ran").exists()


@pytest.mark.parametrize("step", ["begin", "go on"])
def test_a_study_does_not_go_on_from_it(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    study = read_study(prepare(tmp_path))
    if step == "begin":
        checkpoint_with("evil.ckpt", more=Payload())
        prepare(tmp_path, fit={**STUDY["fit"], "data": {**STUDY["fit"]["data"], "tokenizer": "evil.ckpt"}})
    else:
        for run in study.runs():
            (run.folder / "checkpoints").mkdir(parents=True)
            checkpoint_with(str(run.folder / "checkpoints" / "last.ckpt"), more=Payload())
    assert ".ckpt" in says(["compare", "small.yaml"], capsys)
    assert not Path("it_ran").exists()


def test_a_sharded_checkpoint_with_code_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["convert", str(OLD_RUN / "checkpoints" / "last.ckpt"), "sharded", "--to=sharded"])
    content = torch.load("sharded/checkpoint.ckpt", weights_only=True)
    torch.save({**content, "more": Payload()}, "sharded/checkpoint.ckpt")
    for said in (["generate"], ["convert", "sharded", "new"], ["convert", "sharded", "new", "--to=file"]):
        words = said if len(said) > 1 else [*said, "--ckpt_path=sharded"]
        assert "ckpt_path='sharded' is no checkpoint" in says(words, capsys)
    assert not Path("it_ran").exists()


@pytest.fixture
def stranger(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The import path of a mixer of a package that is not installed, only found."""
    Path("stranger.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    return "stranger.Stranger"


@pytest.mark.parametrize(
    "said",
    [
        ["--model.mixer=stranger.Stranger"],
        ["--model.overrides.1=stranger.Stranger"],
        ["--model.pattern=[stranger.Stranger]"],
        ["--trainer.callbacks=stranger.Stranger"],
        ["--trainer.logger=stranger.Stranger"],
        ["--config=evil.yaml"],
    ],
    ids=" ".join,
)
def test_what_is_not_allowed_is_not_imported(
    said: list[str], stranger: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("evil.yaml").write_text("model: {mixer: {class_path: stranger.Stranger, init_args: {num_heads: 2}}}")
    sentence = says([*words, *said], capsys)
    assert "'stranger.Stranger' may not be imported" in sentence
    assert "LIT_MIXERS_ALLOW=stranger" in sentence
    assert not Path("it_ran").exists()


@pytest.mark.parametrize("command", ["benchmark train --mixers=[stranger.Stranger]", "generate --ckpt_path=evil.ckpt"])
def test_nor_is_it_by_our_own_commands(command: str, stranger: str, capsys: pytest.CaptureFixture[str]) -> None:
    saved = torch.load(OLD_RUN / "checkpoints" / "last.ckpt", weights_only=True)["hyper_parameters"]
    checkpoint_with("evil.ckpt", hyper_parameters={**saved, "mixer": {"class_path": stranger, "init_args": {}}})
    assert "LIT_MIXERS_ALLOW=stranger" in says(command.split(), capsys)
    assert not Path("it_ran").exists()


@pytest.mark.parametrize("path", ["os.system", "mixers.LanguageModel", "torch.hub.load", "subprocess.run"])
def test_what_is_no_mixer_is_none(path: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert path in says([*words, f"--model.mixer={path}"], capsys)
    with pytest.raises(UsageError, match=path):
        complete(path)


def test_a_run_with_code_in_its_config_is_not_gone_on_with(stranger: str, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(OLD_RUN, "run")
    config = Path("run", "config.yaml")
    config.write_text(config.read_text().replace("callbacks: null", "callbacks: [{class_path: stranger.Stranger}]"))
    sentence = says(["fit", "--ckpt_path=run/checkpoints/last.ckpt"], capsys)
    assert "'stranger.Stranger' may not be imported" in sentence
    assert not Path("it_ran").exists()


def test_nor_does_lightning_import_it(stranger: str) -> None:
    saved = torch.load(OLD_RUN / "checkpoints" / "last.ckpt", weights_only=True)["hyper_parameters"]
    evil = checkpoint_with("evil.ckpt", hyper_parameters={**saved, "mixer": {"class_path": stranger, "init_args": {}}})
    with pytest.raises(ArgumentError, match=r"Importing 'stranger\.Stranger' is not allowed"):
        LitLanguageModel.load_from_checkpoint(evil)
    assert not Path("it_ran").exists()


def test_an_environment_variable_allows_more(stranger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_MIXERS_ALLOW", "another_package, stranger")
    assert complete(stranger).name == "Stranger"


def test_the_packages_of_installed_mixers_are_allowed(stranger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offer = EntryPoint("strange", "stranger:Stranger", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [offer])
    assert "stranger" in allowed()
    assert complete(stranger).name == "strange"


def test_a_mixer_that_the_program_imported_itself_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(Retention):
        pass

    monkeypatch.setattr(sys.modules[__name__], "Mine", Mine, raising=False)
    assert complete(f"{__name__}.Mine").cls is Mine


@pytest.mark.parametrize("value", ["my-package", "jsonargparse", "a b", "os;"])
def test_the_variable_has_import_names(
    value: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIT_MIXERS_ALLOW", value)
    assert f"LIT_MIXERS_ALLOW has {value!r}" in says(words, capsys)
