"""The stage that sets scaling factors. Witness: numpy's variances of what each factor is given."""

import numpy as np
import pytest
import torch
from toy_data import molecules

from epot.blocks.gemnet_layers import ScalingFactor, settle, spread
from epot.data.readers import read
from epot.errors import ConfigError, FitError
from epot.fit.config import build_stages
from epot.fit.recipe import FitState
from epot.fit.run import fit
from epot.fit.stages.scaling import FitScaling, factors
from epot.geometry.graph import build
from epot.models.gemnet import GemNet
from epot.models.painn import PaiNN
from epot.potential import Sum
from epot.terms.offsets import Offsets


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("EPOT_PROGRESS", "0")


def state(quadruplets=False, n=12):
    torch.manual_seed(3)
    config = GemNet.tiny().config() | {"elements": ["H", "O"], "quadruplets": quadruplets, "cutoff": 2.0}
    config.pop("name")
    body = GemNet(**config).double()
    return FitState(Sum(offset=Offsets(("H", "O")), body=body), molecules(n)), body


def ratios(body, graph):
    """Of each factor: the variance that it gives over the one that it should give, by numpy."""
    seen, names = {}, {m: name for name, m in factors(body).items()}

    def watch(module, given, result):
        _, like, *rest = given
        count = rest[0].numpy() if rest and rest[0] is not None else np.ones(len(like), int)
        wanted = np.repeat(like.detach().numpy(), count, 0).var(0, ddof=1).mean()
        seen[names[module]] = float(result.detach().numpy().var(0, ddof=1).mean() / wanted)

    hooks = [m.register_forward_hook(watch) for m in names]
    body(graph)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("quadruplets", [False, True])
def test_variances_are_kept(quadruplets):
    """All of them, so each was set with those before it at their values. Control: before the fit they are not."""
    made, body = state(quadruplets)
    graph = build(list(made.train), body.cutoff)
    before = ratios(body, graph)
    assert len(before) == 2 * (6 if quadruplets else 3) + 3
    assert max(abs(np.log(list(before.values())))) > 1
    FitScaling().run(made)
    after = ratios(body, graph)
    assert max(abs(np.array(list(after.values())) - 1)) < 1e-5  # the factors are kept in single precision
    facts = made.about["fit"]["scaling"]
    assert facts["structures"] == len(made.train)
    assert set(facts["factors"]) == {f"terms.body.{name}" for name in after}
    assert not any(f.observing for f in factors(body).values())


def test_what_is_set_stays():
    made, body = state()
    FitScaling(pairs=20).run(made)
    kept = {name: f.factor.clone() for name, f in factors(body).items()}
    assert made.about["fit"]["scaling"]["structures"] < len(made.train)
    with torch.no_grad():
        body.interactions[0].skip.weight.mul_(3)
    FitScaling().run(made)
    assert all(torch.equal(f.factor, kept[name]) for name, f in factors(body).items())
    assert made.about["fit"]["scaling"]["kept"] == len(kept)


def test_nothing_to_see_leaves_factors_alone():
    """No pairs, no variance: a factor of 1 and a note, not NaN."""
    made, body = state()
    made.train = made.train[:2]
    lonely = [s.replace(positions=s.positions * 50) for s in made.train]
    made.train = type(made.train)(lonely)
    FitScaling().run(made)
    assert all(f.factor == 1 for f in factors(body).values())
    assert any("stay at 1" in line.get("text", "") for line in made.journal.lines)


def test_spread_counts_repeats():
    x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    repeats = torch.arange(20) % 4
    wanted = np.repeat(x.numpy(), repeats.numpy(), 0).var(0, ddof=1).mean()
    assert abs(float(spread(x, repeats)) - wanted) < 1e-14


def test_it_is_part_of_the_recipe():
    """A fit of GemNet sets them before it descends; other models have none."""
    assert [type(s).__name__ for s in build_stages(None, state()[0].potential, False)][:2] == [
        "FitOffsets",
        "FitScaling",
    ]
    plain = Sum(offset=Offsets(("H", "O")), body=PaiNN.tiny())
    assert not FitScaling.applies(plain)
    with pytest.raises(FitError, match="nothing to do"):
        FitScaling().check(FitState(plain, molecules(2)))
    with pytest.raises(ConfigError, match="pairs"):
        FitScaling(pairs=0)
    made, _ = state()
    config = made.potential.terms["body"].config() | {"n_layers": 1}
    done = fit(config, made.train, options={"descend": {"epochs": 2}}, holdout=0.25)
    found = factors(done.potential)
    assert all(bool(f.settled) for f in found.values())
    assert not all(float(f.factor) == 1 for f in found.values())


def test_settled_by_hand():
    factor = ScalingFactor()
    settle([factor])
    factor.observing = True
    x = torch.randn(4, 2)
    assert torch.equal(factor(x, 5 * x), x)


@pytest.mark.shared
@pytest.mark.parametrize("quadruplets", [False, True])
def test_about_the_published_factors(quadruplets, shared_data):
    """Those that the reference code ships (COLL, all variants); other molecules here, so to a factor of two.

    Control: factors of different kinds are further apart than that.
    """
    published = {"triplets.scale_rbf": 3.2, "triplets.scale_sum": 5.9, "atom_update.scale_sum": 0.96}
    published |= {"quadruplets.scale_rbf": 3.6, "quadruplets.scale_cbf": 30.3, "quadruplets.scale_sum": 1.98}
    torch.manual_seed(0)
    reach = {"cutoff": 10.0, "edge_cutoff": 5.0, "quadruplets": True} if quadruplets else {}
    made = FitState(GemNet(n_layers=2, **reach), read(shared_data / "3bpa" / "train_300K.xyz.gz")[:4])
    FitScaling(pairs=800).run(made)
    for name, value in made.about["fit"]["scaling"]["factors"].items():
        wanted = published.get(".".join(name.split(".")[2:]), 0.93)  # of the outputs
        assert 0.5 < value / wanted < 2, name
    assert published["triplets.scale_rbf"] / published["atom_update.scale_sum"] > 2
