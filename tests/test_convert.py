"""The command `convert`: a checkpoint as a folder to share, as a sharded folder, as one file."""

import shutil
from pathlib import Path

import pytest
import torch
from small_runs import says

import lit_modules
from lit_modules.main import main

OLD_RUN = Path(__file__).parent / "data" / "old_run"
IDS = torch.arange(20).view(2, 10)


@pytest.fixture
def last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint of a run that an earlier version made."""
    monkeypatch.chdir(shutil.copytree(OLD_RUN, tmp_path / "old"))
    return next(Path("runs").rglob("last.ckpt"))


def written(ckpt: str | Path, capsys: pytest.CaptureFixture[str]) -> str:
    main(["generate", f"--ckpt_path={ckpt}", "--prompt=The", "--max_tokens=20", "--temperature=0", "--accelerator=cpu"])
    return capsys.readouterr().out


def test_a_folder_to_share_writes_the_text_of_its_checkpoint(last: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", str(last), "shared/model"])
    assert "generate --ckpt_path=shared/model" in capsys.readouterr().out
    names = {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert {path.name for path in Path("shared/model").iterdir()} == names
    assert [path.name for path in Path("shared").iterdir()] == ["model"]
    assert torch.equal(lit_modules.load("shared/model")[0](IDS), lit_modules.load(last)[0](IDS))
    assert written("shared/model", capsys) == written(last, capsys)


def test_one_file_becomes_shards_and_shards_one_file(last: Path) -> None:
    main(["convert", "last", "sharded.ckpt", "--to=sharded"])
    main(["convert", "sharded.ckpt", "file.ckpt", "--to=file"])
    main(["convert", "sharded.ckpt", "folder"])
    expected = lit_modules.load(last)[0](IDS)
    assert all(
        torch.equal(lit_modules.load(path)[0](IDS), expected) for path in ("sharded.ckpt", "file.ckpt", "folder")
    )
    old, new = (torch.load(path, weights_only=True) for path in (last, "file.ckpt"))
    assert old.keys() == new.keys()
    assert str(old["optimizer_states"]) == str(new["optimizer_states"])


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["last", "corpus.txt"], "output='corpus.txt' is there already"),
        (["last", "runs"], "output='runs' is there already"),
        (["corpus.txt", "new"], "corpus.txt' is damaged, or no checkpoint"),
        (["nowhere.ckpt", "new"], "nowhere.ckpt' is no file"),
        (["last", "new", "--to=file"], "has the form --to=file already"),
        (["last", "new", "--to=onnx"], "onnx"),
        (["folder", "new"], "ckpt_path='folder' is a folder to share"),
        (["last"], "output"),
    ],
    ids=str,
)
def test_a_mistake_gets_one_sentence_and_writes_nothing(
    said: list[str], expected: str, last: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lit_modules.load(last)[0].save_pretrained("folder")
    before = sorted(Path().rglob("*"))
    assert expected in says(["convert", *said], capsys)
    assert sorted(Path().rglob("*")) == before


def test_a_folder_without_a_tokenizer_asks_for_it(last: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lit_modules.load(last)[0].save_pretrained("folder")
    Path("folder/tokenizer.json").unlink()
    assert "has no tokenizer.json" in says(["generate", "--ckpt_path=folder"], capsys)
