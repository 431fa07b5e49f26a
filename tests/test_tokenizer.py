import pickle
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from lit_modules.data import tokenizer as module
from lit_modules.data.tokenizer import END, Tokenizer, bytes_tokenizer, pieces, read_tokenizer, train_bpe

STRANGE = [
    "",
    "plain words",
    "  two  spaces\n\n\tand tabs \r\n",
    "naïve café — 日本語 🎈",
    "\x00\x01\x7f\ufeff",
    f"a{END}b",
]


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return bytes_tokenizer() if request.param == "bytes" else train_bpe(["the cat sat on the mat. " * 50], 300)


def words(*names: str) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(WordLevel({name: index for index, name in enumerate(names)}, unk_token=names[0]))
    inner.pre_tokenizer = Whitespace()
    return inner


@pytest.mark.parametrize("text", STRANGE)
def test_any_text_comes_back_exactly(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_text_that_spells_the_end_does_not_end_a_document(tokenizer: Tokenizer) -> None:
    assert tokenizer.end not in tokenizer.encode(f"before {END} after")
    assert tokenizer.decode([tokenizer.end]) == END


def test_every_id_is_below_the_vocabulary_size(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(bytes(range(256)).decode("latin-1") + "the cat")
    assert max(*ids, tokenizer.end) < tokenizer.vocab_size


@pytest.mark.parametrize("copy", [lambda t: Tokenizer.from_json(t.to_json()), lambda t: pickle.loads(pickle.dumps(t))])
def test_a_tokenizer_survives_being_written_down(tokenizer: Tokenizer, copy) -> None:
    again = copy(tokenizer)
    assert again == tokenizer
    assert again.encode(f"the cat {END}") == tokenizer.encode(f"the cat {END}")


def test_a_byte_token_is_the_byte() -> None:
    text = "é and all of " + bytes(range(256)).decode("latin-1")
    assert bytes_tokenizer().encode(text) == list(text.encode())
    assert (bytes_tokenizer().vocab_size, bytes_tokenizer().end) == (257, 256)


def test_a_bpe_merges_up_to_the_size_asked_for() -> None:
    text = "it was the best of times, it was the worst of times " * 3
    assert train_bpe([text], 270).vocab_size == 270
    assert len(train_bpe([text], 270).encode(text)) < len(text)


def test_little_text_gives_a_smaller_vocabulary() -> None:
    assert 257 <= train_bpe(["ab"], 8192).vocab_size < 270


def test_a_long_document_is_cut_at_line_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 10)
    assert list(pieces("one\ntwo\nthree\n" + "x" * 12)) == ["one\ntwo\n", "three\n", "x" * 10, "xx"]


def test_a_bpe_needs_room_for_every_byte_and_the_end() -> None:
    assert train_bpe(["ab"], 257).vocab_size == 257
    with pytest.raises(ValueError, match=r"vocab_size=256 is too small.*write 257"):
        train_bpe(["ab"], 256)


def test_a_tokenizer_is_read_from_its_file_or_a_checkpoint(tmp_path: Path) -> None:
    made = train_bpe(["some words"], 260)
    (tmp_path / "tokenizer.json").write_text(made.to_json(), encoding="utf-8")
    torch.save({"Text": {"tokenizer": made.to_json()}, "state_dict": {"w": torch.ones(3)}}, tmp_path / "last.ckpt")
    for name in ("tokenizer.json", "last.ckpt"):
        assert read_tokenizer(str(tmp_path / name), cache_dir=tmp_path) == made


def test_a_foreign_tokenizer_keeps_its_own_end_and_adds_nothing(tmp_path: Path) -> None:
    inner = words("<unk>", "<s>", "</s>", "hello", "world")
    inner.add_special_tokens(["<s>", "</s>"])
    inner.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    inner.enable_truncation(1)
    inner.enable_padding(length=9)
    inner.save(str(tmp_path / "t.json"))
    read = read_tokenizer(str(tmp_path / "t.json"), cache_dir=tmp_path)
    assert (read.end, read.encode("hello world")) == (2, [3, 4])


def test_a_tokenizer_of_the_hub_is_kept_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, file: str, *, cache_dir: Path) -> str:
        assert (repository, file, cache_dir.parent) == ("some/model", "tokenizer.json", tmp_path)
        (tmp_path / file).write_text(bytes_tokenizer().to_json(), encoding="utf-8")
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert read_tokenizer("some/model", cache_dir=tmp_path) == bytes_tokenizer()


def test_an_unreachable_hub_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(FileNotFoundError, match=r"^tokenizer='some/model' .* \(ConnectionError\): check .*\.$"):
        read_tokenizer("some/model", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("byte", "did you mean 'bytes'"),
        ("sentencepiece", "write 'bytes', 'bpe', the path"),
        ("missing/tokenizer.json", "is not a file"),
        ("./missing", "is not a file"),
        ("last.ckpt", "is not a file"),
    ],
)
def test_a_wrong_name_is_answered_with_right_ones(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=f"tokenizer='{name}'.*{message}"):
        read_tokenizer(name, cache_dir=tmp_path)


def test_files_without_a_usable_tokenizer_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="checkpoint without a tokenizer"):
        read_tokenizer(str(tmp_path / "other.ckpt"), cache_dir=tmp_path)
    (tmp_path / "not.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"not\.json' cannot be used: this is not a tokenizer\.json"):
        read_tokenizer(str(tmp_path / "not.json"), cache_dir=tmp_path)
    words("<unk>", "hello").save(str(tmp_path / "endless.json"))
    with pytest.raises(ValueError, match=r"no end-of-text token: add one of <\|endoftext\|>"):
        read_tokenizer(str(tmp_path / "endless.json"), cache_dir=tmp_path)


@pytest.mark.parametrize("damage", [lambda path: None, lambda path: path.write_bytes(path.read_bytes()[:99])])
def test_a_checkpoint_is_never_unpickled(tmp_path: Path, damage) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({"Text": {"tokenizer": bytes_tokenizer().to_json()}, "evil": Path("x")}, path)
    damage(path)
    with pytest.raises(ValueError, match=r"evil\.ckpt' is not a checkpoint that can be read"):
        read_tokenizer(str(path), cache_dir=tmp_path)
