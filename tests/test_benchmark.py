"""The benchmark: every mixer in every kind of work, what is kept of it, and what becomes of what does not fit."""

import csv
import subprocess
import sys
from itertools import islice

import pytest
import torch

import mixers
from lit_modules.commands import plots
from lit_modules.commands.benchmark import utilisation
from lit_modules.commands.peers import peers
from lit_modules.main import main
from mixers.benchmark import Case, Row, layer, measure, model
from mixers.benchmark.measure import train_flops
from mixers.benchmark.memory import PROCESS, peak_bytes
from mixers.benchmark.work import Unavailable, Workload

AT = Case(length=40, batch_size=2, dim=32, depth=2, vocab_size=50)
WORK = ["train", "prefill", "decode"]


def rows_in(folder):
    with (folder / "rows.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("made", "dtype"), [(layer, torch.bfloat16), (model, torch.float32)])
@pytest.mark.parametrize("what", WORK)
def test_every_mixer_is_measured(what, made, dtype):
    subjects = {name: made(mixer) for name, mixer in mixers.available().items()}
    rows = list(measure(what, subjects, [AT._replace(dtype=dtype)], rounds=1, repeats=2))
    assert [row.subject for row in rows] == list(subjects)
    for row in rows:
        assert 0 < row.fastest <= row.seconds <= row.slowest
        assert row.tokens_per_second == pytest.approx((2 if what == "decode" else 80) / row.seconds)
        assert row.parameters > 0
        assert (row.state_bytes is not None) == (what == "decode")


def test_what_does_not_fit_is_a_gap_and_the_rest_goes_on():
    def hungry(what, at):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def picky(what, at):
        raise Unavailable("it is Sunday")

    rows = list(measure("train", {"a": hungry, "b": picky, "c": layer(mixers.Retention)}, [AT], rounds=2, repeats=1))
    assert [(row.seconds is None, row.note) for row in rows] == [
        (True, "out of memory"),
        (True, "it is Sunday"),
        (False, ""),
    ]


@pytest.mark.skipif(not PROCESS.is_dir(), reason="a process's memory is limited and measured on Linux only")
class TestMemory:
    def test_a_cpu_runs_out_of_it_without_dying(self):
        def hungry(what, at):
            return Workload(lambda: torch.empty(2**50), 1)

        assert [row.note for row in measure("train", {"hungry": hungry}, [AT], rounds=1, repeats=1)] == [
            "out of memory"
        ]

    def test_the_peak_is_what_was_in_use(self):
        peak = peak_bytes(lambda: torch.ones(2**25), torch.device("cpu"))  # 128 MiB, freed at once
        assert peak == pytest.approx(2**27, rel=0.2)


def test_a_bug_is_no_gap():
    def broken(what, at):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(measure("train", {"broken": broken}, [AT], rounds=1, repeats=1))


def test_operations_are_those_of_the_products():
    at = AT._replace(length=64)
    tokens, width = 2 * 64, 32
    projections = 6 * tokens * 4 * width**2  # of linear attention: four, forward and twice backward
    scores = 6 * tokens * 64 * width * 2  # in one chunk: q kᵀ and its product with v
    memory = 2 * tokens * width * (width // 8 + 1)  # kᵀ v and the sum of k; nobody reads it: it has no gradient
    assert train_flops(layer(mixers.LinearAttention), at) == projections + scores + memory


class TestTheCommand:
    def test_it_keeps_a_table_and_a_picture(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        two = "--mixers=[retention, {class_path: retention, init_args: {chunk_size: 8}}]"
        words = "decode --lengths=[16,32] --dim=32 --rounds=1 --repeats=1 --peers=false"
        main(["benchmark", *words.split(), two])
        folder = tmp_path / "runs" / "benchmark" / "decode_0"
        rows = rows_in(folder)
        assert [(row["subject"], row["length"]) for row in rows] == [
            (name, length) for length in ("16", "32") for name in ("retention", "retention chunk_size=8")
        ]
        assert all(row["torch"] == torch.__version__ and row["device"] and row["date"] for row in rows)
        assert (folder / "curves.png").stat().st_size > 10_000
        shown = capsys.readouterr().out
        assert "retention chunk_size=8" in shown
        assert "picture: runs/benchmark/decode_0/curves.png" in shown

    def test_results_are_never_overwritten(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for _ in range(2):
            words = "train --mixers=[attention] --lengths=[16] --dim=32 --rounds=1 --repeats=1 --peers=false"
            main(["benchmark", *words.split()])
        assert sorted(path.name for path in (tmp_path / "runs" / "benchmark").iterdir()) == ["train_0", "train_1"]

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            ("", "phase is needed and has no default"),
            ("fit", "--phase: Expected a Literal['train', 'prefill', 'decode']. Got value: fit"),
            ("train --lengths=[]", "lengths=[] is empty: write at least one number."),
            ("train --lengths=[0]", "lengths=0 is too small: write 1 or more."),
            ("train --mixers={}", "--mixers: Does not validate against any"),
            ("train --mixers=[retentoin]", "did you mean 'retention'?"),
            ("train --mixers=[retention] --dim=100", "num_heads=4 does not fit dim=100"),
        ],
    )
    def test_a_mistake_is_one_sentence_and_writes_nothing(self, words, sentence, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as ended:
            main(["benchmark", *words.split()])
        assert ended.value.code == 2
        [message] = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("lit-mixers ")]
        assert sentence in message
        assert list(tmp_path.iterdir()) == []


def test_the_authors_layer_is_measured_where_it_is_installed():
    pytest.importorskip("torchscale", reason="needs the authors' layer: pip install --no-deps torchscale==0.3.0")
    found = peers(False, torch.device("cpu"))
    rows = list(measure("train", found, [AT._replace(length=512)], rounds=1, repeats=1))
    assert [row.note for row in rows] == ["", ""]
    assert {row.parameters for row in rows} == {8 * 32**2}


@pytest.mark.parametrize(
    ("name", "flops"),
    [("NVIDIA H100 80GB HBM3", 989.4e12), ("NVIDIA H200", 989.4e12), ("NVIDIA A100-SXM4-80GB", 312e12)],
)
def test_utilisation_is_of_the_dense_operations_that_a_gpu_is_sold_for(name, flops, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    at = AT._replace(device=torch.device("cuda"), dtype=torch.bfloat16)
    assert utilisation(Row("train", "retention", at, seconds=2.0, flops=1e14)) == pytest.approx(5e13 / flops)
    assert utilisation(Row("train", "retention", AT, seconds=2.0, flops=1e14)) is None


def test_curves_of_many_mixers_can_be_told_apart():
    looks = [tuple(style.values()) for style in islice(plots.styles(), 35)]
    assert len(set(looks)) == len(looks)
    assert len({(colour, dash) for colour, _, dash in looks}) == len(looks)


def test_mixers_are_measured_without_lightning():
    code = "import sys, mixers.benchmark; assert not {'pytorch_lightning', 'matplotlib'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
