"""Writes tests/data_files/mace/: checkpoints of mace-torch with random weights, and its energies, forces and stress.

    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 PYTHON_OF_MACE tests/oracles/mace_checkpoints.py [NAME ...]

Run it in an environment with mace-torch (made with 0.3.16, e3nn 0.4.4, torch 2.13.0); the variants in REDUCED need
cuequivariance and cuequivariance-torch (0.13.0) there, all others are made without. Each checkpoint is what
``torch.save(model)`` wrote, compressed by xz. Sizes are tiny, everything else is as in the published models.
"""

import json
import lzma
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from e3nn import o3
from mace import modules
from mace.data import AtomicData, config_from_atoms
from mace.tools import AtomicNumberTable, torch_geometric

OUT = Path(__file__).parents[1] / "data_files" / "mace"
AGNOSTIC, RESIDUAL = "RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock"
DENSITY, DENSITY_RESIDUAL = "RealAgnosticDensityInteractionBlock", "RealAgnosticDensityResidualInteractionBlock"
NONLINEAR = "RealAgnosticResidualNonLinearInteractionBlock"
MANY = [z for z in range(1, 95) if z not in (84, 85, 86, 87, 88)]
"""The 89 elements of MACE-MP-0."""
HCO, LAST = [1, 6, 8], "NonLinearBiasReadoutBlock"
CASES: dict[str, dict[str, Any]] = {
    "mp0": dict(first=RESIDUAL, later=RESIDUAL, elements=MANY, hidden="2x0e+2x1o", radial_MLP=[6, 6, 6], r_max=4.5,
                num_bessel=5, dtype="float32"),
    "off": dict(first=RESIDUAL, later=RESIDUAL, elements=HCO, hidden="4x0e+4x1o+4x2e", max_ell=2, correlation=3),
    "large": dict(first=AGNOSTIC, later=RESIDUAL, elements=HCO, hidden="2x0e+2x1o+2x2e+2x3o", correlation=2),
    "0b3": dict(first=DENSITY, later=DENSITY_RESIDUAL, elements=[1, 6, 8, 14], hidden="3x0e+3x1o",
                pair_repulsion=True, distance_transform="Agnesi"),
    "heads": dict(first=DENSITY, later=DENSITY_RESIDUAL, elements=HCO, hidden="4x0e+4x1o", max_ell=2, correlation=2,
                  pair_repulsion=True, distance_transform="Agnesi", heads=["pt_head", "Default"]),
    "plain": dict(kind="MACE", first=AGNOSTIC, later=RESIDUAL, elements=HCO, hidden="4x0e", max_ell=2,
                  correlation=2, radial_type="gaussian", num_bessel=6, distance_transform="Soft",
                  pair_repulsion=True),
    "layers": dict(first=RESIDUAL, later=RESIDUAL, elements=HCO, hidden="4x0e+4x1o", max_ell=2, num_interactions=3,
                   correlation=[3, 2, 1], radial_type="chebyshev", distance_transform="Agnesi", apply_cutoff=False),
    "single": dict(kind="MACE", first=AGNOSTIC, later=RESIDUAL, elements=[8], hidden="4x0e", max_ell=3,
                   num_interactions=1, num_polynomial_cutoff=6, only="O"),
    "four": dict(first=AGNOSTIC, later=RESIDUAL, elements=HCO, hidden="3x0e+3x1o", max_ell=1, correlation=4),
    "invariant": dict(first=RESIDUAL, later=RESIDUAL, elements=HCO, hidden="4x0e", max_ell=3, correlation=2,
                      dtype="float32"),
    "nonlinear": dict(first=NONLINEAR, later=NONLINEAR, elements=HCO, hidden="4x0e+4x1o", max_ell=2, correlation=2,
                      apply_cutoff=False, distance_transform="Agnesi", pair_repulsion=True),
    "mh": dict(first=NONLINEAR, later=NONLINEAR, elements=HCO, hidden="6x0e+6x1o", max_ell=3, correlation=2,
               apply_cutoff=False, readout_cls=LAST, heads=["omat", "spice", "oc20"], edge_irreps="4x0e+4x1o+4x2e",
               use_edge_irreps_first=True, use_agnostic_product=True, use_last_readout_only=True,
               pair_repulsion=True),
    "reduced": dict(first=AGNOSTIC, later=RESIDUAL, elements=HCO, hidden="4x0e+4x1o", correlation=3,
                    use_reduced_cg=True),
    "reduced_large": dict(first=DENSITY, later=DENSITY_RESIDUAL, elements=HCO, hidden="3x0e+3x1o+3x2e", max_ell=2,
                          correlation=3, use_reduced_cg=True),
}  # fmt: skip
REDUCED = {"reduced", "reduced_large"}
DEFAULTS: dict[str, Any] = dict(
    kind="ScaleShiftMACE", r_max=4.0, num_bessel=4, num_polynomial_cutoff=5, max_ell=3, num_interactions=2,
    correlation=3, radial_MLP=[5, 7, 6], MLP="3x0e", dtype="float64", use_reduced_cg=False,
)  # fmt: skip


def structures(symbols: list[str]) -> dict[str, Atoms]:
    """Positions in no special order; some pairs are near enough for ZBL, and the cell is half as long as the cutoff."""
    rng = np.random.default_rng(7)

    def scattered(n: int, cell: np.ndarray, least: float, periodic: bool) -> Atoms:
        made = Atoms(pbc=periodic, cell=cell)
        while len(made) < n:
            tried = made.copy()
            tried.append(symbols[len(made) % len(symbols)])
            tried.positions[-1] = rng.random(3) @ tried.cell.array
            apart = tried.get_all_distances(mic=periodic)[-1, :-1]
            if not len(apart) or apart.min() > least:
                made = tried
        if not periodic:
            made.cell = None
        return made

    skew = np.array([[3.1, 0.2, -0.1], [0.9, 2.8, 0.3], [-0.6, 0.7, 3.3]])
    return {"molecule": scattered(7, np.eye(3) * 3.4, 0.9, False), "cell": scattered(4, skew, 1.0, True)}


def build(elements: list[int], kind: str, first: str, later: str, hidden: str, MLP: str, dtype: str, **options: Any):
    torch.manual_seed(3)
    rng = np.random.default_rng(5)
    torch.set_default_dtype(getattr(torch, dtype))
    options.pop("only", None)
    heads = options.get("heads")
    shape = (len(heads), len(elements)) if heads else (len(elements),)
    if "readout_cls" in options:
        options["readout_cls"] = getattr(modules.blocks, options["readout_cls"])
    if "edge_irreps" in options:
        options["edge_irreps"] = o3.Irreps(options["edge_irreps"])
    if kind == "ScaleShiftMACE":
        n = len(heads) if heads else None
        options["atomic_inter_scale"] = 0.81 if n is None else (0.81 + 0.1 * np.arange(n)).tolist()
        options["atomic_inter_shift"] = 0.13 if n is None else (0.13 - 0.2 * np.arange(n)).tolist()
    model = getattr(modules, kind)(
        interaction_cls=modules.interaction_classes[later],
        interaction_cls_first=modules.interaction_classes[first],
        num_elements=len(elements),
        atomic_numbers=elements,
        hidden_irreps=o3.Irreps(hidden),
        MLP_irreps=o3.Irreps(MLP),
        atomic_energies=rng.uniform(-9, -1, shape),
        avg_num_neighbors=1.3,
        gate=torch.nn.functional.silu,
        **options,
    )
    with torch.no_grad():  # what starts at zero or one gets a value that can be seen
        for name, p in model.named_parameters():
            if name.endswith(("beta", "bias")) or ".net." in name or "_embedding.weight" in name:
                p.add_(0.3 * torch.randn(p.shape))
            if name.endswith("alpha"):
                p.fill_(6.0)
            if ".symmetric_contractions." in name:  # so that every order is seen in the energy
                p.mul_(p.shape[1] ** 0.5)
    return model.eval()


def numeric(energy: Any, atoms: Atoms) -> dict:
    """From energies: torch has no derivatives of its Chebyshev polynomials, and mace-torch leaves them out."""

    def slope(f: Any, h: float = 3e-4) -> float:
        """Central, of sixth order."""
        return sum(c * (f(k * h) - f(-k * h)) for k, c in ((1, 0.75), (2, -0.15), (3, 1 / 60))) / h

    def moved(i: int, a: int, d: float) -> float:
        other = atoms.copy()
        other.positions[i, a] += d
        return energy(other)

    def strained(a: int, b: int, d: float) -> float:
        other, strain = atoms.copy(), np.eye(3)
        strain[a, b] += d / 2
        strain[b, a] += d / 2
        other.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        return energy(other)

    axes = range(3)
    made = {"forces": [[-slope(lambda d, i=i, a=a: moved(i, a, d)) for a in axes] for i in range(len(atoms))]}
    if atoms.pbc.all():
        v = atoms.get_volume()
        made["stress"] = [[slope(lambda d, a=a, b=b: strained(a, b, d)) / v for b in axes] for a in axes]
    return made


def expected(
    model: Any, elements: list[int], r_max: float, atoms: Atoms, heads: list[str], head: str, derivatives: bool = True
) -> dict:
    """In double precision, whatever the checkpoint has."""
    torch.set_default_dtype(torch.float64)
    config = config_from_atoms(atoms, head_name=head)
    data = AtomicData.from_config(config, z_table=AtomicNumberTable(elements), cutoff=r_max, heads=heads)
    batch = next(iter(torch_geometric.dataloader.DataLoader([data], batch_size=1))).to_dict()
    made = model.double()(batch, compute_stress=bool(atoms.pbc.all()))
    numbers = {"energy": float(made["energy"].double()[0]), "forces": made["forces"].detach().double().tolist()}
    if atoms.pbc.all():
        numbers["stress"] = made["stress"][0].detach().double().tolist()
    if derivatives and type(model.radial_embedding.bessel_fn).__name__ == "ChebychevBasis":
        numbers |= numeric(lambda a: expected(model, elements, r_max, a, heads, head, False)["energy"], atoms)
    return numbers


def main(names: list[str]) -> None:
    OUT.mkdir(exist_ok=True)
    path = OUT / "expected.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    for name in names or [n for n in CASES if n not in REDUCED]:
        case = DEFAULTS | CASES[name]
        model = build(**{k: v for k, v in case.items()})
        with tempfile.NamedTemporaryFile(suffix=".model") as file:
            torch.save(model, file.name)
            raw = Path(file.name).read_bytes()
        (OUT / f"{name}.model.xz").write_bytes(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME))
        symbols = ["O"] if case["elements"] == [8] else ["O", "H", "C", "H"]
        heads = case.get("heads", ["Default"])
        systems = structures(symbols)
        known[name] = {
            head: {
                s: {"numbers": a.numbers.tolist(), "positions": a.positions.tolist(), "cell": a.cell.array.tolist()}
                | expected(model, case["elements"], case["r_max"], a, heads, head)
                for s, a in systems.items()
            }
            for head in heads
        }
        size = (OUT / f"{name}.model.xz").stat().st_size
        energies = [round(known[name][h][s]["energy"], 4) for h in heads for s in systems]
        print(f"{name}: {size / 1024:.0f} kB of {len(raw) / 2**20:.1f} MiB, energies {energies}", flush=True)
        path.write_text(json.dumps(known, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
