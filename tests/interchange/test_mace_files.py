"""Checkpoints of mace-torch, read without it: its energies, forces and stress, and what is refused.

Witness: mace-torch 0.3.16 with e3nn 0.4.4 in double precision, random weights (tests/oracles/mace_checkpoints.py); for
Chebyshev polynomials, whose derivatives it leaves out, differences of its energies.
"""

import io
import json
import lzma
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from epot import interchange
from epot.blocks import contraction_kernels
from epot.cli import main
from epot.data.structure import Structure
from epot.errors import ConfigError, ModelFileError, UnknownElementError
from epot.fit.run import fit
from epot.fitted import Fitted
from epot.geometry.graph import build, collate
from epot.interchange import mace
from epot.predict import predict

FOLDER = Path(__file__).parents[1] / "data_files" / "mace"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
CASES = [(name, head) for name, heads in EXPECTED.items() for head in heads]
SINGLE = {"mp0", "invariant"}  # saved in single precision


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The checkpoints as mace-torch wrote them."""
    folder = tmp_path_factory.mktemp("mace")
    for name in EXPECTED:
        (folder / f"{name}.model").write_bytes(lzma.decompress((FOLDER / f"{name}.model.xz").read_bytes()))
    return folder


@pytest.fixture(scope="module")
def potentials(files):
    """All of them, read once; double precision."""
    return {
        (name, head): mace.load(files / f"{name}.model", head=head if len(EXPECTED[name]) > 1 else None).double()
        for name, head in CASES
    }


def structure(system):
    periodic = bool(np.any(system["cell"]))
    return Structure(*(np.array(system[k]) for k in ("numbers", "positions", "cell")), (periodic,) * 3)


TOLERANCE = {"energy": 1e-9, "forces": 1e-7, "stress": 1e-9}
"""eV/atom, eV/Å, eV/Å^3: radial functions are splines where kernels can be compiled."""


def errors(potential, name, head, cases=("molecule", "cell")):
    """Largest of energy per atom, forces and stress, in units of their tolerances."""
    found = []
    for case in cases:
        system = EXPECTED[name][head][case]
        s = structure(system)
        made = predict(potential, build(s, potential.cutoff), ("forces", "stress") if s.pbc.all() else ("forces",))
        found.append(abs(float(made.energy) - system["energy"]) / len(s) / TOLERANCE["energy"])
        found.append(np.abs(made.forces.numpy() - system["forces"]).max() / TOLERANCE["forces"])
        if "stress" in system:
            found.append(np.abs(made.stress.numpy() - system["stress"]).max() / TOLERANCE["stress"])
    return max(found)


@pytest.mark.parametrize(("name", "head"), CASES)
def test_same_as_mace(potentials, name, head):
    """A molecule and a skew cell of half the cutoff's length; a control has no terms of the highest power."""
    potential = potentials[name, head]
    allowed = 20 if name in SINGLE else 1
    assert errors(potential, name, head) < allowed
    product = potential.terms["body"].products[0].powers
    highest = product.weights[len(product.tables.n_paths[0]) - 1]
    kept = highest.detach().clone()
    with torch.no_grad():
        highest.zero_()
        assert errors(potential, name, head, ["cell"]) > 20 * allowed
        highest.copy_(kept)
    assert errors(potential, name, head, ["cell"]) < allowed


@pytest.mark.parametrize("name", ["large", "plain", "layers", "nonlinear"])
def test_to_the_last_digit_without_splines(potentials, name, monkeypatch):
    """The radial networks themselves, as training without kernels has them; of ``layers`` the witness has the precision
    of differences.
    """
    monkeypatch.setattr("epot.blocks.mace_geometry.available", lambda *_: False)
    trained = predict
    monkeypatch.setattr(f"{__name__}.predict", lambda *a: trained(*a, create_graph=True).detach())
    limits = dict.fromkeys(TOLERANCE, 1e-12) | ({"forces": 1e-9, "stress": 1e-8} if name == "layers" else {})
    monkeypatch.setattr(f"{__name__}.TOLERANCE", limits)
    assert errors(potentials[name, "Default"], name, "Default") < 1


def test_in_a_batch_as_alone(potentials):
    potential = potentials["0b3", "Default"]
    systems = EXPECTED["0b3"]["Default"]
    made = predict(potential, collate([build(structure(s), potential.cutoff) for s in systems.values()]))
    assert np.allclose(made.energy.numpy(), [s["energy"] for s in systems.values()], atol=1e-10)


@pytest.mark.parametrize("name", ["0b3", "mp0", "off"])
def test_precision_of_the_file_is_kept(files, name):
    potential = mace.load(files / f"{name}.model")
    dtypes = {p.dtype for p in potential.parameters()}
    assert dtypes == {torch.float32 if name in SINGLE else torch.float64}


def test_settings_are_those_of_the_file(files):
    made = mace.read(files / "0b3.model")
    assert made.heads == ("Default",)
    config = made.config
    assert (config["interaction_first"], config["interaction"]) == ("density", "density_residual")
    assert (config["distance_transform"], config["correlation"]) == ("agnesi", 3)
    assert (config["max_l"], config["max_ell"], config["n_channels"], config["radial_mlp"]) == (1, 3, 3, [5, 7, 6])
    core = mace.load(files / "0b3.model").terms["core"]
    assert (core.screening, core.power, core.length, core.radii, core.factor) == ("mace", None, None, None, 0.81)
    assert mace.read(files / "layers.model").config["correlation"] == [3, 2, 1]
    assert len(mace.load(files / "mp0.model").elements) == 89


def test_an_element_that_is_missing(files):
    potential = mace.load(files / "off.model")
    with pytest.raises(UnknownElementError, match="Si"):
        build(Structure(np.array([14]), np.zeros((1, 3))), potential.cutoff, elements=potential.elements)


def test_heads_are_chosen_by_name(files):
    with pytest.raises(ConfigError, match="2 heads.*pt_head, Default"):
        mace.load(files / "heads.model")
    with pytest.raises(ConfigError, match="did you mean 'pt_head'"):
        mace.load(files / "heads.model", head="pthead")
    with pytest.raises(ConfigError, match="no head 'spice'"):
        mace.load(files / "off.model", head="spice")


def test_is_found_by_its_content(files, tmp_path):
    for name in ("0b3", "mh", "reduced"):
        assert interchange.find(files / f"{name}.model") == "mace"
    (tmp_path / "other").write_bytes(b"nothing of the kind")
    assert not mace.matches(tmp_path / "other")
    torch.save({"a": torch.zeros(2)}, tmp_path / "tensors.pt")
    assert not mace.matches(tmp_path / "tensors.pt")


def rewritten(path, change, out):
    """A checkpoint with its pickle changed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.endswith("data.pkl") else data)
    return out


def test_unknown_blocks_are_named(files, tmp_path):
    old, new = b"RealAgnosticResidualInteractionBlock", b"RealAgnosticAttentionInteractBlock__"
    assert len(old) == len(new)
    path = rewritten(files / "off.model", lambda data: data.replace(old, new), tmp_path / "other.model")
    with pytest.raises(ModelFileError, match=r"interactions\.0: RealAgnosticAttentionInteractBlock__, interactions\.1"):
        mace.load(path)
    path = rewritten(files / "plain.model", lambda d: d.replace(b"ZBLBasis", b"NLHBasis"), tmp_path / "core.model")
    with pytest.raises(ModelFileError, match="pair_repulsion_fn: NLHBasis"):
        mace.load(path)
    path = rewritten(
        files / "plain.model", lambda d: d.replace(b"models\nMACE", b"models\nMECA"), tmp_path / "kind.model"
    )
    with pytest.raises(ModelFileError, match=r"mace\.modules\.models\.MECA; expected one of MACE"):
        mace.load(path)


def test_damaged_files_are_errors_of_the_file(files, tmp_path):
    """Pickles changed at random: read, or refused in words; nothing else."""
    rng, refused = np.random.default_rng(5), 0

    def damaged(data):
        data = bytearray(data)
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
        start = int(rng.integers(len(data)))
        return bytes(data[:start] + data[start + int(rng.integers(40)) :])

    for _ in range(30):
        path = rewritten(files / "invariant.model", damaged, tmp_path / "damaged.model")
        try:
            mace.load(path)
        except (ModelFileError, ConfigError):
            refused += 1
    assert refused > 15


def test_accelerated_models(files, tmp_path):
    old, new = b"e3nn.o3._linear\nLinear", b"cuequivariance_torch.operations.linear\nLinear"
    path = rewritten(files / "off.model", lambda data: data.replace(old, new), tmp_path / "cueq.model")
    with pytest.raises(ModelFileError, match=r"cuequivariance_torch\.operations.*plain one first .mace_cueq_to_e3nn"):
        mace.load(path)


def test_weights_that_are_not_finite_are_named(files, tmp_path):
    with zipfile.ZipFile(files / "off.model") as old, zipfile.ZipFile(tmp_path / "nan.model", "w") as new:
        largest = max((n for n in old.namelist() if "/data/" in n), key=lambda n: old.getinfo(n).file_size)
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[:-8] + np.float64(np.nan).tobytes() if name == largest else data)
    with pytest.raises(ModelFileError, match=r"not finite numbers: products\.0\.symmetric_contractions"):
        mace.load(tmp_path / "nan.model")


def test_weights_without_settings(files, tmp_path):
    weights = {"products.0.symmetric_contractions.contractions.0.weights_max": torch.zeros(3)}
    for content in (weights, {"model": weights, "optimizer": {}}):
        torch.save(content, tmp_path / "state.pt")
        assert mace.matches(tmp_path / "state.pt")
        with pytest.raises(ModelFileError, match="weights without their settings.*Give the .model file"):
            mace.load(tmp_path / "state.pt")


def test_compiled_models(tmp_path):
    with zipfile.ZipFile(tmp_path / "lammps.pt", "w") as file:
        file.writestr("m/code/__torch__/mace/modules/models.py", "...")
        file.writestr("m/data.pkl", pickle.dumps(None))
    assert interchange.find(tmp_path / "lammps.pt") == "mace"
    with pytest.raises(ModelFileError, match="compiled model"):
        mace.load(tmp_path / "lammps.pt")


class Hostile:
    """What it does when it is unpickled: create a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return eval, (f"open({str(self.trace)!r}, 'w').close()",)


def test_a_hostile_file_is_refused_and_nothing_runs(files, tmp_path):
    trace = tmp_path / "trace"
    inner = pickle.dumps(Hostile(trace), protocol=2)[2:-1]  # without the first and the last word
    path = rewritten(files / "off.model", lambda data: data[:2] + inner + b"0" + data[2:], tmp_path / "bad.model")
    with pytest.raises(ModelFileError, match=r"wants to use (builtins|__builtin__)\.eval, .* nothing of it was run"):
        mace.load(path)
    assert not trace.exists()
    with zipfile.ZipFile(path) as file:
        data = file.read(next(n for n in file.namelist() if n.endswith("data.pkl")))

    class Open(pickle.Unpickler):
        def persistent_load(self, pid):
            return None

    with pytest.raises(Exception):  # noqa: B017, PT011  (a control: an open unpickler runs it, and fails later)
        Open(io.BytesIO(data)).load()
    assert trace.exists()


def test_fine_tuning(files, tmp_path):
    """Few labels of a model with other weights and energies: smaller errors than before, and an uncertainty."""
    before, teacher = mace.load(files / "off.model"), mace.load(files / "off.model")
    Fitted(before).save(tmp_path / "model.epot")
    with torch.no_grad():
        teacher.terms["body"].readout.weight.mul_(1.2)
        teacher.terms["offset"].energies.add_(1.7)
    rng, data = np.random.default_rng(0), []
    for _ in range(16):
        s = structure(EXPECTED["off"]["Default"]["molecule"])
        s = s.replace(positions=s.positions + 0.03 * rng.normal(size=(len(s), 3)))
        made = predict(teacher, build(s, teacher.cutoff))
        data.append(s.replace(energy=float(made.energy), forces=made.forces.numpy()))
    state = fit(
        tmp_path / "model.epot", data[:12], valid=data[12:], options={"descend": {"epochs": 30, "learning_rate": 4e-3}}
    )
    tuned = Fitted(state.potential, state.about)
    rmse = [[f.evaluate(data[12:]).all[k]["rmse"] for k in ("energy", "forces")] for f in (Fitted(before), tuned)]
    assert rmse[1][0] < 0.05 * rmse[0][0]
    assert rmse[1][1] < 0.6 * rmse[0][1]
    estimate = tuned.predict(data[0])
    assert estimate.energy_std > 0
    assert estimate.forces_std.min() > 0


def test_the_command(files, tmp_path):
    main.app.registered_commands.clear()
    main.app.registered_groups.clear()
    main._register()
    words = ["import", str(files / "heads.model"), "--out", str(tmp_path / "model.epot")]
    refused = CliRunner().invoke(main.app, words)
    assert isinstance(refused.exception, ConfigError)
    made = CliRunner().invoke(main.app, [*words, "--option", "head=pt_head", "--json"])
    assert made.exit_code == 0, made.output
    facts = json.loads(made.stdout)
    assert (facts["format"], facts["elements"]) == ("mace", "H, C, O")
    assert facts["terms"] == {"offset": "Offsets", "body": "MACE", "core": "ZBL"}
    assert (tmp_path / "model.epot").is_file()


def test_full_citizen(files, tmp_path):
    """A model file gives the numbers back; calculator and doctor."""
    system = EXPECTED["0b3"]["Default"]["cell"]
    fitted = Fitted(mace.load(files / "0b3.model"))
    fitted.save(tmp_path / "model.epot")
    contraction_kernels.tables.cache_clear()  # as in a process that has made no such model yet
    again = Fitted.load(tmp_path / "model.epot")
    s = structure(system)
    made = again.predict(s, ("energy", "forces", "stress"))
    assert abs(made.energy - system["energy"]) < 1e-9
    assert np.abs(made.forces - system["forces"]).max() < 1e-9
    atoms = s.to_ase()
    atoms.calc = again.calculator()
    assert abs(atoms.get_potential_energy() - system["energy"]) < 1e-9
    assert "batatia2022mace" in again.cite()
    assert "ziegler1985stopping" in again.cite()
