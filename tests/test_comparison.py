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
from lit_modules.commands.compare.intervals import Difference, two_way
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


def test_the_page_has_a_verdict_on_each_claim_of_the_paper() -> None:
    page = page_text().split("\n## The paper's claims\n")[1].split("\n## ")[0]
    tokens = study("tokens")
    done = list(zip((tokens_of(tokens, budget) / 1e6 for budget in tokens.budgets), budgets(tokens), strict=False))
    for row, theirs in {"RWKV": 0.171, "H3": 0.140, "Hyena": 0.208, "Linear Transformer": 0.435}.items():
        after, most = [(after, results) for after, results in done if results.rows["runs"][row] > 0][-1]
        said = f"{after:.1f} M, {most.rows['runs'][row]}"
        assert f"| {row} | {said} | {judged(most.difference(row, 'RetNet'), theirs)} |" in page
    after, most = [(after, results) for after, results in done if results.rows["runs"]["Transformer"] > 0][-1]
    mean, low, high = most.difference("Transformer", "RetNet")
    assert mean < 0
    said = f"the Transformer is {-mean:.3f} ahead ({low:+.3f} to {high:+.3f}) after {after:.1f} M tokens"
    assert said in " ".join(page.split())
    laptop = kept_results(study("laptop"))
    ablations = {"no gate": 0.066, "no group norm": 0.056, "γ = 1": 0.067, "one γ": 0.037, "narrow heads": 0.061}
    for row, theirs in ablations.items():
        assert f"| RetNet, {row} | {judged(laptop.difference(f'RetNet, {row}', 'RetNet'), theirs)} |" in page


def judged(found: Difference, theirs: float) -> str:
    """A difference, its interval, the paper's, and whether it is as the paper claims, above zero."""
    verdict = "confirmed" if found.low > 0 else "refuted" if found.high < 0 else "not decided"
    return f"{found.mean:+.3f} | {found.low:+.3f} to {found.high:+.3f} | {theirs:+.3f} | {verdict}"


def recallable(results: Results, kind: str) -> pd.DataFrame:
    """The pieces of text with the tokens that are `new` or `repeated` in their context alone."""
    found = results.by_class("recall")
    found = found[found["class"].str.startswith(kind)]
    return found.groupby(["row", "seed", "corpus", "at"], as_index=False)[["nats", "tokens"]].sum()


def test_the_page_says_where_the_differences_lie() -> None:
    page = page_text().split("### Where the differences lie")[1]
    repeated, new = page.split("On pairs that are new")
    of_task = {line["row"]: float(line["accuracy"]) for line in lines(RESULTS.parent / "tasks/recall/report/rows.csv")}
    names = ("Retention", "RWKV-4", "H3", "Hyena", "Linear attention", "Attention")
    for row, name in zip(SIX, names, strict=True):
        assert f"{cells(row, 'repeated')} {100 * of_task[name]:.0f} |" in repeated
        assert cells(row, "new") in new


def cells(row: str, kind: str) -> str:
    """A line of the table of differences to RetNet, after each number of tokens."""
    found = []
    for after in budgets(study("tokens")):
        mean, low, high = after.difference(row, "RetNet", recallable(after, kind))
        found.append("–" if row == "RetNet" or np.isnan(mean) else f"{mean:+.3f} ({low:+.3f} to {high:+.3f})")
    return f"| {row} | {' | '.join(found)} |"


def by_seed(pieces: pd.DataFrame) -> list[pd.DataFrame]:
    return [of_seed for _, of_seed in pieces.groupby("seed")]


def listed(numbers: list[str]) -> str:
    *most, last = numbers
    return f"{', '.join(most)} and {last}"


def test_the_page_says_how_differences_change_with_tokens() -> None:
    page = " ".join(page_text().split())
    done = budgets(study("tokens"))

    def change(row: str, kind: str | None = None) -> str:
        form = "+.2f" if kind else "+.3f"
        of_row = [results for results in done if results.rows["runs"][row]]
        pieces = [recallable(results, kind) if kind else None for results in of_row]
        apart = [results.difference(row, "RetNet", piece) for results, piece in zip(of_row, pieces, strict=True)]
        return listed([format(each.mean, form) for each in apart])

    for row in ("RWKV", "the Transformer", "the Linear Transformer", "H3", "Hyena"):
        assert f"for {row} {change(row.removeprefix('the '))}" in page
    assert f"RWKV's difference is {change('RWKV', 'repeated')}, in the end behind RetNet in each seed; on" in page
    assert f"in each seed; on new ones it is {change('RWKV', 'new')}." in page
    assert all(
        done[-1].difference("RWKV", "RetNet", each).mean > 0 for each in by_seed(recallable(done[-1], "repeated"))
    )
    assert (
        f"recall as well**, {change('Transformer', 'repeated')} on pairs that occurred earlier and "
        f"{change('Transformer', 'new')} on new ones." in page
    )


def test_the_page_says_which_row_leads_and_what_retnet_gains() -> None:
    first, second, third = budgets(study("tokens"))
    assert (first.rows.loc[["RWKV", "Hyena"], "high"] < -0.1).all()
    assert second.rows["loss"].idxmin() == third.rows["loss"].idxmin() == "Transformer"
    assert third.rows["loss"].nsmallest(2).diff().iloc[1] > 0.2
    assert abs(third.rows.loc["RWKV", "difference"]) < 0.03

    def gained(kind: str | None) -> float:
        ends = (
            after.difference("RWKV", "RetNet", recallable(after, kind) if kind else None) for after in (first, third)
        )
        before, now = (end.mean for end in ends)
        return now - before

    share = recallable(third, "repeated")["tokens"].sum() / third.by_class("recall")["tokens"].sum()
    assert share * gained("repeated") > gained(None) / 2


def test_the_page_says_how_seeds_of_the_transformer_differ() -> None:
    second = budgets(study("tokens"))[1]
    pieces = recallable(second, "repeated")
    apart = [second.difference("Transformer", "RetNet", of_seed).mean for of_seed in by_seed(pieces)]
    said = f"after 8.1 M tokens it is {listed([f'{each:+.2f}' for each in apart])} on the former"
    assert said in " ".join(page_text().split())


def test_the_page_says_where_lines_cross() -> None:
    page = page_text()
    found = (RESULTS / "tokens" / "report" / "report.md").read_text(encoding="utf-8")
    table = found.split("## Where lines cross")[1].split("\n## ")[0].splitlines()
    shown = [line for line in table if line.startswith(tuple(f"| {row} |" for row in ("", *SIX)))]
    assert len(shown) > 1
    assert [line for line in shown if line not in page] == []
    [rwkv] = [line for line in lines(RESULTS / "tokens" / "report" / "trends.csv") if line["row"] == "RWKV"]
    at, low, high = (f"{float(rwkv[name]) / 1e6:.3g}" for name in ("crossing", "low", "high"))
    assert f"RWKV's lead ends at {at} M tokens (95 %: {low} to {high} M)" in " ".join(page.split())
