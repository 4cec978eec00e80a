"""Writes tests/data_files/mace_algebra.npz: e3nn's harmonics and 3j symbols, mace-torch's couplings and contraction.

    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 PYTHON_OF_MACE tests/oracles/mace_algebra.py

Run it in an environment with mace-torch (made with 0.3.16, e3nn 0.4.4). Everything is float64. Large tensors are
kept as sums with random numbers from a fixed seed.
"""

from pathlib import Path

import numpy as np
import torch
from e3nn import o3

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


def main() -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    kept = harmonics() | symbols()
    np.savez_compressed(OUT, **kept)
    print(f"{OUT}: {OUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
