"""What the terminal shows."""

import sys
import warnings

import pytest

from lit_modules.console import hide_deprecations


@pytest.mark.parametrize(
    ("module", "options", "shown"),
    [
        ("torch.cuda", [], False),
        ("mixers_of_others", [], False),
        ("lit_modules.main", [], True),
        ("torch", ["default"], True),
    ],
)
@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_deprecations_of_other_libraries_are_shown_to_who_asks_for_warnings_only(
    module: str, options: list[str], shown: bool, category: type[Warning], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "warnoptions", options)
    with warnings.catch_warnings(record=True, action="always") as said:
        hide_deprecations()
        warnings.warn_explicit("will be removed", category, "file.py", 1, module=module)
    assert bool(said) == shown
