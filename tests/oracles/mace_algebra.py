"""Writes tests/data_files/mace_algebra.npz: e3nn's harmonics and 3j symbols, mace-torch's couplings and contraction.

    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 PYTHON_OF_MACE tests/oracles/mace_algebra.py

Run it in an environment with mace-torch (made with 0.3.16, e3nn 0.4.4) and cuequivariance (made with 0.13.0; 0.1.0 and
0.4.0 give the same), without which mace-torch has no reduced couplings. Everything is float64. Large tensors are kept
as their sums with cosines along each axis.
"""

from pathlib import Path

import numpy as np
import torch
from e3nn import o3
from mace.modules.symmetric_contraction import SymmetricContraction
from mace.tools.cg import CUET_AVAILABLE, U_matrix_real

OUT = Path(__file__).parents[1] / "data_files" / "mace_algebra.npz"
SH_L_MAX, W3J_L_MAX = 6, 6


def harmonics() -> dict[str, np.ndarray]:
    vectors = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = o3.spherical_harmonics(list(range(SH_L_MAX + 1)), vectors, normalize=True, normalization="component")
    rotation = o3.rand_matrix(dtype=torch.float64)
    kept = {"sh/vectors": vectors, "sh/values": values, "d/rotation": rotation}
    angles = o3.matrix_to_angles(rotation)
    kept |= {f"d/{n}": o3.wigner_D(n, *angles) for n in range(5)}
    return {name: value.numpy() for name, value in kept.items()}


def symbols() -> dict[str, np.ndarray]:
    triples, sums = [], []
    for l1 in range(W3J_L_MAX + 1):
        for l2 in range(W3J_L_MAX + 1):
            for l3 in range(abs(l1 - l2), min(l1 + l2, 11) + 1):
                table = o3.wigner_3j(l1, l2, l3, dtype=torch.float64).numpy()
                weights = [np.cos(np.arange(1, n + 1) * (k + 1.3)) for k, n in enumerate(table.shape)]
                triples.append((l1, l2, l3))
                sums.append(np.einsum("abc,a,b,c->", table, *weights))
    return {"3j/triples": np.array(triples), "3j/sums": np.array(sums)}


def irreps(degrees: list[int], channels: int = 1) -> o3.Irreps:
    return o3.Irreps("+".join(f"{channels}x{n}{'eo'[n % 2]}" for n in degrees))


def summed(table: np.ndarray) -> np.ndarray:
    """What is left of all axes but the last, the paths."""
    while table.ndim > 1:
        table = np.tensordot(np.cos(np.arange(1, len(table) + 1) * (table.ndim + 0.3)), table, 1)
    return table


def couplings() -> dict[str, np.ndarray]:
    kept = {}
    for l_max in range(1, 4):
        for l_out in range(4):
            for order in range(1, 4 if l_max == 3 else 5):
                for reduced in (False, True):
                    table = U_matrix_real(irreps(range(l_max + 1)), irreps([l_out]), order, use_cueq_cg=reduced)[-1]
                    table = table if l_out else table[None]
                    kept[f"U/{l_max}/{l_out}/{order}/{int(reduced)}"] = summed(table.numpy())
    return kept


def contractions() -> dict[str, np.ndarray]:
    kept, elements, channels, atoms = {}, 2, 3, 4
    rows = torch.nn.functional.one_hot(torch.tensor([0, 0, 0, 1]), elements).double()
    for l_max, l_out, order, reduced in CONTRACTIONS:
        module = SymmetricContraction(irreps(range(l_max + 1), channels), irreps(l_out, channels), order,
                                      num_elements=elements, use_reduced_cg=reduced)  # fmt: skip
        features = torch.randn(atoms, channels, (l_max + 1) ** 2)
        name = f"B/{l_max}/{''.join(map(str, l_out))}/{order}/{int(reduced)}"
        kept |= {f"{name}/features": features.numpy(), f"{name}/values": module(features, rows).detach().numpy()}
        for n, part in zip(l_out, module.contractions, strict=True):
            by_order = [*list(part.weights)[::-1], part.weights_max]
            kept |= {f"{name}/weights/{n}/{k}": w.detach().numpy() for k, w in enumerate(by_order, 1)}
    return kept


CONTRACTIONS = [
    (3, [0, 1, 2], 3, False),
    (3, [0, 1], 3, True),
    (2, [0, 1, 2], 2, False),
    (3, [0, 1], 1, False),
    (1, [0, 1], 4, True),
    (1, [0, 1], 3, False),
]


def main() -> None:
    assert CUET_AVAILABLE, "reduced couplings need cuequivariance"
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    kept = harmonics() | symbols() | couplings() | contractions()
    np.savez_compressed(OUT, **kept)
    print(f"{OUT}: {OUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
