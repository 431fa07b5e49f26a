"""Prompts with responses, and conversations, as data: what is read, what is predicted, what is refused."""

import json
from pathlib import Path

import pytest
import torch
from small_pairs import rows, write_rows
from small_runs import model, trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_modules.data.chat import ChatTemplate
from lit_modules.data.instructions import Instructions
from mixers.checks import UsageError
from mixers.model.loss import IGNORED

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "Three?"},
    {"role": "assistant", "content": "3"},
]
HF_TEMPLATE = """\
{{ bos_token }}{% for message in messages %}
<|{{ message['role'] }}|>{{ message['content'] | trim }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}<|assistant|>{% endif %}
"""


def data(corpus: object, **options: object) -> Instructions:
    return Instructions(corpus, **{"block_size": 128, "batch_size": 4, "num_workers": 0, **options})  # type: ignore[arg-type]


def texts(made: Instructions, index: int = 0) -> tuple[str, str]:
    """All that is read of a conversation, and of its targets those that are predicted."""
    inputs, targets = made.samples("train")[index]
    return made.tokenizer.decode(inputs.tolist()), made.tokenizer.decode(targets[targets != IGNORED].tolist())


def test_only_the_response_and_the_end_after_it_are_predicted():
    read, predicted = texts(data([{"prompt": "Two?", "response": "2"}], validation=rows(2)))
    assert read.removesuffix("<|endoftext|>" * read.count("<|endoftext|>")) == "User:\nTwo?\nAssistant:\n2"
    assert predicted == "2<|endoftext|>"


def test_each_answer_of_a_conversation_is_predicted_and_ended():
    read, predicted = texts(data([{"messages": CONVERSATION}], validation=rows(2)))
    assert predicted == "2<|endoftext|>3<|endoftext|>"
    first, second, _ = read.split("<|endoftext|>", 2)
    assert first == "System:\nBe brief.\nUser:\nTwo?\nAssistant:\n2"
    assert second == "\nUser:\nThree?\nAssistant:\n3"


@pytest.mark.parametrize("template", [ChatTemplate(), ChatTemplate(HF_TEMPLATE)], ids=["ours", "field"])
def test_a_prompt_at_generation_is_what_came_before_the_answer_in_training(template):
    parts = list(template.parts(CONVERSATION))
    assert template.prompt(CONVERSATION[:2]) == parts[0][0]
    assert template.prompt(CONVERSATION[:4]) == parts[0][0] + parts[0][1] + parts[1][0]


def test_a_target_is_the_token_after_the_input():
    inputs, targets = data(rows(30)).samples("train")[3]
    seen = (targets != IGNORED).nonzero().flatten()
    assert torch.equal(targets[seen[:-1]], inputs[seen[:-1] + 1])
    assert len(inputs) == len(targets) == 128


def test_padding_changes_neither_loss_nor_gradients():
    short, long = (data(rows(20), block_size=size) for size in (96, 128))
    losses = []
    for made in (short, long):
        lit = model(made, dropout=0.0)
        loss = lit.model.loss(*(part[None] for part in made.samples("train")[0]))
        loss.backward()
        losses.append((loss, lit.model.embed.weight.grad))
    torch.testing.assert_close(losses[0], losses[1])


def test_held_out_conversations_stay_held_out_when_others_are_added():
    def held_out(count: int) -> set[str]:
        made = data(rows(count)).samples("validation")
        return {str(made[index].inputs.tolist()) for index in range(len(made))}

    assert held_out(100) < held_out(400)


def test_a_file_for_validation_leaves_all_others_for_training(tmp_path: Path):
    made = data(rows(30), validation=str(write_rows(tmp_path / "val.jsonl", rows(3, seed=1))))
    assert (len(made.samples("train")), len(made.samples("validation"))) == (30, 3)


def test_a_folder_is_all_its_files(tmp_path: Path):
    write_rows(tmp_path / "a.jsonl", rows(30))
    write_rows(tmp_path / "b.jsonl", [{"messages": CONVERSATION}] * 20)
    made = data(str(tmp_path))
    assert len(made.samples("train")) + len(made.samples("validation")) == 50


def test_a_resumed_run_goes_on_with_the_next_conversation():
    def batches(made: Instructions, count: int) -> list[torch.Tensor]:
        found = iter(made.train_dataloader())
        return [next(found).inputs for _ in range(count)]

    all_of_them, resumed = batches(data(rows(40)), 20), data(rows(40))
    resumed.load_state_dict({**resumed.state_dict(), "samples_seen": 12 * 4})
    assert all(map(torch.equal, all_of_them[12:], batches(resumed, 8)))


def test_training_stopped_and_resumed_ends_with_the_same_weights(tmp_path: Path):
    def weights(folder: str, *steps: int) -> list[torch.Tensor]:
        path = None
        for end in steps:
            made = data(rows(40))
            lit, run = model(made), trainer(tmp_path / folder, max_steps=end, val_check_interval=100)
            lit.hparams["decay_steps"] = 6
            run.fit(lit, datamodule=made, ckpt_path=path)
            path = str(next((tmp_path / folder).rglob("last.ckpt")))
        return list(lit.parameters())

    assert all(map(torch.equal, weights("whole", 6), weights("parts", 3, 6)))


@pytest.mark.parametrize("clip", [None, 0.01])
@pytest.mark.parametrize("batches", [2, 3, 6])
def test_a_step_of_several_batches_learns_what_one_large_batch_does(batches: int, clip: float | None, tmp_path: Path):
    def trained(batches: int) -> tuple[dict, list[float]]:
        folder = tmp_path / str(batches)
        made = data(varied, validation=rows(2), batch_size=12 // batches)
        lit = model(made, dropout=0.0)
        steps = trainer(
            folder, max_steps=3, accumulate_grad_batches=batches, precision="64-true", gradient_clip_val=clip
        )
        steps.fit(lit, datamodule=made)
        [run] = (folder / "runs").glob("*/version_0")
        return steps.optimizers[0].state_dict()["state"], [
            event.value for event in EventAccumulator(str(run)).Reload().Scalars("train/loss")
        ]

    varied = [{"prompt": "say", "response": "yes " * length} for length in range(1, 21)]
    (expected, expected_losses), (found, losses) = trained(1), trained(batches)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)
    assert len(losses) == 3
    assert losses == pytest.approx(expected_losses, rel=1e-6)


def test_too_long_conversations_are_cut_or_left_out_with_their_number(caplog):
    long = {"prompt": "x" * 200, "response": "y"}
    half = {"prompt": "x" * 60, "response": "y" * 100}
    given = [*rows(10), long, half]
    with caplog.at_level("INFO"):
        assert len(data(given, validation=rows(2), too_long="skip").samples("train")) == 10
        assert "2 of 12 conversations" in caplog.text
        caplog.clear()
        cut = data(given, validation=rows(2), too_long="truncate").samples("train")
    assert len(cut) == 11
    assert (cut[10].targets != IGNORED).sum() < 100
    assert "2 of 12 conversations" in caplog.text
    assert "1 of them left out" in caplog.text


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a"}, "prompt and response"),
        ({"prompt": "a", "response": ""}, "an empty response"),
        ({"prompt": "a", "response": 5}, "content as text"),
        ({"messages": "hello"}, "{role, content}"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "system, user, assistant"),
        ({"messages": [{"role": "user", "content": "a"}]}, "no message of the assistant"),
        (["a"], "prompt and response"),
        ({"prompt": "x" * 200, "response": "y"}, "data.too_long=truncate"),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_learned_from_is_named(row, said, tmp_path: Path):
    path = write_rows(tmp_path / "pairs.jsonl", [*rows(20), row])
    with pytest.raises(UsageError) as refused:
        data(str(path), validation=rows(2)).samples("train")
    assert "line 21 of" in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"corpus": "missing.jsonl"}, "'missing.jsonl'"),
        ({"tokenizer": "bpe"}, "path of a checkpoint"),
        ({"template": "missing.jinja"}, "'missing.jinja'"),
        ({"too_long": "drop"}, "refuse, truncate, skip"),
        ({"block_size": 0}, "block_size=0"),
        ({"corpus": rows(1)}, "data.validation"),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused(options, said):
    with pytest.raises(UsageError, match=said.replace(".", r"\.")):
        data(**{"corpus": rows(20), **options}).samples("train")


def test_a_file_that_is_not_json_is_named(tmp_path: Path):
    (tmp_path / "pairs.jsonl").write_text(json.dumps(rows(1)[0]) + "\nhello\n")
    with pytest.raises(UsageError, match=r"line 2 of .* is not JSON"):
        data(str(tmp_path / "pairs.jsonl")).samples("train")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('touch hacked').read() }}",
        "{% for",
        "{{ nobody }}",
    ],
)
def test_a_template_that_reaches_outside_or_is_wrong_is_refused(source, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="template"):
        list(ChatTemplate(source).parts(CONVERSATION))
    assert not Path("hacked").exists()


def test_a_template_that_writes_an_answer_before_its_prompt_is_refused():
    source = "{% for message in messages | reverse %}{{ message.content }}{% endfor %}"
    with pytest.raises(UsageError, match="add_generation_prompt"):
        list(ChatTemplate(source).parts(CONVERSATION))
