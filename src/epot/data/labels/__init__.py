"""Labels from quantum-mechanical engines: :func:`label`, and the samplers that make what is labelled.

::

    from epot.data.labels import label, samplers
    frames = samplers.rattle(structure, 100, stdev=0.05, seed=1)
    data = label(frames, "gfn2", out="train.xyz", workers=2)
"""

from .engines import Engine, make
from .run import label, write

__all__ = ["Engine", "label", "make", "write"]
