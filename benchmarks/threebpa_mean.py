"""Errors of the mean of several potentials on 3BPA: what of a single one's errors is chance.

    python benchmarks/threebpa_mean.py runs/a/model.epot runs/b/model.epot --data DIR

RMSE on the derived tests at 300, 600 and 1200 K, energy of the molecule in meV / forces in meV/Å.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("EPOT_PROGRESS", "0")
DATA = Path(os.environ.get("EPOT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="model files")
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args()
    import numpy as np

    import epot
    from epot.data.readers import read
    from epot.evaluate import bench

    potentials = [epot.load(path) for path in args.models]
    for name, file in bench.get("3bpa").tests.items():
        energies, forces = [], []
        for structure in read(str(args.data / file)):
            found = [potential.predict(structure) for potential in potentials]
            energies.append(np.mean([float(one.energy) for one in found]) - structure.energy)
            forces.append(np.mean([np.asarray(one.forces) for one in found], 0) - structure.forces)
        rmse = [1000 * float(np.sqrt(np.square(x).mean())) for x in (energies, np.concatenate(forces))]
        print(f"{name:6s} {rmse[0]:.1f} / {rmse[1]:.1f}")


if __name__ == "__main__":
    main()
