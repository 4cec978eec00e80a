"""Systems that speeds are measured on, made with numpy and ASE alone: any peer's environment can import them."""

import numpy as np
from ase import Atoms
from ase.build import bulk

ELEMENTS = (1, 6, 7, 8, 14)
BPA = ["N", "C", "N", "C", "C", "C", "C", "O", "C", "C", "C", "C", "C", "C", "C"] + ["H"] * 12
BPA_POSITIONS = """
 1.8857  0.0354  2.2301   2.5156  0.1147  0.9853   3.8127  0.4721  1.0005   4.4448  0.5489 -0.1937
 3.8401  0.2828 -1.4126   2.4974 -0.0740 -1.4134   1.8182 -0.1339 -0.2014   0.5029 -0.5154 -0.2088
-0.3422  0.6319 -0.0585  -1.7753  0.1633 -0.1113  -2.3657 -0.1748 -1.3376  -3.6879 -0.6187 -1.3882
-4.4297 -0.7362 -0.2143  -3.8496 -0.4137  1.0114  -2.5275  0.0310  1.0642   2.6078  0.1566  2.9348
 1.3982 -0.8510  2.3150   5.4914  0.8362 -0.1417   4.4027  0.3498 -2.3370   1.9841 -0.2994 -2.3426
-0.1555  1.1476  0.8911  -0.1689  1.3477 -0.8734  -1.7931 -0.0982 -2.2592  -4.1367 -0.8778 -2.3433
-5.4581 -1.0846 -0.2540  -4.4258 -0.5122  1.9276  -2.0856  0.2717  2.0290
"""


def molecule(seed=0, amplitude=0.05):
    """3-(benzyloxy)pyridin-2-amine (3BPA), C12H12N2O, 27 atoms, rattled."""
    positions = np.array(BPA_POSITIONS.split(), dtype=float).reshape(-1, 3)
    noise = np.random.default_rng(seed).normal(scale=amplitude, size=positions.shape)
    return Atoms(BPA, positions=positions + noise)


def silicon(n, seed=0, amplitude=0.05):
    """Diamond Si, n x n x n cubic cells: 8 n^3 atoms, rattled."""
    atoms = bulk("Si", "diamond", a=5.431, cubic=True) * (n, n, n)
    atoms.positions += np.random.default_rng(seed).normal(scale=amplitude, size=atoms.positions.shape)
    return atoms


def water(repeats=1, seed=0):
    """64 molecules at 1 g/cm3, turned at random on a grid, repeated: 192 repeats^3 atoms."""
    rng = np.random.default_rng(seed)
    length = (64 * 18.01528 / 0.602214076) ** (1 / 3)
    angle = np.deg2rad(104.52)
    shape = 0.9572 * np.array([[0, 0, 0], [1, 0, 0], [np.cos(angle), np.sin(angle), 0]])
    positions = []
    for place in np.ndindex(4, 4, 4):
        q, r = np.linalg.qr(rng.normal(size=(3, 3)))
        center = (np.array(place) + 0.5) * length / 4 + rng.normal(scale=0.15, size=3)
        positions.append(center + shape @ (q * np.sign(np.diag(r))).T)
    atoms = Atoms(["O", "H", "H"] * 64, positions=np.concatenate(positions), cell=[length] * 3, pbc=True)
    if repeats > 1:
        atoms = atoms * (repeats, repeats, repeats)
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    return atoms


SYSTEMS = {
    "mol27": molecule,
    "si216": lambda: silicon(3),
    "si1000": lambda: silicon(5),
    "water192": water,
    "water1536": lambda: water(2),
}


def training_set(n=8, seed=100):
    """n rattled molecules with made-up energies and forces: their values do not matter for speed."""
    made = []
    for k in range(n):
        atoms = molecule(seed=seed + k)
        rng = np.random.default_rng(seed + k)
        atoms.info["energy"] = float(rng.normal())
        atoms.arrays["forces"] = rng.normal(size=(len(atoms), 3))
        made.append(atoms)
    return made
