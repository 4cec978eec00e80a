"""The repulsion of nuclei."""

import math

import numpy as np
import pytest
import torch

from epot.data.structure import Structure
from epot.errors import ConfigError, UnknownElementError
from epot.geometry.graph import build
from epot.models.painn import PaiNN
from epot.potential import Sum
from epot.predict import predict
from epot.terms.zbl import ZBL


def pair(a, b, r):
    return Structure(np.array([a, b]), np.array([[0.0, 0.0, 0.0], [r / 3, 2 * r / 3, 2 * r / 3]]))


def energy(potential, structure):
    return float(predict(potential, build(structure, potential.cutoff), ("energy",)).energy)


def by_hand(a, b, r, length, power, weights, rates, coulomb, p, end):
    x = r / (length / (a**power + b**power))
    screened = sum(c * math.exp(-d * x) for c, d in zip(weights, rates, strict=True))
    y = r / end
    envelope = 1 - (p + 1) * (p + 2) / 2 * y**p + p * (p + 2) * y ** (p + 1) - p * (p + 1) / 2 * y ** (p + 2)
    return coulomb * a * b / r * screened * envelope if y < 1 else 0.0


@pytest.mark.parametrize(("a", "b", "r", "end"), [(6, 8, 0.7, 1.42), (14, 14, 1.1, 2.22), (1, 14, 1.41, 1.42)])
def test_closed_form(a, b, r, end):
    """Constants as printed in the book (with e^2/4 pi eps0 of CODATA), and in mace/modules/radial.py; ASE's radii."""
    book = (0.4685, 0.23, (0.18175, 0.50986, 0.28022, 0.02817), (3.1998, 0.94229, 0.4029, 0.20162), 14.3996454)
    mace = (0.4543 * 0.529, 0.3, (0.1818, 0.5099, 0.2802, 0.02817), (3.2, 0.9423, 0.4028, 0.2016), 14.3996)
    elements = tuple({a, b})
    one = energy(ZBL(elements), pair(a, b, r))
    two = energy(ZBL(elements, screening="mace", exponent=5, factor=0.5), pair(a, b, r))
    assert one == pytest.approx(by_hand(a, b, r, *book, 6, end), rel=1e-12)
    assert two == pytest.approx(by_hand(a, b, r, *mace, 5, end) / 2, rel=1e-12)
    assert abs(one / two - 2) > 0.1  # a control: the two screenings differ


def test_bare_nuclei_and_the_end_of_the_envelope():
    """Near zero it is Coulomb's law of the bare charges; at the end it has no value, slope or curvature."""
    potential = ZBL((26,))
    near = energy(potential, pair(26, 26, 1e-3))
    assert near == pytest.approx(14.3996454 * 26**2 / 1e-3, rel=0.02)
    end = 2 * 1.32
    values = np.array([energy(potential, pair(26, 26, end - d)) for d in (1e-3, 2e-3)])
    assert values[1] / values[0] == pytest.approx(8, rel=0.01)  # the cube of the distance to the end
    assert energy(potential, pair(26, 26, end + 1e-9)) == 0


def test_keeps_atoms_apart_below_any_model():
    """A network drawn at random pulls or pushes as it likes; with the term two atoms repel each other at 0.3 Å."""
    torch.manual_seed(0)
    model = Sum(core=ZBL((1, 6, 8)), body=PaiNN.tiny())
    made = predict(model, build(pair(6, 8, 0.3), model.cutoff))
    along = np.array([1, 2, 2]) / 3
    assert float(made.forces[1].numpy() @ along) > 100
    assert model.cutoff == PaiNN.tiny().cutoff


def test_own_constants_and_a_shorter_cutoff():
    default = energy(ZBL((6, 8)), pair(6, 8, 0.9))
    assert energy(ZBL((6, 8), length=0.4), pair(6, 8, 0.9)) < default
    assert energy(ZBL((6, 8), power=0.2), pair(6, 8, 0.9)) > default
    assert energy(ZBL((6, 8), weights=(1.0, 0.0, 0.0, 0.0)), pair(6, 8, 0.9)) < default
    cut = ZBL((6, 8), cutoff=0.8)
    assert cut.cutoff == 0.8
    assert energy(cut, pair(6, 8, 0.9)) == 0
    assert energy(cut, pair(6, 8, 0.7)) == energy(ZBL((6, 8)), pair(6, 8, 0.7))


def test_bad_arguments():
    for arguments in ({"exponent": 1}, {"radii": (1.0,)}, {"radii": (1.0, -1.0)}, {"weights": (1.0, 2.0)}):
        with pytest.raises(ConfigError):
            ZBL((6, 8), **arguments)
    with pytest.raises(UnknownElementError, match="Si"):
        ZBL((6, 8))(build(pair(14, 14, 1.0), 3.0))
