"""Extended XYZ: ASE is the witness for what a file means, the messages say where a mistake is."""

import gzip
import io
import lzma

import ase.io
import numpy as np
import pytest

from epot.data.readers import read
from epot.data.readers.xyz import parse_comment
from epot.errors import DataError, EpotError, LabelError

FRAMES = """2
Lattice="4.0 0.5 0.0 0.0 5.0 0.0 0.1 0.0 6.0" Properties=species:S:1:pos:R:3:forces:R:3:tags:I:1:free:L:1 energy=-1.5 \
stress="1 2 3 2 5 6 3 6 9" config_type=slab name="two words" id=0001 vector="1 2 3" flags="T F" pbc="T T F"
Si 0.0 0.0 0.0 1.0 0.0 -1e-3 1 T
O 1.5 0.0 0.25 -1.0 0.0 0.001 2 F
1
Properties=species:S:1:pos:R:3 energy=2.5 charge=-1
H 0.0 0.0 1.0
"""


def written(folder, text, name="train.xyz"):
    path = folder / name
    path.write_text(text)
    return path


def test_a_frame_says_what_ase_says(tmp_path):
    path = written(tmp_path, FRAMES)
    made, atoms = read(path), ase.io.read(path, ":")
    assert len(made) == 2
    first, same = made[0], atoms[0]
    np.testing.assert_array_equal(first.numbers, same.numbers)
    np.testing.assert_array_equal(first.positions, same.positions)
    np.testing.assert_array_equal(first.cell, np.array(same.cell))
    np.testing.assert_array_equal(first.pbc, [True, True, False])
    assert first.energy == same.get_potential_energy() == -1.5
    np.testing.assert_array_equal(first.forces, same.get_forces())
    np.testing.assert_array_equal(first.stress, same.get_stress(voigt=False))
    assert first.config_type == "slab"
    assert first.info["name"] == same.info["name"] == "two words"
    assert first.info["id"] == same.info["id"] == 1
    np.testing.assert_array_equal(first.info["vector"], same.info["vector"])
    assert first.info["flags"] == same.info["flags"] == [True, False]
    np.testing.assert_array_equal(first.arrays["tags"], [1, 2])
    np.testing.assert_array_equal(first.arrays["free"], [True, False])
    assert made[1].charge == -1
    assert made[1].forces is None
    assert first.source == f"{path}, frame 0"


@pytest.mark.shared
def test_every_reference_file_reads_as_ase_reads_it(shared_data):
    files = sorted(shared_data.glob("*/*.xyz.gz"))
    assert len(files) > 40
    for path in files:
        text = gzip.decompress(path.read_bytes()).decode()
        atoms = ase.io.read(io.StringIO(text), ":15", format="extxyz")
        made = read(path, index=":15")
        assert len(made) == len(atoms)
        for ours, theirs in zip(made, atoms, strict=True):
            results = theirs.calc.results if theirs.calc else {}
            assert (ours.numbers == theirs.numbers).all()
            assert (ours.positions == theirs.positions).all()
            assert (ours.cell == np.array(theirs.cell)).all()
            assert (ours.pbc == theirs.pbc).all()
            assert ours.energy == results.get("energy")
            for name in ("forces", "charges", "dipole"):
                assert np.array_equal(getattr(ours, name), results.get(name)) or (
                    getattr(ours, name) is None and name not in results
                )
            if "stress" in results:
                assert (ours.stress.ravel()[[0, 4, 8, 5, 2, 1]] == results["stress"]).all()
            else:
                assert ours.stress is None
            assert ours.charge == theirs.info.get("charge", 0)


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".bz2", ".zst"])
def test_compressions_hold_the_same(tmp_path, suffix):
    if suffix == ".zst":
        pytest.importorskip("zstandard")
    plain = read(written(tmp_path, FRAMES))
    path = plain.write(tmp_path / f"again.xyz{suffix}")
    assert read(path).sha256() == plain.sha256()
    if suffix:
        assert path.read_bytes()[:2] != b"2\n"


def test_several_files_and_globs(tmp_path):
    one, two = written(tmp_path, FRAMES, "a1.xyz"), written(tmp_path, FRAMES, "a2.xyz")
    assert len(read([one, two])) == len(read(str(tmp_path / "a*.xyz"))) == 4
    found = read(tmp_path / "a*.xyz")
    assert [f["structures"] for f in found.provenance["files"]] == [2, 2]
    assert len(found.provenance["files"][0]["sha256"]) == 64
    with pytest.raises(DataError, match="No file matches"):
        read(tmp_path / "b*.xyz")
    with pytest.raises(DataError, match="No file is there"):
        read(tmp_path / "b.xyz")
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("index", "expected"),
    [(0, [0]), (-1, [4]), ("1:3", [1, 2]), ("::2", [0, 2, 4]), (":-3", [0, 1]), (slice(3, None), [3, 4]),
     ("::-1", [4, 3, 2, 1, 0])],
)  # fmt: skip
def test_index(tmp_path, index, expected):
    path = written(tmp_path, "".join(f"1\nenergy={k}\nH 0 0 {k}\n" for k in range(5)))
    assert [s.energy for s in read(path, index=index)] == expected


MISTAKES = {
    "truncated": (FRAMES[: FRAMES.index("O 1.5")], r"frame 0 \(line 4\).*ends after 1 of 2 atom lines"),
    "second truncated": (FRAMES.rsplit("H", 1)[0], r"frame 1 .*ends after 0 of 1 atom lines"),
    "no comment": ("1\n", "ends before the comment line"),
    "count": (FRAMES + "two\n", r"frame 2 \(line 8\).*number of atoms, got 'two'"),
    "negative": ("-1\nx=1\n", "number of atoms is -1"),
    "columns": (FRAMES.replace("0.25 -1.0", "0.25"), r"frame 0 \(line 4\).*expected 9 columns.*got 8"),
    "word": (FRAMES.replace("1.5 0.0", "abc 0.0"), r"frame 0 \(line 4\).*'abc' in column `pos:R` is not a number"),
    "element": (FRAMES.replace("H 0.0", "Qq 0.0"), r"frame 1 \(line 7\).*'Qq' is not a chemical element"),
    "logical": (FRAMES.replace("1 T\n", "1 maybe\n"), "'maybe' in column `free:L` is not T or F"),
    "lattice": (FRAMES.replace('"4.0 0.5 ', '"4.0 '), "must hold nine numbers"),
    "pbc": (FRAMES.replace('pbc="T T F"', 'pbc="T T"'), "must be three of T and F"),
    "properties": (FRAMES.replace("tags:I:1", "tags:X:1"), "expected name:S|R|I|L"),
    "no positions": (FRAMES.replace(":pos:R:3", ":position:R:3"), "has no pos column"),
    "undeclared columns": ("1\nenergy=1\nH 0 0 0 1.0\n", "expected 4 columns"),
    "infinite": ("1\nenergy=1\nH 0 0 inf\n", r"not finite .*frame 0"),
    "flat cell": (FRAMES.replace("4.0 0.5 0.0", "0.0 0.0 0.0"), r"no length .*frame 0"),
    "json": ('1\nx="_JSON {" energy=1\nH 0 0 0\n', "not JSON"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_are_named_with_frame_and_line(tmp_path, kind):
    text, message = MISTAKES[kind]
    path = written(tmp_path, text)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert "train.xyz, frame" in str(caught.value)


def test_labels_of_the_wrong_shape(tmp_path):
    with pytest.raises(LabelError, match=r"`energy` has shape \(2,\), expected one number .*frame 0"):
        read(written(tmp_path, '1\nenergy="1 2"\nH 0 0 0\n'))
    with pytest.raises(LabelError, match="`forces` has shape"):
        read(written(tmp_path, "1\nProperties=species:S:1:pos:R:3:forces:R:2\nH 0 0 0 1 2\n"))
    with pytest.raises(LabelError, match="`energy` is 'low', expected numbers"):
        read(written(tmp_path, "1\nenergy=low\nH 0 0 0\n"))
    with pytest.raises(LabelError, match="expected 6 or 9 numbers"):
        read(written(tmp_path, '1\nLattice="2 0 0 0 2 0 0 0 2" REF_stress="1 2 3"\nH 0 0 0\n'))


def test_labels_that_are_not_finite_are_kept_and_listed(tmp_path):
    text = "1\nenergy=nan Properties=species:S:1:pos:R:3:forces:R:3\nH 0 0 0 1 inf 2\n"
    (made,) = read(written(tmp_path, text))
    assert made.problems() == [
        "`energy` holds 1 value that are not finite",
        "`forces` holds 1 value that are not finite",
    ]


def test_damaged_compression(tmp_path):
    whole = gzip.compress(FRAMES.encode() * 50)
    path = tmp_path / "cut.xyz.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut.xyz.gz"):
        read(path)
    path = tmp_path / "cut.xyz.xz"
    path.write_bytes(lzma.compress(FRAMES.encode() * 50)[:-20])
    with pytest.raises(EpotError, match="cut.xyz.xz"):
        read(path)
    path = tmp_path / "empty.xyz"
    path.write_text("")
    with pytest.raises(DataError, match="holds no structures"):
        read(path)


def test_plain_xyz_and_atomic_numbers_for_symbols(tmp_path):
    made = read(written(tmp_path, "2\njust a comment\n8 0 0 0\nh 0 0 1\n"))
    assert made[0].formula == "HO"
    assert made[0].info["comment"] == "just a comment"


@pytest.mark.parametrize(("text", "expected"), [
    ('a=1 b=2.5 c=x d="p q" e=T f=False', {"a": 1, "b": 2.5, "c": "x", "d": "p q", "e": True, "f": False}),
    ("a= 1 b = 2", {"a": 1, "b": 2}),
    (r'a="say \"hi\" now" last=1', {"a": 'say "hi" now', "last": 1}),
    ('bare a=1', {"bare": True, "a": 1}),
    ('empty="" a=1', {"empty": "", "a": 1}),
    ('a=1_000', {"a": "1_000"}),
    ('a=99999999999999999999', {"a": "99999999999999999999"}),
    ('j="_JSON {\\"k\\": null}"', {"j": {"k": None}}),
    ("old={p q} a=1", {"old": "p q", "a": 1}),
    ("free-energy=1.0 a.b=2", {"free-energy": 1.0, "a.b": 2}),
])  # fmt: skip
def test_comment_lines(text, expected):
    assert parse_comment(text) == expected


def test_arrays_in_new_brackets():
    made = parse_comment("m=[[1, 2], [3, 4]] v=[1.0, 2.0]")
    np.testing.assert_array_equal(made["m"], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(made["v"], [1.0, 2.0])
