"""A study of several budgets as one study for each."""

from dataclasses import replace

from lit_modules.commands.compare.study import Study, Trunks, deep_merge
from lit_modules.commands.compare.study_sections import Budget


def parts_of(study: Study) -> list[Study]:
    """The study of each budget; the study itself if it has none."""
    return [at_budget(study, budget) for budget in study.budgets] or [study]


def at_budget(study: Study, budget: Budget) -> Study:
    """The study of one budget, whose runs branch off runs at a constant rate and cool down."""
    model = {"schedule": "wsd", "cooldown_steps": budget.cooldown}
    fit = deep_merge(study.fit, {"trainer": {"max_steps": budget.steps}, "model": model})
    fewer = dict.fromkeys(study.minor_rows, budget.minor_seeds) if budget.minor_seeds else {}
    return replace(
        study,
        name=f"{study.name}, {budget.steps:,} steps",
        folder=study.folder / f"steps_{budget.steps}",
        fit=fit,
        seeds=study.seeds[: max(budget.seeds, budget.minor_seeds or 1)],
        fewer_seeds=fewer,
        budgets=[],
        minor_rows=[],
        tuning=None,
        trunks=Trunks(study.folder / "trunks", budget.steps - budget.cooldown),
    )


def tokens_of(study: Study, budget: Budget) -> int:
    """The tokens that a run has read at a budget."""
    batches = budget.steps * study.fit["trainer"].get("accumulate_grad_batches", 1)
    return batches * study.fit["data"]["block_size"] * study.fit["data"]["batch_size"]
