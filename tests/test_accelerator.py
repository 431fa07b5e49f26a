"""Every mixer runs on an accelerator without copies to the CPU, in every precision; on a fake one, so without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_accelerator import CASES, WRONG


@pytest.fixture(scope="module")
def failures():
    """What failed in each case."""
    command = [sys.executable, "-W", "ignore::UserWarning", str(Path(__file__).parent / "fake_accelerator.py")]
    root = Path(__file__).parent.parent
    run = subprocess.run(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("case", CASES)
def test_forward_backward_and_decoding_run_without_copies_to_the_cpu(case, failures):
    assert not failures[case]


@pytest.mark.parametrize("wrong", WRONG)
def test_the_fake_accelerator_refuses_what_a_real_one_would_wait_for(wrong, failures):
    assert failures[wrong]
