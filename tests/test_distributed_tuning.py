"""Fine-tuning on two processes, in several batches: the loss is the mean over all responses' tokens of a step."""

from pathlib import Path

import pytest
import torch
from small_distributed import fit, on, saved, start
from small_pairs import write_rows
from small_runs import write_text

from lit_modules.main import main

ACCUMULATED = ["--data.batch_size=2", "--trainer.accumulate_grad_batches=3"]
STRATEGIES = {
    "one": [],
    "ddp": on(2, "ddp"),
    "fsdp2": on(2, "fsdp2"),
    "ddp_accumulated": [*on(2, "ddp"), *ACCUMULATED],
    "fsdp2_accumulated": [*on(2, "fsdp2"), *ACCUMULATED],
}
BASE = "--init_from=base/retention/version_0/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs that start from one checkpoint."""
    folder = tmp_path_factory.mktemp("tuned")
    rows = [{"prompt": "say", "response": "yes " * length} for length in [*range(1, 11)] * 4]
    write_rows(folder / "pairs.jsonl", rows[:-4])
    write_rows(folder / "held_out.jsonl", rows[-4:])
    data = ["--data=instructions", "--data.corpus=pairs.jsonl", "--data.validation=held_out.jsonl"]
    tune = [*data, "--data.block_size=64", "--data.batch_size=6", "--trainer.limit_val_batches=null", BASE]
    jobs = {name: fit(name, *tune, *words) for name, words in STRATEGIES.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_text(Path("corpus.txt"))
        main(fit("base"))
        main(jobs.pop("one"))
    ended = start(folder, list(jobs.values()))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "one"])
def test_two_processes_learn_what_one_does(runs: Path, name: str):
    def mean_gradient_norm(run: str) -> float:
        [optimizer] = saved(runs / run)["optimizer_states"]
        return torch.stack([state["exp_avg"].norm() for state in optimizer["state"].values()]).norm().item()

    assert mean_gradient_norm(name) == pytest.approx(mean_gradient_norm("one"), rel=1e-3)
