import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import toy_data


@pytest.fixture
def toynet(monkeypatch):
    """The class of a small registered model, ``epot.models.toynet``, for this test only."""
    import epot.models

    monkeypatch.setattr(epot.models, "__path__", [*epot.models.__path__, str(Path(__file__).parent / "toys")])
    monkeypatch.setenv("EPOT_PROGRESS", "0")
    from epot.models.toynet import ToyNet

    yield ToyNet
    sys.modules.pop("epot.models.toynet", None)


@pytest.fixture
def molecules():
    """``molecules(n, seed)``: labeled molecules of a Morse potential, three formulas."""
    return toy_data.molecules
