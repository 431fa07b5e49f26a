"""The configs for several GPUs, the SLURM script and the page about them say what works."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from lit_modules.main import main

PROJECT = Path(__file__).parents[1]
CONFIGS = PROJECT / "configs" / "distributed"


def parses(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The options that a command line is understood as."""
    with pytest.raises(SystemExit, match=r"^0$"):
        main([*words, "--print_config"])
    return capsys.readouterr().out


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_config_for_several_gpus_has_only_options_of_fit(
    strategy: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    words = ["fit", "--config=configs/paper/6.7b.yaml", f"--config=configs/distributed/{strategy}.yaml"]
    assert f"strategy: {strategy}\n" in parses(words, capsys)


def test_the_slurm_script_has_only_options_of_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    script = CONFIGS / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text("utf-8")
    command = text[text.index("srun python cli.py ") :].replace("\\\n", "").replace('"${resume[@]}"', "")
    options = parses(shlex.split(command)[3:], capsys)
    asked = {name: re.search(rf"^#SBATCH --{name}=(\d+)$", text, re.MULTILINE) for name in ("nodes", "ntasks-per-node")}
    for name, option in (("nodes", "num_nodes"), ("ntasks-per-node", "devices")):
        found = asked[name]
        assert found is not None
        assert re.search(rf"^  {option}: '?{found[1]}'?$", options, re.MULTILINE)


def test_the_page_has_the_memory_that_is_computed() -> None:
    page = (PROJECT / "docs" / "distributed.md").read_text("utf-8")
    module: dict[str, object] = {"__name__": "memory", "__file__": str(PROJECT / "docs" / "distributed" / "memory.py")}
    exec((PROJECT / "docs" / "distributed" / "memory.py").read_text("utf-8"), module)
    assert module["row"]("1.3b") in page  # type: ignore[operator]
