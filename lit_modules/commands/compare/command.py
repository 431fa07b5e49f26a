"""The command `compare`: carries out a study, and reports what there is."""

import contextlib
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import torch
import yaml
from tqdm import tqdm

from lit_modules.commands.benchmark import machine
from lit_modules.commands.compare import report, tables, tensorboard
from lit_modules.commands.compare.cost import Cost, measure_costs, turns
from lit_modules.commands.compare.results import collect
from lit_modules.commands.compare.runner import carry_out
from lit_modules.commands.compare.status import OVER, last_checkpoint, status
from lit_modules.commands.compare.study import Study, read_study
from lit_modules.console import aligned, short_path
from lit_modules.data.cache import replace_text
from lit_modules.training import checkpoint
from lit_modules.training.precision import best_precision
from mixers.checks import UsageError


def compare(
    path: str, folder: str | None, rows: Sequence[str] | None, seeds: Sequence[int] | None, device: torch.device
) -> None:
    """Does what is left of a study's runs, and writes its report.

    Args:
        path: The study's file.
        folder: Where to keep everything; by default runs/compare/ and the file's name.
        rows: Do these rows only.
        seeds: Do these seeds only.
        device: Where cost is measured.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The study, or the options of one of its rows, is not right.
    """
    study = read_study(path, folder)
    runs = study.runs(rows, seeds)
    check(study)
    try:
        carry_out(study, runs, lambda: _report(study))
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", flush=True)
        raise
    complete = all(status(run) in OVER for run in study.runs())
    page = _report(study, *(_costs(study, device) if complete else ({}, {})))
    found = tables.quality(study, collect(study))
    print(f"\n{aligned([found.columns, *found.rows])}\n\nreport: {short_path(page)}", flush=True)


def check(study: Study) -> None:
    """Raises ValueError if a row's options are no options of `fit`, before hours are spent on the others."""
    from lit_modules.training.cli import CLI

    for row in study.rows:
        complaint = io.StringIO()
        with tempfile.TemporaryDirectory() as folder:
            options = Path(folder, "options.yaml")
            options.write_text(yaml.safe_dump(study.run(row, study.seeds[0]).options), encoding="utf-8")
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(complaint):
                    CLI(["fit", f"--config={options}", "--print_config"])
            except SystemExit as ended:
                if ended.code:
                    reason = complaint.getvalue().strip().removeprefix("error: ")
                    raise UsageError(f"row {row!r} of {study.name}: {reason}") from None


def _report(study: Study, costs: Mapping[str, Cost] = {}, machine: Mapping[str, str] = {}) -> Path:
    """Writes the report of what is there by now; where its page is."""
    rows = collect(study)
    folder = report.write(study, rows, dict(costs), dict(machine))
    tensorboard.write(study.folder / "tensorboard", rows, (folder / "report.md").read_text(encoding="utf-8"))
    return folder / "index.html"


def _costs(study: Study, device: torch.device) -> tuple[dict[str, Cost], dict[str, str]]:
    """The cost of every row, and what it was measured on; kept, so that a report written again has the same."""
    kept = study.folder / "cost.json"
    if kept.is_file():
        return _from_json(kept.read_text(encoding="utf-8"))
    finished = [run for run in study.runs() if status(run) == "finished"]
    if not finished:
        return {}, {}
    vocab_size: int = checkpoint.read_file(last_checkpoint(finished[0]))["hyper_parameters"]["vocab_size"]
    dtype = torch.bfloat16 if "bf16" in best_precision(device.type).name else torch.float32
    print(f"\nmeasuring what a row costs: {len(study.rows)} rows, {study.cost.rounds} rounds", flush=True)
    each, done = turns(study) // study.cost.rounds, count(1)
    with tqdm(total=turns(study), desc="cost", unit="turn", leave=False, disable=None) as bar:

        def progress(_: str) -> None:
            bar.update()
            if bar.disable and (turn := next(done)) % each == 0:  # in a log a line serves better
                print(f"round {turn // each} of {study.cost.rounds}", flush=True)

        costs = measure_costs(study, vocab_size, dtype, device, progress)
    measured_on = machine(device)
    by_row = {row: cost._asdict() for row, cost in costs.items()}
    replace_text(kept, json.dumps({"machine": measured_on, "rows": by_row}))
    return costs, measured_on


def _from_json(text: str) -> tuple[dict[str, Cost], dict[str, str]]:
    content = json.loads(text)
    return {row: Cost.of(cost) for row, cost in content["rows"].items()}, content["machine"]
