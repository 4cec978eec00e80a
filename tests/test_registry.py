"""Names to classes, signatures as configuration."""

from collections.abc import Sequence
from typing import Literal

import pytest

from epot import registry
from epot.errors import ConfigError
from epot.terms.offsets import Offsets


class Sample:
    def __init__(
        self,
        elements: Sequence[int | str],
        cutoff: float = 5.0,
        n_layers: int = 3,
        kind: Literal["a", "b"] = "a",
        sizes: tuple[int, ...] = (1, 2),
        shared: bool = False,
        label: str | None = None,
        charge: float | None = None,
    ) -> None:
        pass


def test_every_name_has_a_class_whose_name_it_is():
    for folder in registry.FOLDERS:
        for name in registry.names(folder):
            assert registry.name_of(registry.get(name)) == name


@pytest.mark.parametrize("name", ["offset", "offsetz"])
def test_the_nearest_name_is_given(name):
    with pytest.raises(ConfigError, match="did you mean 'offsets'"):
        registry.get(name)


@pytest.mark.parametrize("name", ["os.system", "../secret", "", "__init__", "epot.models.gap", 5, None, ["gap"]])
def test_nothing_else_is_imported(name):
    with pytest.raises(ConfigError):
        registry.make({"name": name})


def test_values_become_what_the_signature_says():
    made = registry.check(Sample, {"elements": ["H"], "cutoff": 4, "sizes": [3, 4], "label": None, "charge": 1})
    assert made == {"elements": ["H"], "cutoff": 4.0, "sizes": (3, 4), "label": None, "charge": 1.0}
    assert type(made["cutoff"]) is float


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("cutoff", "long", "Sample.cutoff is 'long' of type str"), ("cutoff", True, "Sample.cutoff"),
        ("n_layers", 2.5, "Sample.n_layers"), ("n_layers", True, "Sample.n_layers"), ("kind", "c", "one of 'a', 'b'"),
        ("sizes", 3, "Sample.sizes"), ("shared", 1, "Sample.shared"), ("label", 3, "Sample.label"),
        ("n_layer", 3, "did you mean 'n_layers'"), ("cut_off", 3.0, "did you mean 'cutoff'"),
    ],
)  # fmt: skip
def test_bad_configurations_say_what_is_wrong(key, value, words):
    with pytest.raises(ConfigError, match=words):
        registry.check(Sample, {"elements": ["H"], key: value})


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match="Sample needs elements"):
        registry.check(Sample, {})


def test_a_configuration_needs_a_name():
    with pytest.raises(ConfigError, match="needs a 'name'; this one has cutoff"):
        registry.make({"cutoff": 5.0})


def test_make_from_a_name_and_from_a_mapping():
    assert isinstance(registry.make("offsets"), Offsets)
    config = {"name": "offsets", "elements": [1]}
    assert registry.make(config).elements == (1,)
    assert config == {"name": "offsets", "elements": [1]}  # not changed


def test_classes_of_outside_packages(monkeypatch):
    class Entry:
        name = "sample"

        @staticmethod
        def load():
            return Sample

    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry] if group == "epot.models" else [])
    assert registry.get("sample") is Sample
    assert registry.name_of(Sample) == "sample"
    assert "sample" in registry.names()
    assert "sample" not in registry.names("epot.terms")


def test_classes_that_are_not_registered():
    with pytest.raises(ConfigError, match="not an entry point"):
        registry.name_of(Sample)
