"""ANI: sizes of the published models, committees, what is refused."""

import pytest
import torch

import epot.testing
from epot.data.structure import Structure
from epot.errors import ConfigError, UnknownElementError
from epot.geometry.graph import build
from epot.models.ani import ANI, TINY
from epot.potential import make
from epot.predict import predict

SMALL = {"hidden": (6, 5), "descriptor": {"name": "aev"} | TINY}


@pytest.mark.parametrize("check", ["forces", "hessian", "double_backward", "save_load", "configuration", "few_atoms"])
def test_checks_of_a_committee(check):
    """The same checks that test_all_models.py makes of a single potential."""
    found = next(c for c in epot.testing.checks() if str(c) == check)
    found(ANI((1, 6, 8), n_members=2, standardized=False, **SMALL))


def test_published_sizes():
    """Witness: widths and lengths of torchani's ANI1x and ANI2x."""
    small = ANI(("H", "C", "N", "O"), "1x", "published", "celu", cutoff_function="cosine")
    assert small.descriptor.size == 384
    assert [tuple(n[0].weight.shape) for n in small.networks.networks] == [
        (160, 384),
        (144, 384),
        (128, 384),
        (128, 384),
    ]
    large = ANI(("H", "C", "N", "O", "S", "F", "Cl"), "2x", "published", n_members=2)
    assert large.descriptor.size == 1008
    shapes = [[tuple(w.shape[1:]) for w in stack] for stack in large.networks.weights]
    assert shapes[0] == [(1008, 256), (256, 192), (192, 160), (160, 1)]
    assert shapes[4] == shapes[6] == [(1008, 160), (160, 128), (128, 96), (96, 1)]
    assert ANI(("Si", "H"), hidden="published").hidden == {"Si": [160, 128, 96], "H": [256, 192, 160]}


def test_committee_is_the_mean_of_its_members(water):
    torch.manual_seed(0)
    made = ANI((1, 8), n_members=3, **SMALL).double()
    assert made.committee
    graph = build(water, made.cutoff)
    found = predict(made, graph, ("forces", "virial", "members"))
    plain = predict(made, graph, ("forces", "virial"))
    assert found.members.energy.shape == (1, 3)
    for one, other in ((found.members.energy, plain.energy), (found.members.forces, plain.forces)):
        assert float((one.mean(-1) - other).abs().max()) < 1e-12
    assert float(found.members.forces.std(-1).max()) > 1e-3
    one_by_one = [torch.autograd.grad(*_energy_of(made, graph, m))[0] for m in range(3)]
    for m, grad in enumerate(one_by_one):
        i, j = graph.pairs
        forces = torch.zeros_like(graph.positions).index_add(0, i, grad).index_add(0, j, -grad)
        assert float((forces - found.members.forces[..., m]).abs().max()) < 1e-12


def _energy_of(potential, graph, member):
    vectors = graph.vectors().clone().requires_grad_()
    return potential(graph.replace(_vectors=vectors)).members[:, member].sum(), vectors


def test_another_descriptor(ethanol):
    made = ANI((1, 6, 8), hidden=(5,), descriptor={"name": "soap", "cutoff": 3.5, "n_max": 2, "l_max": 2})
    assert made.cutoff == 3.5
    assert made.descriptor.size == made.networks.networks[0][0].weight.shape[1]
    again = make(made.config())
    again.load_state_dict(made.state_dict())
    graph = build(ethanol, 3.5)
    assert torch.equal(predict(made, graph).energy, predict(again, graph).energy)


def test_what_is_refused(ethanol):
    for settings, match in (
        ({"hidden": "big"}, "published"),
        ({"hidden": {"H": (4,)}}, "no hidden layers for C, N, O"),
        ({"hidden": ()}, "at least one unit"),
        ({"n_members": 0}, "at least one member"),
        ({"activation": "sinh"}, "no activation"),
        ({"descriptor": {"name": "aev", "cutof": 3.0}}, "did you mean 'cutoff'"),
        ({"descriptor": "coulomb_matrix"}, "whole structures"),
    ):
        with pytest.raises(ConfigError, match=match):
            make({"name": "ani"} | settings)
    made = ANI((1, 6), **SMALL)
    with pytest.raises(UnknownElementError, match="knows H, C; the graph holds O"):
        made(build(ethanol, made.cutoff))
    lone = predict(made, build(Structure(ethanol.numbers[:1], ethanol.positions[:1]), made.cutoff))
    assert torch.isfinite(lone.energy).all()
    assert not lone.forces.any()
