"""Wrong input of every kind is answered in one sentence, and changes nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_runs import SMALL_WORDS, write_text
from wrong_input import COMMANDS, FIT, prepare
from wrong_studies import STUDIES, changed_study

from lit_modules.main import main

PROJECT = Path(__file__).parents[1]
LONGEST = 700  # characters of a sentence
ALL = [*((f"fit {typed}", words) for typed, words in FIT), *COMMANDS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run and everything that is wrong."""
    folder = tmp_path_factory.mktemp("wrong")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_text(folder / "corpus.txt", words=6000)
        main(list(SMALL_WORDS))
        prepare()
    return folder


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LIT_MIXERS_CACHE", str(folder / "cache"))
    monkeypatch.setattr(sys, "argv", ["cli.py"])


def files(folder: Path) -> dict[Path, int]:
    """When each file was last written, but those of the cache; folders, also empty ones, are there too."""
    found = (path for path in folder.rglob("*") if "cache" not in path.parts)
    return {path: path.stat().st_mtime_ns if path.is_file() else 0 for path in found}


def check(argv: list[str], words: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Checks that a command line is answered in one sentence, with these words in order, and writes nothing."""
    before = files(folder)
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    [sentence] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert said.endswith(sentence + "\n")
    assert len(sentence) < LONGEST
    for word in words.split():
        assert word in sentence, sentence
    assert files(folder) == before


@pytest.mark.parametrize(("typed", "words"), ALL, ids=lambda value: ascii(value)[:80])
def test_a_wrong_command_line_is_answered_in_a_sentence(typed: str, words: str, folder: Path, capsys) -> None:
    command, *options = typed.split()
    check([*(SMALL_WORDS if command == "fit" else [command]), *options], words, folder, capsys)


@pytest.mark.parametrize(("path", "value", "words"), STUDIES, ids=str)
def test_a_wrong_study_is_answered_before_any_training(path, value, words, folder: Path, capsys) -> None:
    study = folder / "wrong.yaml"
    study.write_text(yaml.safe_dump(changed_study(path, value)), encoding="utf-8")
    check(["compare", "wrong.yaml"], words, folder, capsys)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["fit", "--data.tokenizer=bytes", "--data.corpus=corpus.txt", "--trainer.max_steps=-2"], "max_steps=-2"),
        (["generate", b"--prompt=\xff"], "not UTF-8"),
    ],
)
def test_so_it_is_in_a_process_of_its_own(argv: list[str | bytes], words: str, folder: Path) -> None:
    command = [sys.executable, str(PROJECT / "cli.py"), *argv]
    ran = subprocess.run(command, cwd=folder, env={**os.environ}, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert re.search(rf"^error: .*{re.escape(words)}", ran.stderr.splitlines()[-1])
