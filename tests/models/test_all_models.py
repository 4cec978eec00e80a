"""Every model and every term that is registered, found by looking: checks, documentation, citation, configuration."""

import inspect
import json
import subprocess
import sys

import pytest
import torch

from epot import registry, testing
from epot.potential import Potential, Sum, make
from epot.terms.offsets import Offsets

MODELS = registry.names()
KINDS = [*MODELS, *registry.names("epot.terms")]


@pytest.mark.parametrize("check", testing.checks(), ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_check(name, check):
    check(registry.get(name).tiny())


@pytest.mark.parametrize("name", MODELS)
def test_checks_with_offsets(name):
    """In the sum in which a fit trains it."""
    body = registry.get(name).tiny()
    elements = body.elements or (1, 6, 8)
    offsets = Offsets(elements, values=[-13.6 - 100.0 * k for k in range(len(elements))])
    testing.check_potential(Sum(offset=offsets, body=body), only=["configuration", "save_load", "forces", "batch"])


@pytest.mark.parametrize("name", KINDS)
def test_is_documented(name):
    kind = registry.get(name)
    assert issubclass(kind, Potential)
    assert kind.__doc__
    assert len(kind.__doc__.strip().splitlines()[0]) <= 110
    for argument in registry.parameters(kind):
        assert f"{argument}" in kind.__doc__ + (kind.__init__.__doc__ or ""), f"the docstring does not say {argument}"
    module = inspect.getmodule(kind)
    assert module is not None
    assert module.__doc__


@pytest.mark.parametrize("name", MODELS)
def test_says_what_to_cite(name):
    text = registry.get(name).CITATION.strip()
    assert text.startswith("@")
    assert text.count("{") == text.count("}")
    assert "author" in text
    assert "year" in text


@pytest.mark.parametrize("name", KINDS)
def test_name_and_configuration_are_one(name):
    kind = registry.get(name)
    assert registry.name_of(kind) == name
    tiny = kind.tiny()
    config = json.loads(json.dumps(tiny.config()))
    assert config["name"] == name
    assert make(config).config() == tiny.config()
    assert name.replace("_", "") in repr(tiny).lower()


@pytest.mark.parametrize("name", MODELS)
def test_a_seed_gives_the_same_weights(name):
    made = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            made.append(registry.get(name).tiny().state_dict())
    assert all(torch.equal(a, b) for a, b in zip(made[0].values(), made[1].values(), strict=True))


def test_models_are_built_without_memory_in_a_fresh_process():
    """Files are checked against potentials on the device "meta": tables must not be made there and kept."""
    code = (
        "import torch; from epot import registry, potential\n"
        "with torch.device('meta'):\n"
        "    made = potential.make({'name': 'mace', 'n_channels': 4, 'max_ell': 2})\n"
        "again = potential.make({'name': 'mace', 'n_channels': 4, 'max_ell': 2})\n"
        "assert {p.device.type for p in made.parameters()} == {'meta'}\n"
        "assert {t.device.type for t in [*again.parameters(), *again.buffers()]} == {'cpu'}\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)
