"""What benchmarks of potentials share: the loss of a training step, atoms that move, and epot itself."""

import numpy as np


def loss_of(energy, forces, energies, labels):
    return ((energy.reshape(-1) - energies) / 27).square().mean() + (forces - labels).square().mean()


def labels_of(frames, dtype):
    """Energies and forces of :func:`systems.training_set`."""
    import torch

    energies = torch.tensor([a.info["energy"] for a in frames], dtype=dtype)
    return energies, torch.cat([torch.tensor(a.arrays["forces"], dtype=dtype) for a in frames])


def moved(atoms):
    """Energy and forces of atoms that moved by 1e-3 Å."""
    rng, start = np.random.default_rng(1), atoms.positions.copy()

    def call():
        atoms.positions = start + rng.normal(scale=1e-3, size=start.shape)
        return atoms.get_potential_energy(), atoms.get_forces()

    return call


def calculator(model, skin):
    from epot.simulate.calculator import Calculator

    return Calculator(model, skin=skin)


def training_step(model, frames, optimizer, fresh=True):
    """A step on energies and forces of a batch, neighbors found before.

    Args:
        model: in which gradients are left.
        frames: of :func:`systems.training_set`.
        optimizer: of its parameters.
        fresh: the batch is put together for every step, as in training; else once, with all that is made of it.
    """
    import torch

    from epot.data.structure import Structure
    from epot.geometry.graph import build, collate
    from epot.predict import predict

    graphs, labels = [build(Structure.from_ase(a), model.cutoff) for a in frames], labels_of(frames, torch.float64)
    once = collate(graphs)
    parameters = [p for p in model.train().parameters() if p.requires_grad]

    def step():
        made = predict(model, collate(graphs) if fresh else once, create_graph=True)
        found = torch.autograd.grad(loss_of(made.energy, made.forces, *labels), parameters, allow_unused=True)
        for parameter, grad in zip(parameters, found, strict=True):
            parameter.grad = grad
        optimizer.step()

    return step
