import numpy as np
import pytest
import torch

from epot.data.dataset import Dataset
from epot.data.structure import Structure
from epot.fit.batches import Samples, in_order, pack, shuffled
from epot.geometry.graph import build, collate


def test_pack_fills_to_the_budget_and_drops_nothing():
    atoms = np.array([3, 4, 3, 12, 2, 2, 1])
    batches = pack(np.arange(7), atoms, atoms * 10, max_atoms=8)
    assert [b.tolist() for b in batches] == [[0, 1], [2], [3], [4, 5, 6]]
    by_pairs = pack(np.arange(7), atoms, atoms * 10, max_atoms=100, max_pairs=70)
    assert [b.tolist() for b in by_pairs] == [[0, 1], [2], [3], [4, 5, 6]]
    assert pack([], atoms, atoms, 8) == []


def test_epochs_are_shuffled_by_seed_and_epoch_alone(molecules):
    samples = Samples(molecules(12), 4.0)
    flat = lambda seed, epoch: np.concatenate(shuffled(samples, 9, None, seed, epoch)).tolist()  # noqa: E731
    state = torch.get_rng_state()
    assert flat(0, 3) == flat(0, 3)
    assert sorted(flat(0, 3)) == list(range(12))
    assert flat(0, 3) != flat(0, 4)
    assert flat(0, 3) != flat(1, 3)
    assert torch.equal(state, torch.get_rng_state())


def test_a_dataset_beyond_the_memory_budget_gives_the_same_batches(molecules):
    kept, streamed = Samples(molecules(9), 4.0), Samples(molecules(9), 4.0, memory=6000)
    assert kept.n_cached == 9
    assert 0 < streamed.n_cached < 9
    for (a, la), (b, lb) in zip(in_order(kept, 10), in_order(streamed, 10), strict=True):
        assert torch.equal(a.pairs, b.pairs)
        assert torch.equal(a.vectors(), b.vectors())
        assert torch.equal(la.forces, lb.forces)


def periodic(n, seed):
    rng = np.random.default_rng(seed)
    return Structure(np.full(n, 14), rng.uniform(0, 4.5, (n, 3)), cell=np.diag([4.5, 5.0, 4.8]), pbc=True)


VIEWS = ("row_pointers", "padded", "reverse_pairs")


@pytest.mark.parametrize("views", [VIEWS[:1], VIEWS[1:2], VIEWS[2:], VIEWS])
def test_joined_views_are_those_of_the_joined_graph(views):
    """Witness: the views made of the joined graph itself. Structures of different density, one without pairs."""
    structures = [periodic(3, 0), Structure(np.array([14]), np.zeros((1, 3))), periodic(5, 1), periodic(1, 2)]
    single = [build(s, 4.0) for s in structures]
    for graph in single:
        for view in views:
            getattr(graph, view)()
    joined, fresh = collate(single), collate([build(s, 4.0) for s in structures])
    assert fresh._made == {}
    for view in views:
        assert view in joined._made
        assert torch.equal(getattr(joined, view)(), getattr(fresh, view)())
    assert torch.equal(joined.reverse_pairs()[joined.reverse_pairs()], torch.arange(joined.n_pairs))


def test_views_are_joined_only_where_all_graphs_have_them():
    single = [build(periodic(3, k), 4.0) for k in range(2)]
    single[0].padded()
    assert "padded" not in collate(single)._made


def test_samples_learn_which_views_a_potential_asks_for(molecules):
    samples = Samples(molecules(6), 4.0)
    graph, _ = samples.batch([0, 1, 2])
    graph.padded()
    samples.learn_views(graph)
    again, _ = samples.batch([2, 3])
    assert {"padded", "row_pointers"} <= again._made.keys()


def test_an_unknown_element_is_refused(molecules):
    from epot.errors import UnknownElementError

    with pytest.raises(UnknownElementError, match="O"):
        Samples(Dataset(list(molecules(2))), 4.0, elements=(1,))
