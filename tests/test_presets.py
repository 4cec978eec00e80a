"""Presets by name: in Python, in YAML, on the command line; what a fit records of them."""

import json
from typing import ClassVar

import pytest
import yaml
from typer.testing import CliRunner

from epot import registry
from epot.cli import main as cli
from epot.errors import ConfigError
from epot.fit import config as configuration
from epot.fit.config import build_potential, build_stages, settings_of
from epot.fit.stages.descend import Descend
from epot.potential import Potential, Sum, make

KNOWN = [(name, preset) for name in registry.names() for preset in registry.presets(registry.get(name))]


@pytest.mark.parametrize(("name", "preset"), KNOWN)
def test_a_preset_is_a_set_of_arguments(name, preset):
    """Witness: the constructor called with them."""
    kind = registry.get(name)
    about, arguments = kind.PRESETS[preset]
    assert about
    assert len(about) < 90
    checked = registry.check(kind, arguments)
    assert registry.get(f"{name}:{preset}") is kind
    made = make(f"{name}:{preset}")
    assert made.config() == kind(**checked).config()
    assert made.config()["name"] == name  # what is saved holds the arguments, not a name whose meaning may change
    assert make(made.config()).config() == made.config()


def test_there_are_presets():
    assert {("mace", "small"), ("mace", "medium"), ("mace", "large"), ("painn", "fast")} <= set(KNOWN)


def test_presets_differ():
    for name in registry.names():
        made = [make(f"{name}:{preset}").config() for preset in registry.presets(registry.get(name))]
        assert all(a != b for k, a in enumerate(made) for b in made[:k])


def test_what_is_given_goes_before_the_preset():
    found = registry.expand({"name": "mace:small", "cutoff": 6, "n_channels": 32})
    assert found == {"name": "mace", "n_channels": 32, "max_l": 0, "cutoff": 6}
    made = make({"name": "mace:small", "cutoff": 6, "n_channels": 4})
    assert (made.cutoff, made.n_channels, made.max_l) == (6.0, 4, 0)
    assert registry.expand("mace") == {"name": "mace"}
    assert registry.expand({"cutoff": 5.0}) == {"cutoff": 5.0}


def test_arguments_of_a_preset_are_not_shared():
    first = registry.expand("painn:fast")
    first["n_features"] = 3
    assert registry.expand("painn:fast")["n_features"] == 64


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mace:smal", r"did you mean mace:small\? Presets: mace:small, mace:medium, mace:large\."),
        ("mace:", r"mace has no preset ''; Presets: mace:small"),
        ("mace:zzz", r"no preset 'zzz'; Presets: mace:small"), ("mac:small", "called 'mac'; did you mean 'mace'"),
        ("krr:fast", "krr has no presets"), ("mace:small:large", "no preset 'small:large'"),
    ],
)  # fmt: skip
def test_an_unknown_preset_is_refused(name, words):
    for use in (registry.get, registry.expand, make, lambda n: build_potential(n, [1, 6])):
        with pytest.raises(ConfigError, match=words):
            use(name)


def test_in_the_potential_of_a_fit():
    """The elements are those of the data; a preset works as a term of a sum too."""
    made = build_potential("painn:fast", [1, 8])
    body = made.config()["terms"]["body"]
    assert body["name"] == "painn"
    assert (body["elements"], body["n_features"], body["cutoff_function"]) == ([1, 8], 64, "polynomial")
    terms = {"offset": {"name": "offsets"}, "body": {"name": "painn:fast", "n_features": 8}}
    made = build_potential({"name": "sum", "terms": terms}, [1, 8])
    assert made.config()["terms"]["body"]["n_features"] == 8
    assert isinstance(made, Sum)


def test_on_the_command_line_and_in_yaml(tmp_path):
    words = configuration.override({"model": "mace:small"}, ["model.cutoff=6"])
    assert words["model"] == {"name": "mace:small", "cutoff": 6}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"model": {"name": "mace:small", "n_channels": 4}}))
    read = configuration.read(path)
    body = build_potential(read["model"], [1, 8]).config()["terms"]["body"]
    assert (body["name"], body["n_channels"], body["max_l"]) == ("mace", 4, 0)


def test_listed():
    if not cli.app.registered_commands:
        cli._register()
    app = cli.app
    shown = CliRunner().invoke(app, ["models"]).output
    for name, preset in KNOWN:
        assert f"\n{name}:{preset} " in shown
    assert set(json.loads(CliRunner().invoke(app, ["models", "--json"]).output)) == {
        *registry.names(), *(f"{n}:{p}" for n, p in KNOWN)
    }  # fmt: skip
    one = json.loads(CliRunner().invoke(app, ["models", "mace:large", "--json"]).output)
    assert (one["name"], one["arguments"]["max_l"], one["arguments"]["max_ell"]) == ("mace:large", 2, 3)
    text = CliRunner().invoke(app, ["models", "mace:large"]).output
    assert "\n  max_l = 2  (default 1)\n" in text
    assert "\n  mace:large " in CliRunner().invoke(app, ["models", "mace"]).output


class Learned(Potential):
    """A potential with an opinion on its descent."""

    SETTINGS: ClassVar = {"descend": {"energy_growth": 7.0, "ema": 0.9}}

    def __init__(self):
        super().__init__()
        self.cutoff = 1.0

    def forward(self, graph):
        raise RuntimeError("it is not evaluated")


class Other(Learned):
    """Another."""

    SETTINGS: ClassVar = {"descend": {"ema": 0.5, "clip": 3.0}}


def test_settings_that_a_fit_leaves_open():
    """Given ones go first; a stage that was built by hand stays as it is."""
    terms = Sum(one=Learned(), other=Other())
    assert settings_of(terms, "descend") == {"energy_growth": 7.0, "ema": 0.9, "clip": 3.0}
    assert settings_of(terms, "solve") == {}
    stage = build_stages(["descend"], terms, True, options={"descend": {"ema": 0.0}})[0]
    assert (stage.energy_growth, stage.ema, stage.clip) == (7.0, 0.0, 3.0)
    stage = build_stages([{"stage": "Descend", "clip": 2.0}], terms, True)[0]
    assert (stage.ema, stage.clip) == (0.9, 2.0)
    by_hand = Descend(epochs=3)
    assert build_stages([by_hand], terms, True)[0] is by_hand
    assert by_hand.energy_growth == Descend().energy_growth


@pytest.mark.parametrize("name", registry.names())
def test_settings_are_those_of_stages(name):
    for section, settings in registry.get(name).SETTINGS.items():
        kind = configuration.stage_class(section)
        assert kind is not None
        registry.check(kind, settings)
