"""The page with every mixer: it is what the code, the measurements and its texts say, and no mixer is left out."""

import csv
from pathlib import Path

import pytest
import yaml

from docs import mixer_table
from mixers import GRU, Attention, Mixer, available


def test_the_page_is_what_its_script_writes() -> None:
    assert mixer_table.page() == mixer_table.PAGE.read_text(encoding="utf-8"), "run python docs/mixer_table.py"


def test_every_mixer_of_the_library_has_its_row() -> None:
    ours = {name for name, mixer in available().items() if mixer.__module__.startswith("mixers.")}
    assert set(mixer_table.texts()) == ours == set(mixer_table.own_mixers())


@pytest.mark.parametrize("name", mixer_table.texts())
def test_a_row_says_everything_in_a_sentence(name: str) -> None:
    text = mixer_table.texts()[name]
    assert list(text) == ["group", "equation", "good", "limits", "weights"]
    assert not any("\n" in part or "`" in text["equation"] for part in text.values())
    assert all(text[part].endswith(".") for part in ("good", "limits", "weights"))


@pytest.mark.parametrize("length", [1024, 2048])
def test_a_state_that_grows_is_that_after_the_tokens(length: int) -> None:
    mixer = Attention(16, num_heads=2).to("meta")
    assert mixer_table.state_bytes(mixer, length) == 2 * 4 * 16 * length + 8  # keys, values and the position


def test_costs_are_measured_and_compared_with_attention() -> None:
    measured = mixer_table.costs({"attention": Attention, "gru": GRU}, length=16, dim=16)
    for phase in ("train", "decode"):
        times = measured["seconds"][phase]
        assert set(times) == {"attention", "gru"}
        assert min(times.values()) > 0
        expected = f"{1e6 * times['gru']:,.0f} ({times['gru'] / times['attention']:.1f})"
        assert mixer_table.cost(measured, phase, "gru") == expected
        assert mixer_table.cost(measured, phase, "rwkv") == "–"
    assert "after as many" in " ".join(mixer_table.notes(measured))


def test_accuracies_are_those_of_the_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixer_table, "HERE", tmp_path)
    monkeypatch.setattr(mixer_table, "STUDIES", tmp_path)
    assert mixer_table.accuracies("recall") == {}
    several = {"A": {"mixer": "gru"}, "B, β up to 2": {"mixer": {"class_path": "kda"}}, "B": {"mixer": "kda"}}
    study = {"rows": {row: {"model": model} for row, model in {**several, "C": {"mixer": "lstm"}}.items()}}
    (tmp_path / "recall.yaml").write_text(yaml.safe_dump(study, allow_unicode=True), encoding="utf-8")
    mixer_table.report("recall").parent.mkdir(parents=True)
    with mixer_table.report("recall").open("w", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["row", "accuracy"], ["A", "0.5"], ["B, β up to 2", "1.0"], ["B", "0.123"], ["C", ""]]
        )
    assert mixer_table.accuracies("recall") == {"gru": "50", "kda": "100 (β up to 2), 12"}
    assert "[recall](tasks/recall/report/report.md)" in " ".join(mixer_table.notes(None))


def test_a_mixer_without_a_paper_is_told_to_name_one() -> None:
    class Unheard(Mixer):
        """Something new."""

    with pytest.raises(AssertionError, match="Unheard names no paper in its docstring"):
        mixer_table.paper(Unheard)
