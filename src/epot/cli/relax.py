"""``epot relax``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ._arguments import AsJson, Device, Index, Model, Source


def relax(
    model: Model,
    source: Source,
    out: Annotated[Path, typer.Argument(help="Extended XYZ to write, with energies, forces and stress.")],
    cell: Annotated[bool, typer.Option("--cell", help="Relax the cell too.")] = False,
    cell_mode: Annotated[str, typer.Option(help="fixed, full, volume (shape kept) or shape (volume kept).")] = "fixed",
    pressure: Annotated[str, typer.Option(help="On the cell, with its unit: 1bar, 0.5GPa.")] = "0",
    fmax: Annotated[float, typer.Option(help="eV/Å, largest force at the end.")] = 0.01,
    steps: Annotated[int, typer.Option(help="At most.")] = 1000,
    optimizer: Annotated[str, typer.Option(help="lbfgs, bfgs or fire.")] = "lbfgs",
    symmetry: Annotated[bool, typer.Option("--symmetry", help="Keep the space group (needs spglib).")] = False,
    trajectory: Annotated[Path | None, typer.Option(help="Extended XYZ with every step.")] = None,
    index: Index = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Move atoms, and the cell if wished, to where no force is left. Exit code 1 where one did not converge.

    Example: `epot relax model.epot in.xyz out.xyz --cell`
    """
    from .. import modelfile
    from ..data.readers import read
    from ..errors import SimulationError
    from ..simulate.relax import relax_all
    from . import _quantities

    potential, about = modelfile.load(model, device)
    found = relax_all(
        read(source, index=index),
        potential,
        out,
        about=about,
        cell="full" if cell and cell_mode == "fixed" else cell_mode,
        pressure=_quantities.pressure(pressure),
        fmax=fmax,
        steps=steps,
        optimizer=optimizer,
        symmetry=symmetry,
        trajectory=trajectory,
        device=device,
    )
    if as_json:
        print(json.dumps([relaxed.summary() for relaxed in found]))
    else:
        for k, r in enumerate(found):
            state = "converged" if r.converged else "NOT converged"
            print(
                f"{k}: {r.atoms.get_chemical_formula()} {state} in {r.steps} steps, {r.energy:.6f} eV "
                f"({r.energy_change:+.6f}), max force {r.max_force:.4f} eV/Å"
            )
            for text in r.violations[:3]:
                print(f"   outside the training data: {text}")
        print(f"Wrote {out}.")
    if stuck := sum(not r.converged for r in found):
        raise SimulationError(
            f"{stuck} of {len(found)} structures did not reach {fmax} eV/Å in {steps} steps (they are written as they "
            "are). Give more --steps, or --optimizer fire."
        )
