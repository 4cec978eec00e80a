"""``epot distill``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ._arguments import AsJson, Device, Index
from .fit import fit_words, show


def distill(
    teacher: Annotated[Path, typer.Argument(help="A model file; a committee of several fits is a good one.")],
    source: Annotated[str, typer.Argument(help="Structures to start from; what they have of labels is learned, too.")],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value, as in `epot fit`.")] = None,
    model: Annotated[str, typer.Option(help="The student: a model or preset (see `epot models`).")] = "mace:small",
    temperature: Annotated[list[float] | None, typer.Option(help="K, of the dynamics; again for more.")] = None,
    n: Annotated[int, typer.Option("--n", help="Structures to make, about.")] = 2000,
    timestep: Annotated[float, typer.Option(help="fs.")] = 1.0,
    every: Annotated[int, typer.Option(help="Steps between frames.")] = 20,
    labels: Annotated[bool, typer.Option(help="Learn the labels of SOURCE, too; without, start from it only.")] = True,
    valid: Annotated[str | None, typer.Option(help="Structures to validate on; without, 10 % are held out.")] = None,
    index: Index = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; the same command on it resumes.")] = None,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data (descend.epochs).")] = None,
    max_time: Annotated[str | None, typer.Option(help="Of the descent: 600, 10m, 2h (descend.max_time).")] = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Teach a fast model what an accurate one says of structures that it makes itself, beside the labels there are.

    Give the temperatures that the student is for. It never knows better than its teacher, and it is told where the
    teacher itself was outside its data.

    Example: `epot distill committee.epot train.xyz --model mace:small --temperature 600 --temperature 1200
    --max-time 30m`
    """
    from ..data.readers import read
    from ..distill import MADE
    from ..distill import distill as teach
    from ..fit import config as configuration
    from ..fit.config import STAGES

    made = configuration.override({"model": model}, fit_words(settings, epochs, max_time))
    folder = out or Path("runs") / f"{model.replace(':', '-')}-of-{teacher.stem}"
    student = teach(
        teacher, read(source, index=index), made["model"],
        temperatures=temperature or [300.0], n=n, timestep=timestep, every=every, labels=labels,
        valid=None if valid is None else read(valid), folder=folder, seed=seed, device=device,
        options={k: made[k] for k in STAGES if k in made}, record={"teacher": str(teacher), "train": source},
    )  # fmt: skip
    facts, errors = student.about["distilled"], student.about["fit"]["errors"]
    if as_json:
        print(json.dumps({"model": str(folder / "model.epot"), "errors": errors, "made": facts["made"],
                          "outside": facts["outside"], "folder": str(folder)}))  # fmt: skip
        return
    print(
        f"{facts['made']} structures of the teacher ({folder / MADE}), {facts['outside']} of them outside its domain; "
        f"{facts['labeled']} with labels of their own, held-out ones included.\n"
    )
    show(errors, folder)
