"""Writes tests/data_files/dimenet_pyg.npz: energies and forces of torch_geometric's DimeNetPlusPlus, random weights.

    PYTHON_OF_TORCH_GEOMETRIC tests/oracles/dimenet_pyg.py

Run it in an environment with torch_geometric (made with 2.8.1 and torch 2.13.0), sympy and ase. Everything is float64.
torch_geometric knows no cells and lists neighbors and triplets with compiled extensions; here its own layers are given
the vectors of a list of neighbors by ASE and triplets counted in plain loops, in which k is left out only where it is
the same image of i. The molecule also goes through torch_geometric's own ``forward``. Its roots of Bessel functions and
their norms, which it rounds to float32, are written, too.
"""

from pathlib import Path

import numpy as np
import torch
import torch_geometric.nn.models.dimenet as pyg
import torch_geometric.nn.models.dimenet_utils as bases
from ase import Atoms
from ase.neighborlist import neighbor_list
from written import write

CASES = {
    "small": dict(num_blocks=2, num_spherical=7, num_radial=6, cutoff=3.5),
    "exponent": dict(num_blocks=1, num_spherical=3, num_radial=4, cutoff=3.0, envelope_exponent=4,
                     num_before_skip=2, num_after_skip=0, num_output_layers=0),
}  # fmt: skip
SIZES = dict(hidden_channels=12, out_channels=1, int_emb_size=6, basis_emb_size=4, out_emb_channels=10)
OUT = Path(__file__).parents[1] / "data_files" / "dimenet_pyg.npz"


def structures() -> dict[str, Atoms]:
    """A molecule with an almost straight angle, a cell larger than two cutoffs, and one that is smaller than one."""
    rng = np.random.default_rng(11)
    molecule = Atoms("C2NOH4", positions=[[0, 0, 0], [1.2, 0, 0], [2.4, 0.01, 0], [-0.7, 1.1, 0.1], [-0.6, -0.9, 0.3],
                     [3.1, 0.8, 0.2], [3.0, -0.9, 0.1], [-1.6, 1.0, 0.4]])  # fmt: skip
    crystal = Atoms("Si8", scaled_positions=np.array([[0, 0, 0], [0, .5, .5], [.5, 0, .5], [.5, .5, 0], [.25, .25, .25],
                    [.25, .75, .75], [.75, .25, .75], [.75, .75, .25]]), cell=np.eye(3) * 5.43, pbc=True)  # fmt: skip
    crystal = crystal * (2, 2, 2)
    crystal.numbers[::3] = 8
    crystal.set_cell(crystal.cell.array + rng.normal(scale=0.2, size=(3, 3)), scale_atoms=True)
    small = Atoms("SiO", scaled_positions=[[0, 0, 0], [0.5, 0.45, 0.55]],
                  cell=[[2.9, 0.2, 0.1], [0.3, 3.1, -0.2], [-0.1, 0.4, 2.8]], pbc=True)  # fmt: skip
    for atoms in (molecule, crystal, small):
        atoms.positions += rng.normal(scale=0.08, size=atoms.positions.shape)
    return {"molecule": molecule, "crystal": crystal, "small_cell": small}


def model(case: str) -> torch.nn.Module:
    torch.manual_seed(len(case))
    made = pyg.DimeNetPlusPlus(**SIZES | CASES[case], output_initializer="glorot_orthogonal").double()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):  # they start at zero: give them values, so that they are compared
                parameter.normal_(std=0.3)
            if name == "rbf.freq":
                parameter += 0.1 * torch.randn_like(parameter)
    return made.eval()


def triplets(i: np.ndarray, j: np.ndarray, shifts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges k -> j and j -> i."""
    into = {}
    for edge, atom in enumerate(i):
        into.setdefault(int(atom), []).append(edge)
    kj, ji = [], []
    for edge, atom in enumerate(j):
        for other in into.get(int(atom), []):
            if not (j[other] == i[edge] and not (shifts[edge] + shifts[other]).any()):
                kj.append(other)
                ji.append(edge)
    return torch.tensor(kj), torch.tensor(ji)


def evaluate(made: torch.nn.Module, atoms: Atoms) -> tuple[float, np.ndarray]:
    """torch_geometric's layers on vectors of ASE."""
    i, j, shifts = neighbor_list("ijS", atoms, made.cutoff)
    kj, ji = triplets(i, j, shifts)
    i, j = torch.from_numpy(i), torch.from_numpy(j)
    z, x = torch.from_numpy(atoms.numbers), torch.from_numpy(atoms.positions).requires_grad_()
    vectors = x[i] - x[j] - torch.from_numpy(shifts @ atoms.cell.array)  # as pos[i] - pos[j] in its forward
    distance = vectors.square().sum(1).sqrt()
    along, across = (vectors[ji] * vectors[kj]).sum(1), torch.cross(vectors[ji], vectors[kj], dim=1).norm(dim=1)
    rbf, sbf = made.rbf(distance), made.sbf(distance, torch.atan2(across, along), kj)
    m = made.emb(z, rbf, i, j)
    total = made.output_blocks[0](m, rbf, i, num_nodes=len(z))
    for interaction, output in zip(made.interaction_blocks, made.output_blocks[1:], strict=True):
        m = interaction(m, rbf, sbf, kj, ji)
        total = total + output(m, rbf, i, num_nodes=len(z))
    energy = total.sum()
    return float(energy), -torch.autograd.grad(energy, x)[0].numpy()


def own_forward(made: torch.nn.Module, atoms: Atoms) -> float:
    """torch_geometric's forward, lists made without its extensions."""

    def radius_graph(x, r, **_):
        near = torch.cdist(x, x) < r
        return near.fill_diagonal_(False).nonzero().t().flip(0)

    def list_triplets(edges, num_nodes):
        j, i = edges
        kj, ji = triplets(i.numpy(), j.numpy(), np.zeros((len(i), 3), int))
        return i, j, i[ji], j[ji], j[kj], kj, ji

    pyg.radius_graph, pyg.triplets = radius_graph, list_triplets
    return float(made(torch.from_numpy(atoms.numbers), torch.from_numpy(atoms.positions)))


def main() -> None:
    kept = {}
    for case in CASES:
        made = model(case)
        roots = kept[f"{case}/roots"] = bases.Jn_zeros(made.sbf.num_spherical, made.sbf.num_radial)
        norms = [[1 / np.array(0.5 * bases.Jn(z, k + 1) ** 2) ** 0.5 for z in row] for k, row in enumerate(roots)]
        kept[f"{case}/norms"] = np.array(norms)
        for name, value in made.state_dict().items():
            kept[f"{case}/state/{name}"] = (value[:15] if name == "emb.emb.weight" else value).numpy()
        for name, atoms in structures().items():
            energy, forces = evaluate(made, atoms)
            kept |= {f"{case}/{name}/energy": energy, f"{case}/{name}/forces": forces}
            if name == "molecule":
                assert abs(own_forward(made, atoms) - energy) < 1e-12
    write(OUT, kept, structures())


if __name__ == "__main__":
    main()
