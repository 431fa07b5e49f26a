"""The adapter for lm-evaluation-harness, on small tasks of our own and without a network."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import model, text, trainer

from lit_modules.training import checkpoint
from mixers import LanguageModel, available

lm_eval = pytest.importorskip("lm_eval", reason='needs `pip install "lit-mixers[eval]"`')
pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness's own

PROJECT = Path(__file__).parents[1]
CHOICES = """
task: own_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choices.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""
WRITING = """
task: own_writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choices.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{until: [" "], max_gen_toks: 5}}
metric_list: [{{metric: exact_match}}]
"""
TEXTS = """
task: own_texts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choices.jsonl}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list: [{{metric: byte_perplexity}}]
"""
QUESTIONS = ["the state of the union is", "what are its", "people", "say what the people of the union are free to say"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run and three tasks."""
    folder = tmp_path_factory.mktemp("harness")
    data = text(folder)
    trainer(folder, max_steps=6).fit(model(data), datamodule=data)
    rows = [{"question": question, "choices": ["strong", "free", "the people"], "answer": 1} for question in QUESTIONS]
    (folder / "choices.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "tasks").mkdir()
    for name, task in (("choices", CHOICES), ("writing", WRITING), ("texts", TEXTS)):
        (folder / "tasks" / f"{name}.yaml").write_text(task.format(folder=folder), encoding="utf-8")
    return folder


def results(folder: Path, task: str, *, mixer: str | None = None, **options: int) -> dict[str, float]:
    """What the harness finds on a task, of the run's model or of an untrained one with another mixer."""
    from lm_eval.tasks import TaskManager

    from lit_modules.commands.harness import HarnessLM

    lm = HarnessLM(root=str(folder / "runs"), device="cpu", **options)
    if mixer is not None:
        torch.manual_seed(0)
        lm.model = LanguageModel(available()[mixer], vocab_size=257, dim=32, depth=2, ffn_dim=32).eval()
    found = lm_eval.simple_evaluate(
        lm,
        tasks=[task],
        task_manager=TaskManager(include_path=str(folder / "tasks"), include_defaults=False),
        bootstrap_iters=0,
    )
    return {name: value for name, value in found["results"][task].items() if isinstance(value, float)}


@torch.no_grad()
def nats(folder: Path, start: str, end: str) -> float:
    """What the end of a text costs after its start, in one forward pass."""
    language_model, tokenizer = checkpoint.load(root=folder / "runs")
    context, after = tokenizer.encode(start) or [tokenizer.end], tokenizer.encode(end)
    logits = language_model(torch.tensor([[*context, *after]]))[0, len(context) - 1 : -1]
    return -logits.log_softmax(-1)[range(len(after)), after].sum().item()


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_likeliest_choice_is_the_models_answer(folder: Path, batch_size: int) -> None:
    choices = [f" {choice}" for choice in ("strong", "free", "the people")]
    answers = [min(range(3), key=lambda place: nats(folder, question, choices[place])) for question in QUESTIONS]
    assert results(folder, "own_choices", batch_size=batch_size)["acc,none"] == answers.count(1) / len(QUESTIONS)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_texts_cost_what_the_model_says(folder: Path, batch_size: int) -> None:
    found = results(folder, "own_texts", batch_size=batch_size)["byte_perplexity,none"]
    costs = sum(nats(folder, "", question) for question in QUESTIONS)
    assert math.log(found) == pytest.approx(costs / len("".join(QUESTIONS)), abs=1e-5)


@pytest.mark.parametrize("mixer", sorted(available()))
def test_a_text_scores_the_same_in_any_batch(mixer: str, folder: Path) -> None:
    alone, together = (results(folder, "own_texts", mixer=mixer, batch_size=size) for size in (1, 3))
    assert together["byte_perplexity,none"] == pytest.approx(alone["byte_perplexity,none"], rel=1e-5)
    assert alone["byte_perplexity,none"] > 100  # it has learnt nothing


def test_texts_are_read_in_windows_if_they_are_to_be(folder: Path) -> None:
    whole = results(folder, "own_texts")["byte_perplexity,none"]
    assert results(folder, "own_texts", max_length=100)["byte_perplexity,none"] == pytest.approx(whole)
    assert results(folder, "own_texts", max_length=4)["byte_perplexity,none"] != pytest.approx(whole, rel=1e-4)


def test_what_it_writes_ends_where_it_should(folder: Path) -> None:
    from lm_eval.api.instance import Instance

    from lit_modules.commands.harness import HarnessLM

    lm = HarnessLM(root=str(folder / "runs"), device="cpu", batch_size=2)
    wanted = [{"until": ["e"], "max_gen_toks": 9}, {"max_gen_toks": 3}, {"until": "e", "max_gen_toks": 9}]
    asked = [Instance("generate_until", {}, (QUESTIONS[place], wanted[place]), place) for place in range(3)]
    written = lm.generate_until(asked)
    assert "e" not in written[0] + written[2]
    assert len(written[1]) <= 3
    assert written == [lm.generate_until([request])[0] for request in asked]
    assert "exact_match,none" in results(folder, "own_writing")


def test_it_is_a_program(folder: Path) -> None:
    words = ["--tasks=[own_choices]", f"--root={folder / 'runs'}", f"--include_path={folder / 'tasks'}", "--limit=2"]
    command = [sys.executable, "cli.py", "evaluate", *words, "--accelerator=cpu"]
    ran = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=250)
    assert ran.returncode == 0, ran.stderr
    assert "own_choices" in ran.stdout
