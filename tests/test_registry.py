"""Names of mixers: those of this package, and those that others offer."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

import mixers
from mixers import Retention, registry


@pytest.fixture
def offered(monkeypatch):
    """Lets a test say which entry points are installed."""

    def offer(**points):
        found = [EntryPoint(name, value, registry.GROUP) for name, value in points.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: found)

    return offer


def test_a_mixer_is_found_by_its_name():
    assert mixers.get("retention") is Retention


def test_an_unknown_name_is_answered_with_the_nearest_and_the_list():
    message = "No mixer is named 'retentoin'; did you mean 'retention'? There are: attention, "
    with pytest.raises(KeyError) as error:
        mixers.get("retentoin")
    assert error.value.args[0].startswith(message)


def test_a_name_far_from_all_gets_the_list_alone():
    assert registry.unknown("xyz").startswith("No mixer is named 'xyz'. There are: ")


def test_a_package_offers_a_mixer_through_an_entry_point(offered):
    offered(their_retention="mixers.retention:Retention")
    assert mixers.get("their_retention") is Retention


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("no_such_package:Mixer", "could not be loaded"),
        ("mixers.retention:NoSuchClass", "could not be loaded"),
        ("math:sin", "is not a mixers.Mixer"),
    ],
)
def test_a_broken_offer_takes_nothing_else_away(offered, value, complaint):
    offered(broken=value)
    with pytest.warns(UserWarning, match=complaint):
        found = mixers.available()
    assert "broken" not in found
    assert found["retention"] is Retention


def test_an_offer_cannot_take_a_name_in_use(offered):
    offered(retention="mixers.attention:Attention")
    with pytest.warns(UserWarning, match="'retention' names another one"):
        assert mixers.get("retention") is Retention


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="Attention cannot be named 'retention': Retention is"):
        mixers.register("retention")(mixers.Attention)


def test_importing_mixers_imports_neither_lightning_nor_jsonargparse_nor_datasets():
    code = "import sys, mixers, mixers.model.generate, mixers.testing; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pytorch_lightning", "lightning", "jsonargparse", "datasets", "torchmetrics"} & set(loaded)
