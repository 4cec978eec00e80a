"""The report of a run: what was fitted, on what, how good it is, whether it can be trusted, how it behaved in MD."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import Dataset
from ..data.structure import Structure
from ..errors import DataError
from ..evaluate.errors import UNITS, Errors
from ..files import write_atomic
from ..fit.journal import read as read_journal
from ..fit.recipe import offsets_of
from ..fitted import Fitted
from ..simulate.md import read_thermo
from . import page, plots

SHOWN = 400
"""Structures of a set that are evaluated for the report, at most: evenly spaced."""


def build(
    run: str | os.PathLike,
    *,
    sets: Mapping[str, Dataset | Sequence[Structure]] | None = None,
    md: Sequence[str | os.PathLike] = (),
    out: str | os.PathLike | None = None,
    title: str | None = None,
    model: str | os.PathLike | None = None,
) -> Path:
    """Write one HTML file that opens without a network.

    Args:
        run: folder of a fit, with ``model.epot`` and ``journal.jsonl``.
        sets: name to labelled structures (``{"train": ..., "test": ...}``); the last one is the held-out set by
            which the potential is judged.
        md: folders of simulations with it.
        out: the file; ``report.html`` in ``run`` where not given.
        title: of the page.
        model: the model file, where it is not ``run/model.epot``.

    Raises:
        ModelFileError: there is no model, or it cannot be read.
        DataError: a folder in ``md`` holds no simulation.
    """
    run = Path(run)
    fitted = Fitted.load(model or run / "model.epot")
    chosen = {name: _sample(data) for name, data in (sets or {}).items()}
    errors = {name: fitted.evaluate(data) for name, data in chosen.items()}
    journal = read_journal(run / "journal.jsonl")
    sections = {
        "Summary": _summary(fitted, errors, md),
        "Accuracy": _accuracy(fitted, chosen, errors),
        "Calibration": _calibration(fitted, errors),
        "Learning": _learning(journal),
        "Doctor": _doctor(fitted.about.get("doctor")),
        "Molecular dynamics": "".join(_simulation(Path(folder)) for folder in md),
        "Provenance": _provenance(fitted, run, journal),
        "Citations": _citations(fitted),
    }
    subtitle = repr(fitted)
    text = page.page(title or f"epot: {run.name}", subtitle, sections)
    return write_atomic(Path(out or run / "report.html"), text.encode(), error=DataError)


def _sample(data: Dataset | Sequence[Structure]) -> list[Structure]:
    step = max(1, -(-len(data) // SHOWN))
    return [data[k] for k in range(0, len(data), step)]


def _summary(fitted: Fitted, errors: Mapping[str, Errors], md: Sequence[Any]) -> str:
    cards = {}
    if errors:
        name, held = list(errors.items())[-1]
        for target, label in (("energy_per_atom", "energy"), ("forces", "forces"), ("stress", "stress")):
            if target in held.all:
                cards[f"{label} MAE on {name}"] = f"{held.all[target]['mae']:.3g} {UNITS[target]}"
    for folder in md:
        summary = _md_summary(Path(folder))
        cards[f"drift in {Path(folder).name}"] = f"{1000 * abs(summary['drift_eV_per_atom_ps']):.2g} meV/atom/ps"
    verdict = fitted.about.get("doctor")
    if verdict:
        cards["the doctor's verdict"] = str(verdict.get("verdict", verdict.get("status", "see below")))
    text = (
        "<p>Errors are on structures that the fit never saw, if the last set named under Accuracy is such a set. "
        "A potential is worth nothing outside the region of its data; Calibration shows how it knows its errors.</p>"
    )
    return page.cards(cards) + text


def _accuracy(fitted: Fitted, sets: Mapping[str, Sequence[Structure]], errors: Mapping[str, Errors]) -> str:
    if not errors:
        return ""
    rows = [
        (name, found.n_structures, quantity, row["mae"], row["rmse"], row["max"], UNITS[quantity])
        for name, found in errors.items()
        for quantity, row in found.all.items()
    ]
    parts = [page.table(("set", "structures", "quantity", "MAE", "RMSE", "largest", "unit"), rows)]
    pictures = [_energy_parity(fitted, sets, errors)] if any("energy" in e.values for e in errors.values()) else []
    for target, unit in (("forces", "eV/Å"), ("stress", "eV/Å³")):
        pairs = {
            n: (e.values[target]["label"], e.values[target]["value"]) for n, e in errors.items() if target in e.values
        }
        if pairs:
            pictures.append(page.figure(plots.parity(target, unit, pairs), f"{target.capitalize()}, components."))
    held = list(errors.values())[-1]
    pictures += _groups(list(errors)[-1], held)
    parts.append(f'<div class="figures">{"".join(pictures)}</div>')
    if held.worst:
        head = ("structure", "energy, meV/atom", "largest force error, meV/Å", "where")
        worst = [(w["formula"], w.get("energy_per_atom"), w.get("forces_max"), w["source"]) for w in held.worst]
        parts.append(f"<h3>Worst structures of {page.escape(list(errors)[-1])}</h3>" + page.table(head, worst))
    return "".join(parts)


def _energy_parity(fitted: Fitted, sets: Mapping[str, Sequence[Structure]], errors: Mapping[str, Errors]) -> str:
    """Energies per atom less those of the free atoms, so that different compositions share one axis."""
    offsets = offsets_of(fitted.potential)
    table = np.zeros(120) if offsets is None else offsets.energies.cpu().numpy()
    pairs = {}
    for name, found in errors.items():
        if "energy" not in found.values:
            continue
        labelled = [s for s in sets[name] if s.energy is not None]
        sizes = np.array([max(1, len(s)) for s in labelled])
        base = np.array([table[s.numbers].sum() for s in labelled])
        values = found.values["energy"]
        pairs[name] = ((values["label"] - base) / sizes, (values["value"] - base) / sizes)
    caption = "Energies per atom, less the fitted energies of the elements."
    return page.figure(plots.parity("energies per atom", "eV/atom", pairs), caption)


def _groups(name: str, held: Errors) -> list[str]:
    pictures = []
    if held.by_element:
        values = {symbol: row["rmse"] for symbol, row in held.by_element.items()}
        svg = plots.bars("Force RMSE by element", "meV/Å", values, held.all["forces"]["rmse"])
        pictures.append(page.figure(svg, f"Force RMSE on {name} by element."))
    for quantity, label in (("forces", "Force"), ("energy_per_atom", "Energy")):
        values = {kind: rows[quantity]["rmse"] for kind, rows in held.by_config_type.items() if quantity in rows}
        if len(values) > 1:
            svg = plots.bars(f"{label} RMSE by config type", UNITS[quantity], values, held.all[quantity]["rmse"])
            pictures.append(page.figure(svg, f"{label} RMSE on {name} by config type."))
    return pictures


def _calibration(fitted: Fitted, errors: Mapping[str, Errors]) -> str:
    if not errors:
        return ""
    name, held = list(errors.items())[-1]
    pictures = []
    for target, unit in (("energy", "eV"), ("forces", "eV/Å"), ("stress", "eV/Å³")):
        values = held.values.get(target, {})
        if "std" in values and values["std"].shape == values["label"].shape and len(values["std"]) >= 10:
            error = values["value"] - values["label"]
            keep = np.isfinite(values["std"]) & (values["std"] > 0)
            svg = plots.calibration(target, unit, values["std"][keep], error[keep])
            pictures.append(
                page.figure(svg, f"{target.capitalize()}: measured error against what was predicted, on {name}.")
            )
    if not pictures:
        return ""
    head = (
        "quantity",
        "n",
        "error / std (best 1)",
        "within 1 std (68.3 %)",
        "within 2 std (95.4 %)",
        "rank correlation",
    )
    rows = [
        (t, r["n"], r["calibration_factor"], f"{r['coverage_1']:.1%}", f"{r['coverage_2']:.1%}", r["spearman"])
        for t, r in held.calibration.items()
        if r.get("n")
    ]
    kind = "none" if fitted.calibration is None else fitted.calibration.kind
    where = page.escape(name)
    text = f"<p>Uncertainty: {page.escape(kind)}, scaled on structures held out of the fit, seen here on {where}.</p>"
    return text + page.table(head, rows) + f'<div class="figures">{"".join(pictures)}</div>'


def _learning(journal: Sequence[Mapping[str, Any]]) -> str:
    epochs = [line for line in journal if line["event"] == "epoch"]
    parts = []
    if len(epochs) > 1:
        names = {
            "valid_energy_mae": "energy MAE, meV/atom",
            "valid_forces_mae": "force MAE, meV/Å",
            "valid_stress_mae": "stress MAE, meV/Å³",
        }
        series = {n: [1000 * e[k] for e in epochs] for k, n in names.items() if all(k in e for e in epochs)}
        series = series or {"training loss": [e["train_loss"] for e in epochs]}
        best = next((line["best_epoch"] for line in journal if line["event"] == "descended"), None)
        svg = plots.learning_curve([e["epoch"] for e in epochs], series, best)
        parts.append(
            page.figure(svg, f"Errors on the validation structures, {epochs[-1]['seconds']:.0f} s of training.")
        )
    for line in journal:
        if line["event"] in ("sparse", "solve"):
            shown = {k.replace("_", " "): _short(v) for k, v in line.items() if k not in ("event", "time")}
            parts.append(f"<h3>{line['event'].capitalize()}</h3>" + page.facts(shown))
    notes = [page.escape(line["text"]) for line in journal if line["event"] == "note"]
    if notes:
        parts.append("<h3>Notes of the fit</h3><ul>" + "".join(f"<li>{n}</li>" for n in notes) + "</ul>")
    return "".join(parts)


def _doctor(verdict: Any) -> str:
    """Findings as a table: whatever the verdict holds, in its own words."""
    if not isinstance(verdict, Mapping):
        return ""
    findings = verdict.get("findings") or verdict.get("checks") or []
    keys = [
        k
        for k in ("severity", "status", "title", "name", "evidence", "text", "detail", "action", "advice", "seconds")
        if any(k in f for f in findings)
    ]
    if not findings:
        return page.facts({k: _short(v) for k, v in verdict.items()})
    rows = [[_short(f.get(k)) for k in keys] for f in findings]
    return page.table(keys, rows)


def _md_summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    if not path.is_file():
        raise DataError(f"{folder} holds no finished simulation (no summary.json). Give the folder of `epot md --out`.")
    return json.loads(path.read_text(encoding="utf-8"))


def _simulation(folder: Path) -> str:
    summary = _md_summary(folder)
    thermo = read_thermo((folder / "thermo.csv").read_text(encoding="utf-8"))
    time = thermo["time_fs"] / 1000
    n = summary["atoms"]
    conserved = 1000 * (thermo["conserved_eV"] - thermo["conserved_eV"][0]) / n
    target = summary.get("temperature_target_K")
    pictures = [
        page.figure(
            plots.time_series(f"Energy drift in {folder.name}", "meV/atom", time, {"conserved quantity": conserved}),
            f"Drift of the conserved quantity: {1000 * summary['drift_eV_per_atom_ps']:.2g} meV per atom and ps.",
        ),
        page.figure(
            plots.time_series(
                f"Temperature in {folder.name}", "K", time, {"temperature": thermo["temperature_K"]}, target
            ),
            f"Temperature; mean {summary['temperature_K']:.0f} K after the first fifth.",
        ),
    ]
    if np.isfinite(thermo["pressure_GPa"]).any():
        svg = plots.time_series(f"Pressure in {folder.name}", "GPa", time, {"pressure": thermo["pressure_GPa"]})
        pictures.append(page.figure(svg, "Pressure."))
    guard = summary["guard"]
    known = guard.get("knows_domain", True)
    outside = f"{guard['outside']} times outside the domain" if known else "of an unknown domain"
    shown = {
        "ensemble": summary["ensemble"],
        "atoms": n,
        "time, ps": summary["time_ps"],
        "guard": f"{guard['policy']}: {outside}, {guard['broken']} times broken",
        "ns/day": summary.get("ns_per_day"),
    }
    return f'<h3>{page.escape(folder.name)}</h3>{page.facts(shown)}<div class="figures">{"".join(pictures)}</div>'


def _provenance(fitted: Fitted, run: Path, journal: Sequence[Mapping[str, Any]]) -> str:
    about = fitted.about
    training = {k: _short(v) for k, v in (about.get("training") or {}).items()}
    versions = {k: str(v) for k, v in (about.get("versions") or {}).items()}
    parts = ["<h3>Training data</h3>", page.facts(training), "<h3>Versions</h3>", page.facts(versions)]
    config = run / "config.yaml"
    if config.is_file():
        parts += ["<h3>Configuration of the fit</h3>", f"<pre>{page.escape(config.read_text(encoding='utf-8'))}</pre>"]
    return "".join(parts)


def _citations(fitted: Fitted) -> str:
    text = fitted.cite()
    return f"<p>Cite what was used:</p><pre>{page.escape(text)}</pre>" if text else ""


def _short(value: Any) -> Any:
    """A value for a table cell: numbers as they are, the rest as text of bearable length."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 400 else text[:400] + " ..."
