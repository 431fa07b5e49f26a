"""States of decoding: saved, loaded in another process, continued."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from mixers import LanguageModel, available

CONTINUE = """
import sys
import warnings
import torch
from mixers import LanguageModel

warnings.simplefilter("ignore")
for name in sys.argv[1:]:
    model = LanguageModel(name, vocab_size=50, dim=32, depth=2).eval()
    model.load_state_dict(torch.load(f"{name}.weights.pt", weights_only=True))
    state = torch.load(f"{name}.state.pt", weights_only=True)
    with torch.no_grad():
        torch.save(model.extend(torch.tensor([[7, 8], [9, 10]]), state)[0], f"{name}.logits.pt")
"""


def test_a_state_of_every_mixer_goes_on_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ids, expected = torch.arange(22).view(2, 11), {}
    for name in available():
        torch.manual_seed(0)
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            model = LanguageModel(name, vocab_size=50, dim=32, depth=2).eval()
            state = model.extend(ids, model.initial_state(2))[1]
            torch.save(model.state_dict(), f"{name}.weights.pt")
            torch.save(state, f"{name}.state.pt")
            expected[name] = model.extend(torch.tensor([[7, 8], [9, 10]]), state)[0]
    path = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", CONTINUE, *expected], check=True, env={"PYTHONPATH": path})
    for name, logits in expected.items():
        assert torch.equal(torch.load(f"{name}.logits.pt", weights_only=True), logits), name
