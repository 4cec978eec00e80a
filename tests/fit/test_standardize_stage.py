"""The stage that standardizes descriptors. Witness: numpy over all environments at once."""

import numpy as np
import pytest
import torch
from toy_data import molecules

from epot.data.dataset import Dataset
from epot.errors import ConfigError, FitError
from epot.fit.config import build_stages
from epot.fit.recipe import FitState
from epot.fit.stages.standardize import FitStatistics, Moments
from epot.geometry.graph import build
from epot.models.acsf_nn import AcsfNN
from epot.models.painn import PaiNN
from epot.potential import Sum
from epot.terms.offsets import Offsets

SMALL = {"name": "acsf", "cutoff": 3.0, "radial": [[0.5, 0.0], [4.0, 1.2]], "angular": [[0.05, 1, 1], [0.05, 4, -1]]}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("EPOT_PROGRESS", "0")


def state(elements=("H", "O"), n=24):
    body = AcsfNN(elements, SMALL, hidden=(4,))
    body.descriptor.double()
    body.standardize.double()
    return FitState(Sum(offset=Offsets(elements), body=body), molecules(n)), body


def everything(made, body):
    graph = build(list(made.train), body.cutoff)
    return body.descriptor(graph).numpy(), graph.numbers.numpy()


def test_statistics_of_every_environment():
    made, body = state()
    FitStatistics().run(made)
    rows, numbers = everything(made, body)
    for k, z in enumerate((1, 8)):
        own = rows[numbers == z]
        np.testing.assert_allclose(body.standardize.mean[k].numpy(), own.mean(0), rtol=1e-12)
        varies = own.std(0) > 1e-5
        np.testing.assert_allclose(body.standardize.scale[k].numpy()[varies], own.std(0)[varies], rtol=1e-10)
    assert made.about["fit"]["standardize"]["environments"]["body"] == [int((numbers == z).sum()) for z in (1, 8)]


def test_no_more_environments_than_asked_for():
    """And the statistics of a part are near those of all: the seed decides which part."""
    made, body = state(n=60)
    FitStatistics(environments=40).run(made)
    counts = made.about["fit"]["standardize"]["environments"]["body"]
    assert 40 <= min(counts) <= 46
    assert max(counts) < len(everything(made, body)[1])
    rows, numbers = everything(made, body)
    apart = np.abs(body.standardize.mean[0].numpy() - rows[numbers == 1].mean(0)) / (rows[numbers == 1].std(0) + 1e-12)
    assert 1e-6 < apart.max() < 1.0


def test_elements_that_never_occur_are_left_alone():
    made, body = state(("H", "O", "Si"))
    FitStatistics().run(made)
    assert torch.equal(body.standardize.scale[2], torch.ones(body.descriptor.size).double())
    assert torch.isfinite(body.standardize.mean).all()


def test_moments_of_numbers_far_from_zero():
    """Rows in parts; a sum of squares would lose all digits."""
    rows = torch.randn(300, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1e-4 + 1e6
    sums = Moments(1, 3)
    for part in rows.split(7):
        sums.add(part, torch.zeros(len(part), dtype=torch.int64))
    mean, deviation = sums.result()
    np.testing.assert_allclose(deviation[0].numpy(), rows.numpy().std(0), rtol=1e-5)
    np.testing.assert_allclose(mean[0].numpy(), rows.numpy().mean(0), rtol=1e-14)


def test_recipe_has_it_where_it_applies():
    names = lambda potential: [type(s).__name__ for s in build_stages(None, potential, False)]  # noqa: E731
    assert names(state()[0].potential) == ["FitOffsets", "FitStatistics", "Descend"]
    assert "FitStatistics" not in names(PaiNN.tiny())
    made = FitState(PaiNN.tiny(), molecules(3))
    with pytest.raises(FitError, match="nothing to do"):
        FitStatistics().check(made)
    with pytest.raises(ConfigError, match="at least 2"):
        FitStatistics(environments=1)


def test_one_element_takes_atoms_of_many_structures():
    """A single kind of rows: what is counted are atoms, not structures."""
    made, body = state(elements=("H",))
    made.train = Dataset([s.replace(numbers=np.ones(len(s), int)) for s in made.train])
    FitStatistics().run(made)
    rows, _ = everything(made, body)
    np.testing.assert_allclose(body.standardize.mean[0].numpy(), rows.mean(0), rtol=1e-12)
    assert made.about["fit"]["standardize"]["environments"]["body"] == [len(rows)]
