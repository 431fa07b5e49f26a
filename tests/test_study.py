"""A study's file: what it says, and what is wrong with it."""

import re
from pathlib import Path

import pytest
import yaml
from small_study import STUDY, prepare

from lit_modules.commands.compare.run_tables import _curve
from lit_modules.commands.compare.study import Run, deep_merge, read_study, slug
from lit_modules.main import main
from mixers.checks import UsageError


def test_rows_and_seeds_can_be_done_alone(tmp_path: Path) -> None:
    study = read_study(prepare(tmp_path))
    assert [run.name for run in study.runs(["RetNet"], [1])] == ["RetNet, seed 1"]
    assert [run.name for run in study.runs()] == [
        "RetNet, seed 0",
        "Linear, one head, seed 0",
        "RetNet, seed 1",
        "Linear, one head, seed 1",
    ]
    assert study.runs()[3].folder == Path("runs/compare/small/linear_one_head/seed_1")


def test_sections_may_be_files_beside_the_study(tmp_path: Path) -> None:
    (tmp_path / "common.yaml").write_text(yaml.safe_dump(STUDY["fit"]), encoding="utf-8")
    assert read_study(prepare(tmp_path, fit="common.yaml")).fit == STUDY["fit"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row": {}}, r"study='.*': 'row' .*: it needs rows and fit"),
        ({"rows": {}}, "study='.*': rows={} should give options to one or more names"),
        ({"rows": {"A b": {}, "a-b": {}}}, r"study='.*': rows=\['A b', 'a-b'\] need names that differ in letters or"),
        ({"seeds": "0"}, "study='.*': .*\"seeds\": Expected a .*list.*: 0"),
        ({"seeds": []}, r"study='.*': seeds=\[\] is empty"),
        ({"fit": "missing.yaml"}, "fit of study='.*', which='.*missing.yaml' is no file"),
        ({"test": [1]}, r"study='.*': .*\"test\": Expected a .*dict.*: \[1\]"),
        ({"cost": {"length": [1]}}, "study='.*': Group 'cost' does not accept option 'length'"),
        ({"cost": {"rounds": 0}}, "study='.*': rounds=0 is too small"),
        ({"rows": {"A": {"model": {"mixer": "retentoin"}}}}, "row 'A' of small: .*did you mean 'retention'"),
        ({"rows": {"A": {"model": {"dmi": 3}}}}, "row 'A' of small: .*dmi"),
        ({"test": {"contxts": [128]}}, "test of small: .*contxts"),
        ({"test": {"contexts": [64]}}, r"contexts=\[64\] has one that is shorter than the 128 tokens"),
        ({"test": {"corpora": ["other.txt", "other.txt"]}}, r"has 'other.txt' again"),
        ({"test": {"corpora": ["playz"]}}, "corpus='playz' .*did you mean 'plays'"),
        ({"test": {"corpora": ["missing.txt"]}}, "corpus='missing.txt' is not there"),
    ],
)
def test_a_study_that_is_wrong_is_answered_in_a_sentence(changes, message, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = prepare(tmp_path, **changes)
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(path)])
    [error] = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("lit-mixers ")]
    assert re.search(message, error), error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("word", "message"), [("--rows=[Retnet]", "rows has 'Retnet'"), ("--seeds=[7]", "seeds has 7")]
)
def test_a_row_or_seed_that_is_not_there_is_named(word: str, message: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(prepare(tmp_path)), word])
    assert message in capsys.readouterr().err


def test_a_mixer_and_its_options_are_one_value() -> None:
    below = {"model": {"lr": 1, "mixer": {"class_path": "a", "init_args": {"x": 1}}}, "data": {"seed": 0}}
    above = {"model": {"mixer": {"class_path": "b"}}, "data": {"seed": 1}}
    assert deep_merge(below, above) == {"model": {"lr": 1, "mixer": {"class_path": "b"}}, "data": {"seed": 1}}


def test_folders_are_named_after_their_rows() -> None:
    assert slug("RetNet, γ = 1") == "retnet_gamma_1"


def test_a_row_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = prepare(tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace("Linear, one head:", "RetNet:"), encoding="utf-8")
    with pytest.raises(UsageError, match="'RetNet' stands twice"):
        read_study(path)


def test_a_run_of_which_no_step_was_logged_has_no_curve(tmp_path: Path) -> None:
    assert _curve(Run("RetNet", 0, tmp_path, {}, {})).empty
