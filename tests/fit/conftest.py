import sys
from pathlib import Path

import numpy as np
import pytest

from epot.data.dataset import Dataset
from epot.data.structure import Structure


@pytest.fixture
def toynet(monkeypatch):
    """The class of a small registered model, ``epot.models.toynet``, for this test only."""
    import epot.models

    monkeypatch.setattr(epot.models, "__path__", [*epot.models.__path__, str(Path(__file__).parent / "toys")])
    from epot.models.toynet import ToyNet

    yield ToyNet
    sys.modules.pop("epot.models.toynet", None)


def morse(structure: Structure) -> Structure:
    """Labels of a Morse pair potential with offsets: E0(H) = -3 eV, E0(O) = -7 eV."""
    x, z = structure.positions, structure.numbers
    vectors = x[None] - x[:, None]
    r = np.linalg.norm(vectors, axis=-1) + np.eye(len(x)) * 99.0
    a, r0, depth = 1.4, 1.3, 0.8
    e = np.exp(-a * (r - r0))
    slope = depth * (-2 * a * e * e + 2 * a * e)  # dV/dr
    energy = 0.5 * (depth * (e * e - 2 * e)).sum() + np.where(z == 1, -3.0, -7.0).sum()
    forces = (slope[..., None] * vectors / r[..., None]).sum(1)
    return structure.replace(energy=float(energy), forces=forces)


@pytest.fixture
def molecules():
    """``molecules(n, seed)``: labeled molecules of 3 to 6 atoms of H and O, three formulas."""

    def make(n: int = 24, seed: int = 0) -> Dataset:
        rng = np.random.default_rng(seed)
        made = []
        for k in range(n):
            numbers = np.array([[8, 1, 1], [8, 8, 1, 1], [8, 1, 1, 8, 1, 1]][k % 3])
            x = np.array([[0, 0, 0], [1.1, 0, 0], [0, 1.1, 0], [1.2, 1.2, 0.4], [0, 0.2, 1.3], [1.2, 0, 1.4]])[
                : len(numbers)
            ]
            made.append(
                morse(Structure(numbers, x + 0.08 * rng.normal(size=x.shape), source=f"toy frame {k}", group=f"g{k}"))
            )
        return Dataset(made, {"file": "toy"})

    return make
