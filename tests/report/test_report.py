"""The page opens without a network, shows what it should and never takes data for markup."""

import re

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from epot.data.structure import Structure
from epot.errors import DataError
from epot.fit.run import fit
from epot.fitted import Fitted
from epot.models.painn import PaiNN
from epot.report.build import build
from epot.simulate.md import run_md

HOSTILE = "<script>alert(1)</script>"


def _copper(n: int, seed: int) -> list[Structure]:
    frames = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.08, seed=seed + k)
        atoms.calc = EMT()
        stress = atoms.get_stress(voigt=False)
        kind = HOSTILE if k % 2 else "rattled"
        frames.append(
            Structure.from_ase(
                atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces(), stress=stress, config_type=kind
            )
        )
    return frames


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model = PaiNN(elements=(29,), n_features=8, n_layers=1, n_radial=5, cutoff=3.5).double()
    data = _copper(10, 0)
    state = fit(model, data[:8], valid=data[8:], options={"descend": {"epochs": 3}}, folder=folder)
    Fitted(state.potential, state.about)
    # Untrained weights can do anything: a cold start and few steps keep the simulation short.
    run_md(data[0], state.potential, steps=4, log_every=1, temperature=10.0, guard="off", folder=folder / "md")
    return folder, data


def test_page_is_complete_and_self_contained(run):
    folder, data = run
    path = build(folder, sets={"train": data[:8], "test": data[8:]}, md=[folder / "md"])
    text = path.read_text(encoding="utf-8")
    for section in ("Summary", "Accuracy", "Calibration", "Learning", "Molecular dynamics", "Provenance", "Citations"):
        assert f"<h2>{section}</h2>" in text
    assert "tt2021equivariant" in text  # the citation of PaiNN
    outside = re.findall(r"""(?:src|href)=["'](?!#|data:)[^"']*|@import|url\((?!#)[^)]*""", text)
    assert [o for o in outside if "data:image/png;base64" not in o] == []
    assert "<script" not in text


def test_data_is_never_markup(run):
    folder, data = run
    text = build(folder, sets={HOSTILE: data}, title=HOSTILE, out=folder / "hostile.html").read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text


def test_names_of_pictures_do_not_clash(run):
    folder, data = run
    text = build(folder, sets={"test": data}, md=[folder / "md"], out=folder / "ids.html").read_text(encoding="utf-8")
    names = re.findall(r'\bid="([^"]+)"', text)
    assert len(names) == len(set(names))
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'xlink:href="#([^"]+)"', text))
    assert used <= set(names)


@pytest.mark.filterwarnings("ignore::epot.uncertainty.domain.DomainWarning")
def test_numbers_of_the_table_are_those_of_the_evaluation(run):
    folder, data = run
    text = build(folder, sets={"test": data[8:]}, out=folder / "numbers.html").read_text(encoding="utf-8")
    mae = Fitted.load(folder / "model.epot").evaluate(data[8:]).all["forces"]["mae"]
    by_hand = 1000 * np.mean(
        [np.abs(Fitted.load(folder / "model.epot").predict(s).forces - s.forces).mean() for s in data[8:]]
    )
    assert mae == pytest.approx(by_hand, rel=1e-12)
    assert f"{mae:.4g}" in text


def test_folder_without_a_simulation(run):
    folder, _ = run
    with pytest.raises(DataError, match="holds no finished simulation"):
        build(folder, md=[folder / "nothing"])
