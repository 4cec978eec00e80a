"""Kernels for processors with shorter vectors than this one's: the same energies and forces as torch's operations make.

The compiler is told not to use the longest instructions, so that every path through the sources is run somewhere.
"""

import json
import os
import platform
import shutil
import subprocess
import sys

import pytest

from epot import native

SOURCES = "bilinear", "chain", "dense", "directional", "messages", "polynomials", "schnet", "soap"
SCRIPT = """
import json, os, sys
import numpy as np, torch
from epot import native
from epot.data.structure import Structure
from epot.features.descriptors.soap import Soap
from epot.geometry.graph import build
from epot.predict import predict
from epot.registry import make

rng = np.random.default_rng(0)
atoms = [Structure(rng.choice([1, 6, 8], 30), rng.uniform(0, 7, (30, 3))) for _ in range(3)]
models = [{"name": "schnet"}, {"name": "dimenet", "n_features": 40, "n_layers": 1}, {"name": "mace", "n_channels": 24}]
models += [{"name": "gemnet", "n_edge": 40, "n_triplet": 20, "n_bilinear": 24, "n_layers": 1}]
found = {}
for config in models:
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        model = make({**config, "elements": [1, 6, 8], "cutoff": 4.0}).to(dtype).eval()
        made = []
        for wanted in "10":
            os.environ["EPOT_NATIVE"] = wanted
            made.append([predict(model, build(a, 4.0)) for a in atoms])
        errors = [float((a.forces - b.forces).abs().max() / b.forces.abs().max()) for a, b in zip(*made)]
        found[f"{config['name']} {dtype}"] = max(errors)
for dtype in (torch.float32, torch.float64):
    soap, made = Soap([1, 6, 8], cutoff=4.0, n_max=5, l_max=4).to(dtype), []
    for wanted in "10":
        os.environ["EPOT_NATIVE"] = wanted
        with torch.no_grad():
            made.append(soap(build(atoms[0], 4.0)))
    found[f"soap {dtype}"] = float((made[0] - made[1]).abs().max() / made[1].abs().max())
os.environ["EPOT_NATIVE"] = "1"
found["loaded"] = all(map(native.library, sys.argv[1:]))
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the flags are those of x86")
@pytest.mark.parametrize("without", ["-mno-avx512f", "-mno-avx"])
def test_shorter_vectors(tmp_path, without):
    compiler = next(filter(None, map(shutil.which, native.COMPILERS)), None)
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    environment = {**os.environ, "CXX": f"{compiler} {without}", "EPOT_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT, *SOURCES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("loaded")
    for name, error in found.items():
        assert error < (1e-10 if "64" in name else 2e-5), (name, found)
