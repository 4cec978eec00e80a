"""Sums of potentials, configurations, representations."""

import json
import sys
from pathlib import Path

import pytest
import torch

from epot.errors import ConfigError
from epot.geometry.graph import build
from epot.potential import Output, Potential, Sum, make
from epot.predict import predict
from epot.terms.offsets import Offsets

sys.path.insert(0, str(Path(__file__).parent / "testing"))
from broken_potentials import LennardJones  # noqa: E402


def test_a_sum_adds(silicon):
    a, b = LennardJones(), LennardJones(epsilon=0.1, sigma=1.1, cutoff=3.0, onset=2.0)
    both = predict(Sum(a=a, b=b), build(silicon, 4.0))
    alone = [predict(p, build(silicon, p.cutoff)) for p in (a, b)]
    torch.testing.assert_close(both.energy, alone[0].energy + alone[1].energy, rtol=1e-6, atol=0)
    torch.testing.assert_close(both.forces, alone[0].forces + alone[1].forces, rtol=1e-5, atol=1e-6)


def test_terms_see_their_own_pairs(silicon):
    seen = {}

    class Spy(Potential):
        def __init__(self, cutoff: float = 3.0) -> None:
            super().__init__()
            self.cutoff = cutoff

        def forward(self, graph):
            seen[self.cutoff] = graph.n_pairs
            return Output(graph.positions.new_zeros(graph.n_atoms))

    predict(Sum(short=Spy(2.5), long=Spy(5.0)), build(silicon, 5.0), ("energy",))
    assert seen == {2.5: build(silicon, 2.5).n_pairs, 5.0: build(silicon, 5.0).n_pairs}


def test_a_sum_knows_what_all_its_terms_know():
    assert Sum(a=Offsets((1, 6, 8)), b=Offsets((8, 1)), c=LennardJones()).elements == (1, 8)
    assert Sum(c=LennardJones()).elements is None
    assert Sum(a=Offsets((1,)), c=LennardJones()).cutoff == 4.0


def test_sums_of_sums(silicon):
    inner = Sum(a=Offsets((14,), values=(-1.0,)), b=LennardJones())
    outer = predict(Sum(all=inner, more=Offsets((14,), values=(-2.0,))), build(silicon, 4.0), ("energy",))
    plain = predict(LennardJones(), build(silicon, 4.0), ("energy",))
    assert float(outer.energy) == pytest.approx(float(plain.energy) - 24.0, rel=1e-6)


def test_a_sum_keeps_members_features_charges(silicon):
    class Rich(LennardJones):
        def forward(self, graph):
            energy = super().forward(graph).energy
            return Output(energy, torch.stack([energy, 2 * energy], 1), energy[:, None], torch.ones_like(energy))

    graph = build(silicon, 4.0)
    out = Sum(offset=Offsets((14,), values=(-1.0,)), body=Rich())(graph)
    plain = Rich()(graph)
    torch.testing.assert_close(out.members, plain.members.double() - 1.0)
    assert torch.equal(out.features, plain.features)
    assert torch.equal(out.charges, plain.charges)


def test_an_empty_sum_is_refused():
    with pytest.raises(ConfigError, match="at least one term"):
        Sum()


def test_configuration_of_a_sum():
    config = json.loads(json.dumps(Sum(offset=Offsets((1, 8), values=(1.0, 2.0))).config()))
    assert config == {"name": "sum", "terms": {"offset": {"name": "offsets", "elements": [1, 8], "values": [1.0, 2.0]}}}
    assert make(config).config() == config


@pytest.mark.parametrize("bad", [{"name": "sum"}, {"name": "sum", "terms": {}}, {"name": "sum", "terms": [], "x": 1}])
def test_bad_sums(bad):
    with pytest.raises(ConfigError, match="sum's configuration"):
        make(bad)


def test_repr_says_what_is_not_a_default():
    """Also of classes that are not registered."""
    assert "cutoff=3.0" in repr(LennardJones(cutoff=3.0))
    assert "onset" not in repr(LennardJones(cutoff=3.0))


def test_what_is_no_potential(monkeypatch):
    from epot import registry

    monkeypatch.setattr(registry, "get", lambda name: dict)
    with pytest.raises(ConfigError, match="does not make a Potential"):
        make({"name": "dict"})
