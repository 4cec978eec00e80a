import json

import numpy as np
import pytest
import torch
import yaml

from epot import modelfile
from epot.data.dataset import Dataset
from epot.data.structure import Structure
from epot.errors import ConfigError, DataError, FitError, LabelError, UnknownElementError
from epot.fit import checks, config
from epot.fit.recipe import Stage
from epot.fit.run import fit
from epot.fit.stages.descend import Descend
from epot.fit.stages.offsets import FitOffsets
from epot.geometry.graph import build
from epot.potential import Sum
from epot.predict import predict
from epot.terms.offsets import Offsets

STAGES = ["offsets", "descend"]
QUICK = {"descend": {"epochs": 2, "batch_atoms": 40, "learning_rate": 1e-2, "ema": 0.9}}


def quick(data, potential="toynet", **more):
    return fit(potential, data, **({"stages": STAGES, "options": QUICK} | more))


# -------------------------------------------------------------------------------------------- a whole run


def test_a_run_leaves_a_complete_folder(toynet, molecules, tmp_path):
    state = quick(molecules(30), folder=tmp_path / "run")
    assert isinstance(state.potential, Sum)
    assert (len(state.train), len(state.valid)) == (27, 3)
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    body = settings["model"]["terms"]["body"]
    assert (body["name"], body["elements"], body["width"]) == ("toynet", [1, 8], 16)
    descend = settings["stages"][1]
    assert (descend["epochs"], descend["optimizer"], descend["clip"]) == (2, Descend().optimizer, Descend().clip)
    assert settings["data"]["train"]["n"] == 30
    assert len(settings["data"]["train"]["sha256"]) == 64
    assert settings["data"]["valid"] == {"n": 3, "held_out": state.valid.indices.tolist()}
    assert {"epot", "torch", "numpy"} <= settings["versions"].keys()
    potential, about = modelfile.load(tmp_path / "run" / "model.epot")
    graph = build(state.valid[0], potential.cutoff)
    assert torch.equal(predict(potential, graph).forces, predict(state.potential, graph).forces)
    assert about["elements"] == ["H", "O"]
    assert about["training"]["labels"] == {"energy": 30, "forces": 30}
    assert about["training"]["n"] == 27
    assert about["fit"]["seed"] == 0
    assert [s["stage"] for s in about["fit"]["stages"]] == ["FitOffsets", "Descend"]
    assert about["domain"]
    assert about["fit"]["errors"]["valid"]["n"] == 3
    events = [json.loads(line)["event"] for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    assert events == ["fit", "offsets", "descend", "epoch", "epoch", "offsets", "descended", "done"]


def test_no_global_state_and_the_seed_decides(toynet, molecules):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    weights = []
    for seed in (0, 0, 1):
        weights.append(quick(molecules(12), seed=seed).potential.state_dict()["terms.body.dense.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_a_finished_folder_is_not_fitted_again(toynet, molecules, tmp_path, monkeypatch):
    quick(molecules(12), folder=tmp_path)
    monkeypatch.setattr(Descend, "run", lambda *_: pytest.fail("fitted again"))
    quick(molecules(12), folder=tmp_path)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"options": {"descend": QUICK["descend"] | {"epochs": 3}}}, r"stages\[1\].epochs` was 2 and is now 3"),
        ({"potential": {"name": "toynet", "width": 8}}, r"model.terms.body.width` was 16 and is now 8"),
        ({"seed": 5}, "seed` was 0 and is now 5"),
        ({"stages": ["descend"]}, "stages"),
    ],
)
def test_another_configuration_on_the_same_folder_is_refused(toynet, molecules, tmp_path, changes, key):
    quick(molecules(12), folder=tmp_path)
    before = (tmp_path / "model.epot").read_bytes()
    with pytest.raises(FitError, match=key):
        quick(molecules(12), folder=tmp_path, **changes)
    assert (tmp_path / "model.epot").read_bytes() == before


def test_other_data_on_the_same_folder_are_refused(toynet, molecules, tmp_path):
    quick(molecules(12), folder=tmp_path)
    changed = list(molecules(12))
    changed[3] = changed[3].replace(energy=changed[3].energy + 1e-9)
    with pytest.raises(FitError, match=r"data\.train\.sha256"):
        quick(Dataset(changed), folder=tmp_path)
    harmless = {"descend": QUICK["descend"] | {"checkpoint_every": 1.0}}
    quick(molecules(12), folder=tmp_path, options=harmless)


def test_a_fit_goes_on_after_the_stage_that_failed(toynet, molecules, tmp_path, monkeypatch):
    def fail(*_):
        raise FitError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(Descend, "run", fail)
        with pytest.raises(FitError, match="power"):
            quick(molecules(12), folder=tmp_path)
    other = toynet()  # with other initial weights than those of the first try: the checkpoint's count
    with monkeypatch.context() as patch:
        patch.setattr(FitOffsets, "run", lambda *_: pytest.fail("done already"))
        state = quick(molecules(12), other, folder=tmp_path)
    whole = quick(molecules(12))
    assert state.potential.terms["body"] is other
    assert torch.equal(other.mix.weight, whole.potential.terms["body"].mix.weight)


def test_potentials_built_by_hand_are_kept_as_they_are(toynet, molecules):
    given = Sum(offset=Offsets((1, 8)), one=toynet(), two=toynet())
    assert config.build_potential(given, [1, 8]) is given
    body = toynet()
    wrapped = config.build_potential(body, [1, 8])
    assert wrapped.terms["body"] is body
    assert wrapped.terms["offset"].elements == (1, 8)
    alone = Sum(body=toynet())
    assert [type(s).__name__ for s in config.build_stages(None, alone, False)][0] == "Descend"
    terms = {"offset": {"name": "offsets"}, "b": {"name": "toynet"}}
    filled = config.build_potential({"name": "sum", "terms": terms}, [8])
    assert filled.terms["offset"].elements == filled.terms["b"].elements == (8,)


# --------------------------------------------------------------------------------------------- bad input


def changed(data, index, **labels):
    made = list(data)
    made[index] = made[index].replace(**labels)
    return Dataset(made)


def test_labels_that_are_asked_for_and_missing(toynet, molecules):
    data = changed(molecules(12), 3, forces=None)
    message = r"1 of 12 training structures have no `forces` \(first: toy frame 3\)\. Pass targets=\('energy',\) or"
    with pytest.raises(LabelError, match=message):
        quick(data, targets=("energy", "forces"))
    quick(data)  # partial labels are fine where nobody asked
    state = quick(data, targets=("energy",))
    assert not state.train.has("forces").any()
    with pytest.raises(ConfigError, match="'forces'"):
        quick(data, targets=("force",))


def test_labels_that_are_not_finite_name_the_frames(toynet, molecules):
    data = changed(changed(molecules(12), 3, energy=float("nan")), 7, forces=np.full((4, 3), np.inf))
    with pytest.raises(LabelError, match=r"(?s)frame 3: `energy`.*frame 7: `forces` holds 12 values"):
        quick(data)


def test_structures_without_any_label_and_no_structures(toynet, molecules):
    with pytest.raises(LabelError, match=r"1 of 12 .* no label .*frame 2"):
        quick(changed(molecules(12), 2, energy=None, forces=None))
    with pytest.raises(DataError, match="no training structures"):
        quick(Dataset([]))


def test_elements_that_do_not_agree(toynet, molecules):
    nitrogen = Structure(np.array([7, 1]), np.array([[0, 0, 0], [1.0, 0, 0]]), energy=-1.0, source="v.xyz, frame 1")
    with pytest.raises(UnknownElementError, match=r"v\.xyz, frame 1 holds N.*H, O"):
        quick(molecules(12), valid=Dataset([nitrogen]))
    with pytest.raises(UnknownElementError, match=r"hold O; the potential was made for H"):
        quick(molecules(12), {"name": "toynet", "elements": [1]})


def test_absurd_forces_are_flagged(toynet, molecules):
    forces = np.zeros((4, 3))
    forces[0, 0] = 5e3
    state = quick(changed(molecules(12), 7, forces=forces))
    text = next(line["text"] for line in state.journal.lines if line["event"] == "note")
    assert "beyond 100 eV/Å (first: toy frame 7, 5000 eV/Å)" in text


def test_unknown_names_keys_and_orders(toynet, molecules):
    data = molecules(6)
    with pytest.raises(ConfigError, match="did you mean 'toynet'"):
        quick(data, "toynett")
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        quick(data, {"name": "toynet", "widht": 3})
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        quick(data, options={"descend": {"epoch": 3}})
    with pytest.raises(ConfigError, match="did you mean 'descend'"):
        quick(data, options={"descent": {"epochs": 3}})
    with pytest.raises(ConfigError, match="FitOffsets cannot run after Descend"):
        quick(data, stages=["descend", "offsets"], options={})
    with pytest.raises(ConfigError, match="'solve', which is not a stage that this fit builds"):
        quick(data, options={"solve": {}})
    with pytest.raises(ConfigError, match="holdout"):
        quick(data, holdout=1.5)


def test_the_recipe_of_the_model_decides(toynet):
    class Kernel(toynet):
        recipe = "solve"

    names = lambda p, valid: [type(s).__name__ for s in config.build_stages(None, p, valid)]  # noqa: E731
    solved = names(Sum(offset=Offsets((1, 8)), body=Kernel()), False)
    assert solved[0] == "FitOffsets"
    assert "Descend" not in solved
    assert names(Sum(offset=Offsets((1, 8)), body=toynet()), False) == ["FitOffsets", "Descend"]
    stage = Descend(epochs=7)
    assert isinstance(stage, Stage)
    assert config.build_stages([stage], toynet(), False) == [stage]


# ------------------------------------------------------------------------------------------- holding out


def grouped(sizes, extra=()):
    made = [
        Structure(np.array([1, 8]), np.array([[0, 0, 0], [1.0 + 0.01 * k, 0, 0]]), energy=-1.0, group=f"t{g}")
        for g, size in enumerate(sizes)
        for k in range(size)
    ]
    return Dataset(made + list(extra))


def test_whole_groups_are_held_out():
    data = grouped([5] * 20)
    train, valid = checks.hold_out(data, 0.1, seed=3)
    assert len(valid) == 10
    assert len(train) == 90
    assert not {s.group for s in train} & {s.group for s in valid}
    assert valid.provenance["split"]["by"] == "group"
    again = checks.hold_out(data, 0.1, seed=3)[1]
    assert again.indices.tolist() == valid.indices.tolist()
    assert checks.hold_out(data, 0.1, seed=4)[1].indices.tolist() != valid.indices.tolist()


def test_one_trajectory_is_torn_and_what_only_one_structure_shows_is_kept():
    atom = Structure(np.array([8]), np.zeros((1, 3)), energy=-1.0)
    rare = Structure(np.array([7, 1]), np.array([[0, 0, 0], [1.0, 0, 0]]), energy=-1.0)
    for seed in range(5):
        train, valid = checks.hold_out(grouped([40], [atom, rare]), 0.5, seed)
        assert len(valid) == 21
        assert {40, 41} <= set(train.indices.tolist())
    assert checks.hold_out(grouped([1]), 0.1)[1] is None


# ----------------------------------------------------------------------------------------- configuration


def test_yaml_and_words(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("train: a.xyz\nmodel: toynet\ndescend: {epochs: 3}\nversions: {epot: 1}\n")
    words = ["model.cutoff=6.0", "descend.learning_rate=1e-3", "seed=4", "offsets.method=given"]
    made = config.override(config.read(path), words)
    assert made == {
        "train": "a.xyz",
        "model": {"name": "toynet", "cutoff": 6.0},
        "descend": {"epochs": 3, "learning_rate": 1e-3},
        "seed": 4,
        "offsets": {"method": "given"},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: painn", "did you mean 'model'"),
        ("descend: 3", "settings of a stage"),
        ("- a\n- b", "holds no keys"),
        ("a: [", "is not YAML"),
    ],
)
def test_bad_configuration_files(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        config.read(path)


@pytest.mark.parametrize(
    ("word", "message"),
    [("epochs", "key=value"), ("dscend.epochs=3", "did you mean 'descend'"), ("seed.x=3", "has no settings")],
)
def test_bad_words(word, message):
    with pytest.raises(ConfigError, match=message):
        config.override({"train": "a", "seed": 1}, [word])


def test_first_difference_names_the_key():
    old = {"a": {"b": [1, {"c": 2}]}, "checkpoint_every": 1}
    assert config.first_difference(old, {"a": {"b": [1, {"c": 2}]}, "checkpoint_every": 5}) is None
    assert config.first_difference(old, {"a": {"b": [1, {"c": 3}]}}) == "`a.b[1].c` was 2 and is now 3"
    assert "`a.d`" in config.first_difference(old, {"a": {"b": [1, {"c": 2}], "d": 1}})
