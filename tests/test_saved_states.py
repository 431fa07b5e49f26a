"""States of decoding: saved, loaded in another process, continued."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import says

from lit_modules import PretrainedLanguageModel
from lit_modules.data.tokenizer import bytes_tokenizer
from lit_modules.evaluation import saved_state
from lit_modules.main import main
from mixers import LanguageModel, available

CONTINUE = """
import sys
import warnings
import torch
from mixers import LanguageModel

warnings.simplefilter("ignore")
torch.set_num_threads(1)  # as in the tests, for the same rounding
for name in sys.argv[1:]:
    model = LanguageModel(name, vocab_size=50, dim=32, depth=2).eval()
    model.load_state_dict(torch.load(f"{name}.weights.pt", weights_only=True))
    state = torch.load(f"{name}.state.pt", weights_only=True)
    with torch.no_grad():
        torch.save(model.extend(torch.tensor([[7, 8], [9, 10]]), state)[0], f"{name}.logits.pt")
"""


def test_a_state_of_every_mixer_goes_on_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ids, expected = torch.arange(22).view(2, 11), {}
    for name in available():
        torch.manual_seed(0)
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            model = LanguageModel(name, vocab_size=50, dim=32, depth=2).eval()
            state = model.extend(ids, model.initial_state(2))[1]
            torch.save(model.state_dict(), f"{name}.weights.pt")
            torch.save(state, f"{name}.state.pt")
            expected[name] = model.extend(torch.tensor([[7, 8], [9, 10]]), state)[0]
    path = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", CONTINUE, *expected], check=True, env={"PYTHONPATH": path})
    for name, logits in expected.items():
        assert torch.equal(torch.load(f"{name}.logits.pt", weights_only=True), logits), name


def generated(capsys: pytest.CaptureFixture[str], *said: str) -> str:
    main(["generate", "--temperature=0", "--max_tokens=20", "--accelerator=cpu", "--ckpt_path=folder", *said])
    return capsys.readouterr().out


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PretrainedLanguageModel:
    """A small hybrid with the bytes as tokens, in the folder `folder`."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    options = {"vocab_size": 257, "dim": 32, "depth": 2, "overrides": {1: "attention"}}
    model = PretrainedLanguageModel("retention", tokenizer=bytes_tokenizer(), **options)
    model.save_pretrained("folder")
    return model


def test_generate_goes_on_from_a_saved_state(
    folder: PretrainedLanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = generated(capsys, "--prompt=The state of the union")
    generated(capsys, "--prompt=The state", "--save_state=a.pt")
    assert "The state" + generated(capsys, "--load_state=a.pt", "--prompt= of the union") == whole
    generated(capsys, "--load_state=a.pt", "--prompt= of", "--save_state=b.pt")
    assert "The state of" + generated(capsys, "--load_state=b.pt", "--prompt= the union") == whole
    both = generated(capsys, "--load_state=b.pt", "--prompt= the union", "--prompt= it")
    assert f"The state of{both}".startswith(whole)
    started = generated(capsys, "--prompt=The state")
    assert "The state" + generated(capsys, "--load_state=a.pt") == started


def test_an_empty_prompt_is_saved_too(folder: PretrainedLanguageModel, capsys: pytest.CaptureFixture[str]) -> None:
    whole = generated(capsys, "--save_state=a.pt")
    assert generated(capsys, "--load_state=a.pt") == whole


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["--load_state=nowhere.pt"], "load_state='nowhere.pt' is no file"),
        (["--load_state=folder/README.md"], "README.md' is no file that --save_state made"),
        (["--load_state=evil.pt"], "evil.pt' is no file that --save_state made"),
        (["--load_state=weights.pt"], "weights.pt' is no file that --save_state made"),
        (["--load_state=other.pt"], "other.pt' was saved with another model"),
        (["--save_state=weights.pt"], "save_state='weights.pt' is there already"),
        (["--save_state=new.pt", "--prompt=a", "--prompt=b"], "save_state='new.pt' is for one prompt"),
    ],
    ids=str,
)
def test_a_file_that_is_no_state_of_the_model_is_refused(
    said: list[str], expected: str, folder: PretrainedLanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(folder.state_dict(), "weights.pt")
    torch.save({"states": Evil(), "last": 1, "model": ""}, "evil.pt")
    text = saved_state.read(folder, bytes_tokenizer(), "The", None)
    next(folder.parameters()).data.add_(1e-3)
    saved_state.save(Path("other.pt"), folder, text)
    before = sorted(Path().rglob("*"))
    assert expected in says(["generate", "--ckpt_path=folder", "--accelerator=cpu", *said], capsys)
    assert sorted(Path().rglob("*")) == before


class Evil:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("it_ran"),)
