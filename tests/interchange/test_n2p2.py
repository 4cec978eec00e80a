"""n2p2 folders. Witnesses: n2p2's own energies and forces, the errors of published networks, loops in plain Python."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from epot import interchange, modelfile
from epot.data.readers import read
from epot.data.structure import Structure
from epot.elements import to_number
from epot.errors import ConfigError, ModelFileError
from epot.geometry.graph import build
from epot.interchange.n2p2 import load, matches
from epot.predict import predict
from epot.units import BOHR, HARTREE

NETWORKS = ("H2O_RPBE-D3", "Cu2S_PBE", "Ethylbenzene_SCAN")
# Zuo et al. 2020 (mlearn): errors of the published networks on the test sets, evaluated independently of this code;
# energies meV/atom, forces eV/Å: RMSE, MAE, RMSE, MAE. That of lithium was not: bounds alone.
MLEARN = {
    "Si": (6.93, 5.63, 0.170, 0.109), "Ge": (7.63, 4.89, 0.125, 0.085), "Mo": (5.43, 3.65, 0.204, 0.125),
    "Cu": (1.68, 1.15, 0.063, 0.026), "Ni": (2.25, 1.52, 0.067, 0.030), "Li": None,
}  # fmt: skip


def input_data(path):
    cell, positions, numbers = [], [], []
    for words in map(str.split, path.read_text().splitlines()):
        if words[:1] == ["lattice"]:
            cell.append([float(w) for w in words[1:4]])
        elif words[:1] == ["atom"]:
            positions.append([float(w) for w in words[1:4]])
            numbers.append(to_number(words[4]))
    periodic = {"cell": np.array(cell) * BOHR, "pbc": True} if cell else {}
    return Structure(np.array(numbers), np.array(positions) * BOHR, **periodic)


@pytest.mark.shared
@pytest.mark.parametrize("name", NETWORKS)
def test_energies_and_forces_of_n2p2(shared_data, name, tmp_path):
    """Energies to 1e-8 relative, forces to 1e-10 Ha/bohr; also after saving and loading."""
    folder = shared_data / "oracles" / "n2p2"
    expected = json.loads((folder / "reference_predictions.json").read_text())[name]
    structure = input_data(folder / name / "input.data")
    potential = load(folder / name)
    loaded, _ = modelfile.load(modelfile.save(tmp_path / "n2p2.epot", potential))
    found = predict(loaded, build(structure, potential.cutoff))
    assert abs(float(found.energy) / HARTREE / expected["energy_Ha"] - 1) < 1e-12
    forces = np.array(expected["forces_Ha_per_bohr"])
    np.testing.assert_allclose(found.forces.numpy() * BOHR / HARTREE, forces, atol=1e-10)
    assert np.abs(forces).max() > 1e-2


@pytest.mark.shared
@pytest.mark.parametrize("element", MLEARN)
def test_errors_of_published_networks(shared_data, element):
    potential = load(shared_data / "oracles" / "mlearn_nnp" / element)
    structures = list(read(shared_data / "mlearn" / f"{element}_test.xyz.gz"))
    found = [predict(potential, build(s, potential.cutoff)) for s in structures]
    energies = [1000 * (float(f.energy) - s.energy) / len(s) for f, s in zip(found, structures, strict=True)]
    forces = np.concatenate([(f.forces.numpy() - s.forces).ravel() for f, s in zip(found, structures, strict=True)])
    errors = [(float(np.sqrt(np.mean(np.square(e)))), float(np.mean(np.abs(e)))) for e in (energies, forces)]
    if (expected := MLEARN[element]) is None:
        assert errors[0][0] < 1.0
        assert errors[1][0] < 0.03
        return
    shown = tuple(float(f"{e:.{digits}f}") for pair, digits in zip(errors, (2, 3), strict=True) for e in pair)
    assert shown == expected


@pytest.mark.shared
def test_fourth_generation_is_refused(shared_data):
    with pytest.raises(ModelFileError, match=r"generation 4.*electrostatics"):
        load(shared_data / "oracles" / "n2p2" / "H2O_RPBE-D3_4G")


# In the order in which n2p2 sorts them; input.nn has them in another.
FUNCTIONS = [
    "H 2 H 0.1 0.0 6.0", "H 2 O 0.1 0.0 6.0", "H 2 O 0.1 1.5 6.0", "H 2 H 0.02 0.0 7.0",
    "H 3 H O 0.05 -1 1.0 7.0", "H 3 H O 0.05 1 1.0 7.0", "H 3 O O 0.05 1 1.0 7.0", "H 3 H O 0.05 -1 4.0 7.0",
    "H 9 H O 0.03 1 2.0 6.5 0.5", "H 20 O -5.0 5.0 p2", "H 20 H 1.0 6.0 p3a", "H 21 H O 0.5 6.5 60.0 180.0 p2",
    "H 22 H H -6.0 6.0 -90.0 90.0 p2a",
]  # fmt: skip
STRUCTURE = Structure(
    np.array([8, 1, 1, 8, 1]),
    np.array([[0, 0, 0], [0.96, 0, 0.1], [-0.24, 0.93, 0], [0.3, 0.4, 2.1], [1.2, -0.2, 2.5]]),
    np.array([[4.2, 0, 0], [0.4, 4.4, 0], [0, 0.3, 4.9]]),
    True,
)
FADES = {
    "1": lambda x: 0.5 * (math.cos(math.pi * x) + 1),
    "2": lambda x: math.tanh(1 - x) ** 3,
    "3": lambda x: (math.tanh(1 - x) / math.tanh(1)) ** 3,
    "4": lambda x: math.exp(1 - 1 / (1 - x * x)),
    "6": lambda x: ((15 - 6 * x) * x - 10) * x**3 + 1,
}
LETTERS = {
    "t": np.tanh, "p": lambda x: np.log1p(np.exp(x)), "s": lambda x: 1 / (1 + np.exp(-x)),
    "S": lambda x: 1 - 1 / (1 + np.exp(-x)), "g": lambda x: np.exp(-x * x / 2), "e": lambda x: np.exp(-x),
    "c": np.cos, "h": np.square, "r": lambda x: np.maximum(x, 0), "l": lambda x: x,
}  # fmt: skip


def value(words, sides, cosine, fade):
    """One term of a symmetry function, in bohr."""
    kind, n = int(words[1]), len(words[2:]) - len([w for w in words[2:] if not w.isalpha()])
    if kind >= 20:
        window = lambda x, a, b, extra: bump(abs(x - (a + b) / 2) * 2 / (b - a), words[-1][:2], extra)  # noqa: E731
        left, right, *angles = (float(w) for w in words[2 + n : -1])
        made = math.prod(window(r, left, right, words[-1].endswith("a")) for r in sides[: {20: 1, 22: 2, 21: 3}[kind]])
        return made * (window(math.degrees(math.acos(cosine)), *angles, False) if angles else 1.0)
    p = [float(w) for w in words[2 + n :]]
    if kind == 2:
        return math.exp(-p[0] * (sides[0] - p[1]) ** 2) * (fade(sides[0] / p[2]) if sides[0] < p[2] else 0.0)
    eta, sign, zeta, cutoff, shift = (*p, 0.0)[:5]
    sides = sides[: 2 if kind == 9 else 3]
    if max(sides) >= cutoff:
        return 0.0
    made = 2 ** (1 - zeta) * (1 + sign * cosine) ** zeta * math.exp(-eta * sum((r - shift) ** 2 for r in sides))
    return made * math.prod(fade(r / cutoff) for r in sides)


def bump(y, shape, asymmetric):
    y = min(y, 1.0)
    y = (2 - y) * y if asymmetric else y
    return 1 - 35 * y**4 + 84 * y**5 - 70 * y**6 + 20 * y**7 if shape == "p3" else ((15 - 6 * y) * y - 10) * y**3 + 1


def by_loops(atom, fade):
    """All functions of an atom."""
    graph = build(STRUCTURE, 7.5 * BOHR)
    own = (graph.pairs[0] == atom).nonzero()[:, 0]
    vectors, senders = graph.vectors()[own].numpy() / BOHR, STRUCTURE.numbers[graph.pairs[1][own].numpy()]
    found = []
    for line in FUNCTIONS:
        words = line.split()
        elements = sorted(to_number(w) for w in words[2:4] if w.isalpha())
        total = 0.0
        for p in range(len(own)):
            r = float(np.linalg.norm(vectors[p]))
            if len(elements) == 1:
                total += value(words, [r], 0.0, fade) * (senders[p] == elements[0])
            for q in range(p) if len(elements) == 2 else ():
                if sorted((senders[p], senders[q])) == elements:
                    s, t = np.linalg.norm(vectors[q]), np.linalg.norm(vectors[p] - vectors[q])
                    total += value(words, [r, float(s), float(t)], float(vectors[p] @ vectors[q]) / (r * s), fade)
        found.append(total)
    return np.array(found)


def folder(path, letter="t", fade="2", extra=(), oxygen="O 2 H 0.1 0.0 6.0"):
    """Write a potential; networks of 13-3-2-1 and 1-3-2-1 units with numbers from a fixed generator."""
    rng = np.random.default_rng(0)
    path.mkdir(exist_ok=True)
    lines = [f"symfunction_short {f}  # a comment" for f in [*rng.permutation(FUNCTIONS), oxygen]]
    head = ["number_of_elements 2", "elements O H  # any order", f"cutoff_type {fade}", "atom_energy H -0.5"]
    head += ["global_hidden_layers_short 2", "global_nodes_short 3 2", f"global_activation_short {letter} {letter} l"]
    (path / "input.nn").write_text("\n".join(["# a comment", *head, *extra, *lines]))
    scaling = [rng.uniform(0.5, 1.5, (n, 4)).cumsum(1) for n in (len(FUNCTIONS), 1)]
    rows = [f"{e + 1} {k + 1} {' '.join(map(repr, map(float, r)))}" for e in (0, 1) for k, r in enumerate(scaling[e])]
    (path / "scaling.data").write_text("# a comment\n" + "\n".join(rows))
    layers = {}
    for z, n in ((1, len(FUNCTIONS)), (8, 1)):
        sizes = (n, 3, 2, 1)
        layers[z] = [
            (rng.normal(size=(a, b)) / 3, rng.normal(size=b) / 3) for a, b in zip(sizes, sizes[1:], strict=False)
        ]
        text = []
        for k, (w, b) in enumerate(layers[z]):
            text += [
                f"{float(w[i, j])!r} a 1 {k} {i + 1} {k + 1} {j + 1}" for i in range(len(w)) for j in range(len(b))
            ]
            text += [f"{float(b[j])!r} b 1 {k + 1} {j + 1}" for j in range(len(b))]
        (path / f"weights.{z:03d}.data").write_text("\n".join(text))
    return scaling, layers


SCALING = {
    "center": lambda g, s: g - s[:, 2],
    "scale": lambda g, s: (g - s[:, 0]) / (s[:, 1] - s[:, 0]),
    "both": lambda g, s: (g - s[:, 2]) / (s[:, 1] - s[:, 0]) * 3 - 1,
    "sigma": lambda g, s: (g - s[:, 2]) / s[:, 3] * 3 - 1,
    "none": lambda g, s: g,
}
RANGE = ["scale_min_short -1.0", "scale_max_short 2.0"]
KEYWORDS = {
    "center": ["center_symmetry_functions"], "scale": ["scale_symmetry_functions"], "none": RANGE,
    "both": ["scale_symmetry_functions", "center_symmetry_functions", *RANGE],
    "sigma": ["scale_symmetry_functions_sigma", *RANGE],
}  # fmt: skip
NORMAL = ["mean_energy -2.5", "conv_energy 4.0", "conv_length 1.7", "normalize_nodes"]


@pytest.mark.parametrize(
    ("letter", "fade", "scaling", "normal"),
    [
        ("t", "1", "scale", False), ("p", "2", "center", True), ("s", "3", "both", False), ("S", "4", "sigma", False),
        ("g", "6", "none", False), ("e", "6", "scale", True), ("c", "6", "both", False), ("h", "6", "scale", True),
        ("r", "6", "both", False), ("l", "6", "both", True),
    ],
)  # fmt: skip
def test_every_keyword_by_loops(tmp_path, letter, fade, scaling, normal):
    extra = [*KEYWORDS[scaling], *(NORMAL if normal else [])]
    statistics, layers = folder(tmp_path, letter, fade, extra)
    found = predict(load(tmp_path), build(STRUCTURE, 7.0 * BOHR)).atom_energies.detach().numpy() / HARTREE
    for atom in (1, 4):  # the oxygens have another network
        y = SCALING[scaling](by_loops(atom, FADES[fade]), statistics[0])
        for k, (w, b) in enumerate(layers[1]):
            y = (y @ w + b) / (len(w) if normal else 1)
            y = LETTERS[letter](y) if k < 2 else y
        expected = y[0] / (4.0 if normal else 1.0) + (-2.5 if normal else 0.0) - 0.5
        assert abs(found[atom] - expected) < 1e-11 * (1 + abs(expected))


def test_units(tmp_path):
    folder(tmp_path)
    bohr, angstrom = load(tmp_path), load(tmp_path, length_unit="Å", energy_unit="eV")
    assert abs(angstrom.cutoff * BOHR / bohr.cutoff - 1) < 1e-12
    small = STRUCTURE.replace(positions=STRUCTURE.positions / BOHR, cell=STRUCTURE.cell / BOHR)
    energies = [float(predict(p, build(s, p.cutoff)).energy) for p, s in ((bohr, STRUCTURE), (angstrom, small))]
    assert abs(energies[0] / HARTREE - energies[1]) < 1e-11
    with pytest.raises(ConfigError, match="no unit"):
        load(tmp_path, length_unit="parsec")


def test_found_by_content_and_on_the_command_line(tmp_path):
    from epot.cli.import_ import import_

    folder(tmp_path / "nnp")
    assert matches(tmp_path / "nnp")
    assert not matches(tmp_path)
    assert interchange.find(tmp_path / "nnp") == "n2p2"
    assert "n2p2" in interchange.formats()
    app = typer.Typer()
    app.command()(import_)
    out = tmp_path / "made.epot"
    made = CliRunner().invoke(app, [str(tmp_path / "nnp"), "--out", str(out), "--json"])
    assert made.exit_code == 0, made.output
    assert json.loads(made.output)["terms"] == {"offset": "Offsets", "body": "AcsfNN"}
    graph = build(STRUCTURE, 7.0 * BOHR)
    loaded, about = modelfile.load(out)
    assert about["imported"] == {"format": "n2p2", "source": "nnp"}
    assert torch.equal(predict(loaded, graph).energy, predict(load(tmp_path / "nnp"), graph).energy)


def test_what_cannot_be_found(tmp_path):
    with pytest.raises(ModelFileError, match="nothing at"):
        interchange.find(tmp_path / "absent")
    with pytest.raises(ModelFileError, match=r"no potential of a known format.*n2p2"):
        interchange.find(tmp_path)
    folder(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'n2p2'"):
        interchange.load(tmp_path, "n2p")
    with pytest.raises(ConfigError, match="did you mean 'length_unit'"):
        interchange.load(tmp_path, lenght_unit="Å")


@pytest.mark.parametrize("lacking", ["input.nn", "scaling.data", "weights.008.data"])
def test_missing_files_are_named(tmp_path, lacking):
    folder(tmp_path)
    (tmp_path / lacking).unlink()
    with pytest.raises(ModelFileError, match=lacking):
        load(tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("input.nn", ("cutoff_type 2", "cutoff_type 0"), "cutoff_type 0"),
        ("input.nn", ("t t l", "t t t"), "the last has to be l"),
        ("input.nn", ("t t l", "t p l"), "different activations"),
        ("input.nn", ("nodes_short 3 2", "nodes_short 3"), "2 widths"),
        ("input.nn", ("H 2 H 0.02 0.0 7.0", "H 12 0.02 0.0 7.0"), "type 12"),
        ("input.nn", ("H 2 H 0.02 0.0 7.0", "H 2 H 0.02 zero 7.0"), "not understood"),
        ("input.nn", ("H 2 H 0.02 0.0 7.0", "H 2 H 0.02 0.0"), "not understood"),
        ("input.nn", ("cutoff_type 2", "committee_mode prediction"), "committee"),
        ("input.nn", ("elements O H", "element O H"), "no elements"),
        ("input.nn", ("O 2 H", "H 2 O"), "no symmetry functions"),
        ("scaling.data", ("2 1 ", "1 9 "), "14 rows"),
        ("scaling.data", ("2 1 ", "2 one "), "damaged"),
        ("weights.001.data", (" a 1 0 13 1 3", " a 1 0 12 1 3"), "not complete"),
        ("weights.001.data", (" a 1 0 13 1 3", " a 1 0 14 1 3"), "does not fit"),
    ],
)  # fmt: skip
def test_damaged_folders(tmp_path, file, change, message):
    folder(tmp_path)
    text = (tmp_path / file).read_text()
    assert change[0] in text
    (tmp_path / file).write_text(text.replace(*change))
    with pytest.raises(ModelFileError, match=message):
        load(tmp_path)


def test_binary_file_is_refused(tmp_path):
    folder(tmp_path)
    shutil.copy(__file__, tmp_path / "other")
    (tmp_path / "scaling.data").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelFileError, match="cannot be read"):
        load(tmp_path)
