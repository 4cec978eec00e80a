"""Fit the toy model in a folder: what the tests kill. ``run_toy.py FOLDER SEED [SECONDS_PER_STEP]``"""

import importlib
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))


def fit_toy(folder, seed):
    from toy_data import molecules

    from epot.fit.run import fit

    settings = {"epochs": 6, "batch_atoms": 12, "ema": 0.9, "learning_rate": 1e-2, "checkpoint_every": 0.0}
    fit("toynet", molecules(30), folder=folder, seed=seed, options={"descend": settings}, stages=["offsets", "descend"])


def main(folder, seed, pause):
    importlib.import_module("epot.models").__path__.append(str(HERE))
    from epot.fit.loop import Loop

    step = Loop.step

    def slow(self, *args):
        time.sleep(pause)
        return step(self, *args)

    Loop.step = slow
    fit_toy(folder, seed)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
