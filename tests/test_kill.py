"""A run that is killed at random moments ends as if it had not been."""

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "docs" / "kill_test.py"


def test_a_run_that_is_killed_three_times_ends_bit_identical() -> None:
    command = [sys.executable, str(PROGRAM), "--kills=3", "--steps=20", "--seed=1"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1].startswith("3 kills (")
    assert "runs of 20 steps, all bit-identical" in ran.stdout
