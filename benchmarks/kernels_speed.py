"""Any of the models with its compiled kernels, without them, and as another version had it: in turn, same machine.

    python benchmarks/kernels_speed.py --models gemnet:fast gemnet:accurate [--other OTHER/src] [--threads 2]

Presets as they come, weights random, float32: energies and forces through the ASE calculator with its default skin,
the atoms moved by 1e-3 Å before every call, and an Adam step on energies and forces of eight 27-atom molecules.
``torch`` is with EPOT_NATIVE=0; ``other`` is what the folder given by ``--other`` holds, with its kernels.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ours import calculator, moved, training_step
from systems import ELEMENTS, SYSTEMS, training_set
from turns import Worker, compare, header, serve

SKIN = 0.5


def make(case):
    """``make`` of a worker: of a case ``MODEL SYSTEM``."""
    import torch

    from epot.memory import keep_freed
    from epot.potential import make as potential

    keep_freed()
    name, system = case.split()
    torch.manual_seed(0)
    model = potential({"name": name, "elements": list(ELEMENTS)})
    if system == "train":
        return training_step(model, training_set(), torch.optim.Adam(model.parameters(), lr=1e-3))
    atoms = SYSTEMS[system]()
    atoms.calc = calculator(model, SKIN)
    return moved(atoms)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["gemnet:fast", "gemnet:accurate"], help="models or presets")
    parser.add_argument("--systems", nargs="+", default=["mol27", "si216", "train"], choices=[*SYSTEMS, "train"])
    parser.add_argument("--other", help="folder src of another version")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        import torch  # noqa: F401 (serve sets its threads)

        serve(make, chosen.threads)
        return
    header(chosen.threads)
    workers, path = [], os.environ.get("PYTHONPATH")
    for name in ("epot", "torch", *(["other"] if chosen.other else [])):
        os.environ["EPOT_NATIVE"] = "0" if name == "torch" else "1"
        if name == "other":
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(chosen.other).resolve()), path)))
        workers.append(Worker(sys.executable, __file__, name, chosen.threads))
    compare(
        workers,
        [f"{model} {system}" for model in chosen.models for system in chosen.systems],
        chosen.rounds,
        chosen.seconds,
    )
    for worker in workers:
        worker.close()


if __name__ == "__main__":
    main()
