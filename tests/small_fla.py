"""fla's naive recurrences, which need torch only, although the package cannot be imported without Triton."""

import importlib.util
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType

import pytest


def naive(op: str) -> ModuleType:
    """fla/ops/OP/naive.py as a module; skips the test where fla-core is not installed."""
    try:
        path = distribution("fla-core").locate_file(f"fla/ops/{op}/naive.py")
    except PackageNotFoundError:
        pytest.skip("needs fla's naive recurrence: pip install --no-deps fla-core==0.6.0")
    spec = importlib.util.spec_from_file_location(f"fla_naive_{op}", str(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
