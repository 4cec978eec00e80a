"""Triples. Witness: loops over the pairs of every atom."""

import itertools

import torch

from epot.data.structure import Structure
from epot.features.triples import ranges, triples
from epot.geometry.graph import build, collate


def by_loops(graph):
    receivers = graph.pairs[0].tolist()
    return [
        (a, b)
        for i in range(graph.n_atoms)
        for a, b in itertools.combinations([p for p, r in enumerate(receivers) if r == i], 2)
    ]


def test_every_two_neighbors_once(water, ethanol):
    """Cells of water are shorter than the cutoff: images of one atom are neighbors of their own."""
    graph = collate([build(ethanol, 3.0), build(water, 3.0)])
    found = triples(graph)
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == by_loops(graph)
    senders = graph.pairs[1]
    assert (senders[found.first] == senders[found.second]).any()
    assert triples(graph) is found  # kept with the graph
    assert triples(graph.replace(positions=graph.positions + 1.0)) is found
    assert triples(graph.within(2.0)) is not found


def test_no_triples(wire):
    lone = build(Structure(wire.numbers[:1], wire.positions[:1]), 3.0)
    assert triples(lone).first.shape == (0,)


def test_ranges():
    found = ranges(torch.tensor([5, 0, 2]), torch.tensor([2, 0, 3]))
    assert found.tolist() == [5, 6, 2, 3, 4]
