"""Write a model file of the current format and what it predicts: run once for each format, then keep both for ever.

python tests/oracles/old_model_files.py painn
"""

import json
import sys
from pathlib import Path

import torch

from epot import modelfile, registry
from epot.geometry.graph import build
from epot.potential import Sum
from epot.predict import predict
from epot.terms.offsets import Offsets
from epot.testing.case import Case
from epot.testing.systems import systems

name = sys.argv[1]
folder = Path(__file__).resolve().parents[1] / "data_files"
torch.manual_seed(20)
body = Case(registry.get(name).tiny()).native
elements = tuple(body.elements or (1, 6, 8))
potential = Sum(offset=Offsets(elements, values=[-13.6 * (k + 1) for k in range(len(elements))]), body=body)
path = folder / f"format{modelfile.FORMAT}_{name}.epot"
modelfile.save(path, potential, {"elements": list(elements)})

record = []
for structure in systems(elements).values():
    made = predict(modelfile.load(path)[0].double(), build(structure, potential.cutoff))
    geometry = {key: getattr(structure, key).tolist() for key in ("numbers", "positions", "cell", "pbc")}
    record.append(geometry | {"energy": float(made.energy[0]), "forces": made.forces.tolist()})
path.with_suffix(".json").write_text(json.dumps(record))
print(path)
