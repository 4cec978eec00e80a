import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import toy_data


@pytest.fixture
def toynet(monkeypatch):
    """The class of a small registered model, ``epot.models.toynet``, for this test only."""
    models = importlib.import_module("epot.models")  # the attribute of the package is the list of names

    monkeypatch.setattr(models, "__path__", [*models.__path__, str(Path(__file__).parent / "toys")])
    monkeypatch.setenv("EPOT_PROGRESS", "0")
    from epot.models.toynet import ToyNet

    yield ToyNet
    sys.modules.pop("epot.models.toynet", None)


@pytest.fixture
def molecules():
    """``molecules(n, seed)``: labeled molecules of a Morse potential, three formulas."""
    return toy_data.molecules
