"""The command `test` on a command line, and its mistakes."""

import json
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from pytorch_lightning import LightningModule
from small_evaluation import OTHER, read, run_of, trained_folder
from small_runs import says, trainer

from lit_modules.main import main

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_folder(tmp_path_factory.mktemp("tested"))


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return run_of(folder)


def test_the_command_tests_with_a_config_and_prints_what_it_found(
    folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    Path("rows.jsonl").write_text('{"input": "the people are free to say what"}\n' * 9, encoding="utf-8")
    Path("test.yaml").write_text(
        "corpora: [other.txt, {corpus: rows.jsonl, text_field: input}]\ncontexts: [130]\nmax_tokens: 200\n"
    )
    words = ["test", "--config=test.yaml", "--ckpt_path=last", "--trainer.accelerator=cpu", "--data.cache_dir=cache"]
    main([*words, "--trainer.precision=32-true"])
    shown = capsys.readouterr().out
    assert "rows.jsonl" in shown
    assert "context  loss of the last 128" in shown
    assert "Lower is better. Loss is in nats per token." in shown
    assert "65 to 128" in shown
    assert f"tables: {(run / 'test').relative_to(folder)}" in shown
    assert [row["tokens"] for row in read(run / "test", "corpora")] == ["192", "192", "192"]


def test_the_config_of_the_papers_sets_names_what_can_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_dataset(name: str, config: str | None, *, cache_dir: str) -> dict[str, datasets.Dataset]:
        assert (name, config) == ("emozilla/pg19-test", None)
        return {"test": datasets.Dataset.from_dict({"text": [OTHER] * 3})}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(folder)
    for name in ("qmsum", "gov_report", "summ_screen_fd"):
        Path("scrolls", name).mkdir(parents=True)
        Path("scrolls", name, "test.jsonl").write_text(json.dumps({"input": OTHER, "output": None}), encoding="utf-8")
    config = PROJECT / "configs" / "paper" / "out_of_domain.yaml"
    words = ["test", f"--config={config}", "--ckpt_path=last", "--trainer.accelerator=cpu", "--data.cache_dir=cache"]
    main([*words, "--contexts=[128]"])
    assert "emozilla/pg19-test" in capsys.readouterr().out


def test_it_shows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["test", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Other corpora, each a name" in shown
    assert "--contexts" in shown
    assert "Most tokens of each corpus to score" in shown


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["--corpora=[nowhere.txt]"], ["corpus='nowhere.txt' is not there"]),
        (["--corpora=[playz]"], ["corpus='playz' is not known", "'plays'"]),
        (["--corpora=[{corpus: rows.jsonl}]"], ["no field text_field='text'", "input"]),
        (["--corpora=[{corpuss: rows.jsonl}]"], ["corpora=[{corpuss: rows.jsonl}]", "text_field"]),
        (["--corpora=[other.txt,other.txt]"], ["'other.txt' again", "there already"]),
        (["--contexts=[512,5000]"], ["contexts=5000", "write a smaller number"]),
        (["--contexts=[128,127]"], ["contexts=[128, 127]", "128 or more"]),
        (["--contexts=[a]"], ["contexts"]),
        (["--contexts=512"], ["contexts"]),
        (["--max_tokens=0"], ["max_tokens=0"]),
        (["--max_tokens=15"], ["data.block_size=16", "a larger data.val_tokens or max_tokens"]),
        (["--max_tokens=many"], ["--max_tokens", "many"]),
        (["--trainer.limit_test_batches=2"], ["limit_test_batches=2", "max_tokens"]),
        (["--ckpt_path=missing.ckpt"], ["missing.ckpt"]),
        (["--context=[128]"], ["did you mean --contexts?"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_a_mistake_gets_one_sentence(
    said: list[str],
    expected: list[str],
    folder: Path,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    Path("rows.jsonl").write_text('{"input": "the people"}\n' * 9, encoding="utf-8")
    words = ["test", "--ckpt_path=last", "--trainer.accelerator=cpu", "--data.cache_dir=cache", "--contexts=[128]"]
    sentence = says([*words, *said], capsys)
    assert all(part in sentence for part in expected), sentence
    assert len(sentence) < 400


def test_it_needs_a_trained_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--ckpt_path" in says(["test"], capsys)


def test_a_module_with_loaders_of_its_own_is_tested_as_lightning_does(tmp_path: Path) -> None:
    class Own(LightningModule):
        def test_step(self, batch: torch.Tensor) -> None:
            self.log("own", batch.mean())

    loaders = torch.utils.data.DataLoader(torch.ones(4, 1), num_workers=0)
    quiet = trainer(tmp_path, logger=False, limit_test_batches=2)
    assert quiet.test(Own(), loaders, verbose=False) == [{"own": 1.0}]
    with pytest.raises(ValueError, match=r"corpora=\['plays'\].*datamodule"):
        quiet.test(Own(), loaders, corpora=["plays"])


def test_tables_go_to_the_folder_that_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    words = ["test", "--ckpt_path=last", "--trainer.accelerator=cpu", "--data.cache_dir=cache", "--contexts=[]"]
    main([*words, "--output_dir=elsewhere/tables"])
    assert read(Path("elsewhere/tables"), "corpora")
    Path("file").touch()
    sentence = says([*words, "--output_dir=file/below"], capsys)
    assert sentence.startswith("output_dir='file/below' cannot be written to (Not a directory)")


def test_tables_that_cannot_be_written_are_printed_and_that_is_said_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    [last] = Path("runs").rglob("last.ckpt")
    shutil.copytree(last.parent, "readonly/checkpoints")
    Path("readonly/test").touch()  # root may write to any folder, but not below a file
    words = ["test", "--ckpt_path=readonly/checkpoints/last.ckpt", "--contexts=[]", "--data.cache_dir=cache"]
    main([*words, "--trainer.accelerator=cpu"])
    shown = capsys.readouterr().out
    told = "readonly/test cannot be written to (File exists), so the tables are only printed: write --output_dir="
    assert told in shown
    assert "perplexity" in shown[shown.index(told) :]
