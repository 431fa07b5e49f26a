"""The committed results of the comparison: what was chosen and what is reported follow from them."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_runs import lines
from small_study import copy_results

from lit_modules.commands.compare import report, tokens_report
from lit_modules.commands.compare.budgets import parts_of, tokens_of
from lit_modules.commands.compare.intervals import two_way
from lit_modules.commands.compare.results import Results, kept_results
from lit_modules.commands.compare.study import Options, Study, read_study
from lit_modules.commands.compare.tuning import search_of, tuned
from lit_modules.main import main

PROJECT = Path(__file__).parent.parent
RESULTS = PROJECT / "docs" / "comparison"
SIX = ("RetNet", "RWKV", "H3", "Hyena", "Linear Transformer", "Transformer")  # the paper's Table 5 and the Transformer


def page_text() -> str:
    return (PROJECT / "docs" / "comparison.md").read_text(encoding="utf-8")


def study(name: str) -> Study:
    return read_study(PROJECT / "configs" / "comparison" / f"{name}.yaml", RESULTS / name)


def table(study: Study, name: str) -> list[dict[str, str]]:
    return lines(study.folder / "report" / f"{name}.csv")


def pieces(study: Study) -> dict[str, np.ndarray]:
    """The tokens and nats of each row: (seeds, pieces, 2)."""
    results = pd.read_parquet(study.folder / "results.parquet")
    found = results[results["kind"] == "pieces"].groupby("row", sort=False)
    return {
        str(row): np.array([seed[["tokens", "nats"]].to_numpy(float) for _, seed in of_row.groupby("seed")])
        for row, of_row in found
    }


def but_for_the_rate(options: Options) -> Options:
    return {**options["model"], "lr": None}


def test_each_learning_rate_is_the_best_of_those_tried() -> None:
    rates = study("rates")
    losses = {line["row"]: float(line["loss"]) for line in table(rates, "rows")}
    for row, options in study("laptop").rows.items():
        tried = [name for name in rates.rows if but_for_the_rate(rates.rows[name]) == but_for_the_rate(options)]
        best = min(tried, key=losses.__getitem__)
        assert options["model"]["lr"] == rates.rows[best]["model"]["lr"], row


@pytest.mark.parametrize("name", ["rates", "laptop", "neighbours", "longer"])
def test_no_run_was_left_out(name: str) -> None:
    expected = study(name)
    assert {row: len(seeds) for row, seeds in pieces(expected).items()} == dict.fromkeys(
        expected.rows, len(expected.seeds)
    )


@pytest.mark.parametrize("name", ["rates", "laptop", "neighbours", "longer"])
def test_the_numbers_of_each_row_are_those_of_its_pieces_of_text(name: str) -> None:
    found = pieces(study(name))
    first = next(iter(found.values()))
    for line, row in zip(table(study(name), "rows"), found.values(), strict=True):
        assert float(line["loss"]) == pytest.approx(row[..., 1].sum() / row[..., 0].sum())
        if row is not first:
            apart = two_way(row[..., 1] - first[..., 1], row[0, :, 0])
            assert tuple(float(line[column]) for column in ("difference", "low", "high")) == pytest.approx(apart)


def test_the_docs_show_the_reports_table() -> None:
    page = page_text()
    report = (RESULTS / "laptop" / "report" / "report.md").read_text(encoding="utf-8")
    quality = report.split("## Quality")[1].split("\n## ")[0]
    assert [line for line in quality.splitlines() if line.startswith("| ") and line not in page] == []


@pytest.mark.parametrize("name", ["laptop", "longer"])
def test_a_report_is_made_again_from_the_results_alone(name: str, tmp_path: Path) -> None:
    for kept in ("results.parquet", "cost.json"):
        if (RESULTS / name / kept).is_file():
            shutil.copy(RESULTS / name / kept, tmp_path)
    study = PROJECT / "configs" / "comparison" / f"{name}.yaml"
    main(["compare", str(study), f"--folder={tmp_path}", "--accelerator=cpu"])
    made, committed = (folder / "report" for folder in (tmp_path, RESULTS / name))
    pd.testing.assert_frame_equal(pd.read_csv(made / "rows.csv"), pd.read_csv(committed / "rows.csv"))
    assert (made / "report.md").read_text(encoding="utf-8") == (committed / "report.md").read_text(encoding="utf-8")
    assert "<svg" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_page_says_what_the_tuning_has_found_so_far() -> None:
    page = " ".join(page_text().split())
    search = search_of(study("tokens"))
    tried = [each for row in search.study.rows for each in search.tried(row) if each.name in search.losses]
    assert f"{len(tried)} runs are done" in page
    first = None
    for row in SIX:
        assert search.best(row), f"the search of {row} is not over"
        lines = [(search.losses[each.name], *each.values.values()) for each in tried if each.row == row]
        losses = min(loss for loss, _, ratio in lines if ratio == 1), min(lines)[0]
        first = first or losses
        apart = [
            f" ({loss - other:+.3f})" if row != "RetNet" else "" for loss, other in zip(losses, first, strict=True)
        ]
        _, lr, ratio = min(lines)
        cells = [f"{loss:.3f}{words}" for loss, words in zip(losses, apart, strict=True)]
        assert f"| {row} | {cells[0]} | {cells[1]} | {lr:g} | {ratio:g} |" in page


def test_at_twice_the_width_mixers_learn_at_the_fraction_found() -> None:
    search, wide = search_of(study("tokens")), read_study(PROJECT / "configs" / "comparison" / "tokens_256.yaml")
    for row, options in wide.rows.items():
        best = search.best(row)
        assert best
        assert options["model"]["mixer_lr_ratio"] == best.values["mixer_lr_ratio"], row
        assert best.values["lr"] in wide.tuning.grid["lr"]


def budgets(of: Study) -> list[Results]:
    """The results after each number of tokens that there are."""
    parts = parts_of(tuned(search_of(of)))
    return [kept_results(part) for part in parts if (part.folder / "results.parquet").is_file()]


def test_the_reports_on_tokens_are_those_of_the_results(tmp_path: Path) -> None:
    committed = RESULTS / "tokens"
    copy_results(committed, tmp_path)
    again = read_study(PROJECT / "configs" / "comparison" / "tokens.yaml", tmp_path)
    done = budgets(again)
    for results in done:
        report.write(results, None)
    tokens_report.write(again, done, search_of(again))
    pages = sorted(path.relative_to(committed) for path in committed.rglob("report.md"))
    assert pages == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("report.md"))
    for name in pages:
        assert (tmp_path / name).read_text(encoding="utf-8") == (committed / name).read_text(encoding="utf-8")


def test_the_page_shows_losses_after_each_number_of_tokens() -> None:
    page = page_text()
    found = (RESULTS / "tokens" / "report" / "report.md").read_text(encoding="utf-8")
    table = found.split("## Loss by tokens")[1].split("\n## ")[0].splitlines()
    shown = [line for line in table if line.startswith(tuple(f"| {row} |" for row in ("", *SIX)))]
    assert len(shown) == 1 + len(SIX)
    assert [line for line in shown if line not in page] == []


def test_the_page_says_where_the_differences_lie() -> None:
    page = " ".join(page_text().split())
    after = budgets(study("tokens"))[0]

    def apart(row: str, by: str, *classes: str) -> str:
        table = after.by_class(by)
        means = [after.difference(row, "RetNet", table[table["class"] == name]).mean for name in classes]
        return f"{min(means):+.2f} to {max(means):+.2f}"

    often = ("100 to 999", "1000 or more")
    kinds = [f"{how} {name}" for how in ("new", "repeated") for name in ("10 to 99", *often)]
    assert f"on all kinds of tokens: {apart('RWKV', 'recall', *kinds)} by how often" in page
    late = ("17 to 32", "33 to 64", "65 to 128", "129 to 256", "257 to 512")
    assert f"and {apart('RWKV', 'position', *late)} from the 17th position on" in page
    repeated = apart("Transformer", "recall", *(f"repeated {name}" for name in often))
    new = apart("Transformer", "recall", *(f"new {name}" for name in ("10 to 99", *often)))
    assert f"100 times or more, it is {repeated}, on new ones {new}" in page


def test_the_page_has_a_verdict_on_each_claim_of_the_paper() -> None:
    page = page_text().split("### The paper's claims")[1]
    tokens = study("tokens")
    done = list(zip((tokens_of(tokens, budget) / 1e6 for budget in tokens.budgets), budgets(tokens), strict=False))
    for row, theirs in {"RWKV": 0.171, "H3": 0.140, "Hyena": 0.208, "Linear Transformer": 0.435}.items():
        after, most = [(after, results) for after, results in done if results.rows["runs"][row] > 0][-1]
        mean, low, high = most.difference(row, "RetNet")
        verdict = "confirmed" if low > 0 else "refuted" if high < 0 else "not decided"
        cells = [f"{after:.1f} M, {most.rows['runs'][row]}", f"{mean:+.3f}", f"{low:+.3f} to {high:+.3f}"]
        assert f"| {row} | {' | '.join(cells)} | {theirs:+.3f} | {verdict} |" in page


def recallable(results: Results, kind: str) -> pd.DataFrame:
    """The pieces of text with the tokens that are `new` or `repeated` in their context alone."""
    found = results.by_class("recall")
    found = found[found["class"].str.startswith(kind)]
    return found.groupby(["row", "seed", "corpus", "at"], as_index=False)[["nats", "tokens"]].sum()


def test_the_page_has_recall_beside_the_loss() -> None:
    page = page_text().split("### Recall beside the loss")[1]
    after = budgets(study("tokens"))[0]
    repeated = recallable(after, "repeated")
    of_task = {line["row"]: float(line["accuracy"]) for line in lines(RESULTS.parent / "tasks/recall/report/rows.csv")}
    names = ("Retention", "RWKV-4", "H3", "Hyena", "Linear attention", "Attention")
    gains = {}
    for row, name in zip(SIX, names, strict=True):
        cells = ["–", "–"]
        if row != "RetNet":
            everywhere, apart = after.difference(row, "RetNet"), after.difference(row, "RetNet", repeated)
            gains[row] = apart.mean - everywhere.mean
            cells = [f"{everywhere.mean:+.3f}", f"{apart.mean:+.3f} ({apart.low:+.3f} to {apart.high:+.3f})"]
        assert f"| {row} | {cells[0]} | {cells[1]} | {100 * of_task[name]:.0f} |" in page
    transformer, linear = gains.pop("Transformer"), gains.pop("Linear Transformer")
    said = f"the Transformer {transformer:+.2f} and the Linear Transformer {linear:+.2f}, the others "
    assert said + f"{min(gains.values()):+.2f} to {max(gains.values()):+.2f}." in " ".join(page.split())


def test_the_page_says_how_differences_change_with_tokens() -> None:
    page = " ".join(page_text().split())
    first, second = budgets(study("tokens"))[:2]
    for row in ("RWKV", "Linear Transformer", "Transformer"):
        apart = [results.difference(row, "RetNet").mean for results in (first, second)]
        assert f"{row} from {apart[0]:+.3f} to {apart[1]:+.3f}" in page
    assert "the Transformer's loss is above RWKV's after 2.0 M tokens and below it after 8.1 M" in page
    for results, sign in ((first, 1), (second, -1)):
        apart = (results.losses.loc["Transformer"] - results.losses.loc["RWKV"]).dropna()
        assert (sign * apart > 0).all()
    repeated, new = (
        second.difference("Transformer", "RetNet", recallable(second, kind)).mean for kind in ("repeated", "new")
    )
    assert f"is {repeated:+.2f} on pairs that occurred earlier in the context, and {new:+.2f} on new ones" in page
