"""MACE's symmetric contraction alone, beside mace-torch's: values and first gradients, and second gradients.

    python benchmarks/contraction_speed.py --peer-python MACE/bin/python [--cases si216 mol27 water192 train]

64 channels, l_max 3, outputs 0 and 1, order 3, float32, random weights; ``mol27`` and others give the numbers of atoms
of each element. Also printed: operations done (values and first gradients) against this machine's product of matrices.
``eager`` is epot with EPOT_NATIVE=0.
"""

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from turns import Worker, compare, header, serve

CHANNELS, L_MAX, L_OUT, ORDER = 64, 3, (0, 1), 3
COUNTS = {"mol27": (12, 10, 2, 3), "si216": (216,), "water192": (128, 64), "si1000": (1000,), "train": (96, 80, 16, 24)}


def steps(case, call, features, weights):
    """A step that asks for forces, or one of training on them."""
    import torch

    def inference():
        torch.autograd.grad(call().sum(), features)

    def training():
        (slope,) = torch.autograd.grad(call().square().sum(), features, create_graph=True)
        torch.autograd.grad(slope.square().sum(), weights)

    return training if case == "train" else inference


def ours(case):
    import torch

    from epot.blocks.symmetric_contraction import SymmetricContraction

    torch.manual_seed(0)
    counts = COUNTS[case]
    made = SymmetricContraction(len(counts), CHANNELS, L_MAX, L_OUT, ORDER)
    features = torch.randn((L_MAX + 1) ** 2, CHANNELS, sum(counts)).requires_grad_()
    return steps(case, lambda: torch.cat(made(features, counts, case != "train")), features, list(made.weights))


def theirs(case):
    import torch
    from e3nn import o3
    from mace.modules.symmetric_contraction import SymmetricContraction

    torch.manual_seed(0)
    counts = torch.tensor(COUNTS[case])
    irreps = o3.Irreps("+".join(f"{CHANNELS}x{n}{'eo'[n % 2]}" for n in range(L_MAX + 1)))
    out = o3.Irreps("+".join(f"{CHANNELS}x{n}{'eo'[n % 2]}" for n in L_OUT))
    made = SymmetricContraction(irreps, out, ORDER, num_elements=len(counts))
    features = torch.randn(int(counts.sum()), CHANNELS, (L_MAX + 1) ** 2).requires_grad_()
    rows = torch.nn.functional.one_hot(torch.arange(len(counts)).repeat_interleave(counts)).float()
    weights = [w for w in made.parameters() if w.requires_grad]
    return steps(case, lambda: made(features, rows), features, weights)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python")
    parser.add_argument("--cases", nargs="+", default=list(COUNTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--worker")
    given = parser.parse_args()
    if given.worker:
        if given.worker == "eager":
            os.environ["EPOT_NATIVE"] = "0"
        serve(theirs if given.worker == "mace-torch" else ours, given.threads)
        return
    header(given.threads)
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # e3nn 0.4.4 loads its constants so
    workers = [Worker(sys.executable, __file__, name, given.threads) for name in ("epot", "eager")]
    if given.peer_python:
        workers.append(Worker(given.peer_python, __file__, "mace-torch", given.threads))
    best = compare(workers, given.cases, seconds=given.seconds)
    for w in workers:
        w.close()
    report(best, given.threads)


def report(best, threads):
    import torch

    from epot.blocks.contraction_kernels import tables

    torch.set_num_threads(threads)
    a, b, peak = torch.randn(1024, 1024), torch.randn(1024, 1024), 0.0
    for _ in range(20):
        start = time.perf_counter()
        a @ b
        peak = max(peak, 2 * 1024**3 / (time.perf_counter() - start) / 1e9)
    # the product once for values and once for the gradient
    entries = sum(rows * columns for rows, columns in tables(L_MAX, L_OUT, ORDER, False).blocks)
    for case, times in best.items():
        if case != "train":
            done = 4e-6 * entries * CHANNELS * sum(COUNTS[case]) / times["epot"]
            print(f"{case}: {done:.0f} GFLOP/s, {100 * done / peak:.0f} % of a product of matrices ({peak:.0f})")


if __name__ == "__main__":
    main()
