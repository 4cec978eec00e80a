"""Directly predicted forces before conservative ones (F. Bigi, M. Langer, M. Ceriotti, arXiv:2412.11569), for
``ablation.py``: a stage that trains what a readout sees by one backward pass a step in place of two."""

import itertools
import time

import torch
from torch import nn

from epot.features.radial import radial_basis
from epot.fit import optimizers
from epot.fit.batches import shuffled
from epot.fit.loss import centered, residuals
from epot.fit.recipe import Stage, offsets_of
from epot.fit.stages.descend import Descend
from epot.predict import predict


class Head(nn.Module):
    """``F_i = sum_j s(x_i, x_j, r_ij) r_ij / |r_ij|``: equivariant, zero at the cutoff, and the gradient of nothing.

    Args:
        n_features: length of x, what the readout of the energy is linear in.
        cutoff: Å.
    """

    def __init__(self, n_features, cutoff, width=64, n_radial=8):
        super().__init__()
        self.cutoff, self.n_radial = cutoff, n_radial
        self.own, self.other = nn.Linear(n_features, width), nn.Linear(n_features, width, bias=False)
        self.far = nn.Linear(n_radial, width, bias=False)
        self.size = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, graph, features):
        i, j = graph.pairs
        vectors = graph.vectors().to(features.dtype)
        distances = torch.linalg.vector_norm(vectors, dim=1)
        fade = (1 - (distances / self.cutoff).square()).clamp(min=0).square()
        radial = self.far(radial_basis("bessel", distances, self.cutoff, self.n_radial))
        size = self.size(self.own(features)[i] + self.other(features)[j] + radial).squeeze(1) * fade / distances
        return features.new_zeros(graph.n_atoms, 3).index_add(0, i, size[:, None] * vectors)


class DirectForces(Stage):
    """Trains a potential's weights, and a head that is thrown away, by energies and directly predicted forces.

    Args:
        seconds: how long; the rate rises over the first 50 steps and stays, as the descent that follows lowers it.
        settings: of :class:`Descend`, whose loss, batches, optimizer and rate these are.
    """

    rank = 2

    def __init__(self, seconds, settings):
        self.seconds, self.settings = seconds, settings

    def run(self, state):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state.seed)
            self._run(state, Descend(**self.settings))

    def _run(self, state, like):
        body, began = state.potential.terms["body"], time.monotonic()
        train, _, loss, _ = like._prepare(state)
        with torch.no_grad():
            n_features = body(train.batch([0])[0]).features.shape[1]
        both = nn.ModuleDict({"potential": state.potential, "head": Head(n_features, body.cutoff)}).train()
        optimizer = optimizers.make("muon", both, like.learning_rate, 0.0, like.radial_rate)
        leaves, step, value = [p for p in both.parameters() if p.requires_grad], 0, 0.0
        for epoch in itertools.count():
            for indices in shuffled(train, like.batch_atoms, like.batch_pairs, state.seed + 7, epoch):
                if time.monotonic() - began > self.seconds:
                    state.journal.write("direct", steps=step, epochs=epoch, loss=value)
                    return
                graph, labels = train.batch(indices)
                made = predict(state.potential, graph, ("energy",), create_graph=True)
                train.learn_views(graph)
                made = made._replace(forces=both["head"](graph, made.features))
                found = residuals(made, labels, graph)
                if offsets_of(state.potential) is not None:
                    found = centered(found, graph.bound[labels.has_energy])
                total = loss(found)[0]
                for group in optimizer.param_groups:
                    group["lr"] = group["share"] * like.learning_rate * min(1.0, (step + 1) / 50)
                grads = torch.autograd.grad(total, leaves, allow_unused=True)
                for parameter, grad in zip(leaves, grads, strict=True):
                    parameter.grad = grad
                optimizer.step()
                step, value = step + 1, float(total.detach())
