"""Documents and tokenizers given as Python objects."""

import pickle
from pathlib import Path

import pytest
import tokenizers
import torch
from small_text import WORDS, SaveWhen, first, text, trained

from lit_modules.data.datamodule import Text
from lit_modules.data.tokenizer import Tokenizer, bytes_tokenizer, train_bpe
from mixers.checks import UsageError

pytestmark = pytest.mark.usefixtures("cache")


def test_data_can_be_sent_to_another_process(corpus: str) -> None:
    data = text(corpus, tokenizer="bpe", vocab_size=300)
    data.prepare_data()
    assert torch.equal(first(pickle.loads(pickle.dumps(data)), 2), first(data, 2))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("given", [bytes_tokenizer(), tokenizers.Tokenizer.from_str(bytes_tokenizer().to_json())])
def test_documents_and_a_tokenizer_given_as_objects_are_trained_on_and_resumed(
    given: Tokenizer | tokenizers.Tokenizer, corpus: str, tmp_path: Path
) -> None:
    def objects() -> Text:
        return text(list(WORDS), tokenizer=given)

    whole = first(objects(), 10)
    trained(objects(), tmp_path, max_steps=4, callbacks=[SaveWhen("on_train_end", tmp_path / "x.ckpt")])
    assert torch.equal(trained(objects(), tmp_path, ckpt_path=tmp_path / "x.ckpt", max_steps=10), whole[16:])
    options = torch.load(tmp_path / "x.ckpt", weights_only=True)["datamodule_hyper_parameters"]
    assert (options["corpus"], options["tokenizer"]) == ("60 given documents", "given")
    assert Text(list(WORDS), tokenizer=str(tmp_path / "x.ckpt")).tokenizer == text(corpus).tokenizer


def test_other_documents_given_start_anew_and_another_tokenizer_is_refused() -> None:
    state = text(list(WORDS)).state_dict() | {"samples_seen": 8}
    for documents, seen in ((WORDS, 8), (["other text\n" * 200], 0)):
        data = text(list(documents))
        data.load_state_dict(state)
        assert data.samples_seen == seen
    with pytest.raises(UsageError, match=r"tokenizer='given' .* is not the tokenizer this checkpoint was trained with"):
        text(list(WORDS), tokenizer=train_bpe(WORDS, 300)).load_state_dict(state)


def test_a_tokenizer_given_keeps_its_own_settings() -> None:
    raw = tokenizers.Tokenizer.from_str(bytes_tokenizer().to_json())
    raw.enable_truncation(3)
    assert text(list(WORDS), tokenizer=raw).token_file("validation").tokens > 3 * 6
    assert raw.truncation["max_length"] == 3


@pytest.mark.parametrize(
    ("documents", "message"),
    [([1, "text"], r"corpus\[0\] is a int: give documents as strings"), ([], "corpus=\\[\\] is empty")],
)
def test_a_list_that_is_no_documents_is_refused(documents: list, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        text(documents).setup("fit")
