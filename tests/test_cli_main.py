"""The command line: commands are found, help is there, errors are one line and exit code 1."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from epot import registry
from epot.cli import main as cli
from epot.errors import ConfigError


@pytest.fixture(scope="module")
def app():
    if not cli.app.registered_commands:
        cli._register()
    return cli.app


def commands(app) -> list[list[str]]:
    """Words of every command; those of a group one by one."""
    found = [[c.name] for c in app.registered_commands]
    for group in app.registered_groups:
        inner = group.typer_instance.registered_commands
        found += [[group.name, c.name or c.callback.__name__.replace("_", "-")] for c in inner]
    return found


def test_commands_are_found(app):
    assert {"models", "cite", "doctor", "data"} <= {words[0] for words in commands(app)}


def test_every_command_has_help_with_an_example(app):
    for words in commands(app):
        shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
        assert shown.exit_code == 0, words
        assert "xample" in shown.output, f"`epot {' '.join(words)} --help` shows no example"
        assert f"epot {words[0]}" in shown.output, f"`epot {' '.join(words)} --help` shows no example"


def test_models_as_json(app):
    shown = CliRunner().invoke(app, ["models", "--json"])
    assert sorted(name for name in json.loads(shown.output) if ":" not in name) == registry.names()


@pytest.mark.parametrize("name", registry.names())
def test_arguments_of_a_model(app, name):
    shown = CliRunner().invoke(app, ["models", name, "--json"])
    assert json.loads(shown.output)["name"] == name
    shown = CliRunner().invoke(app, ["models", name]).output
    assert all(f"\n  {argument} = " in shown for argument in registry.parameters(registry.get(name)))


def test_an_error_of_ours_is_a_message_and_exit_code_1():
    done = subprocess.run([sys.executable, "-m", "epot", "models", "painnn"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("epot: There is no model called 'painnn'")
    assert "Traceback" not in done.stderr


def test_errors_are_ours(app):
    with pytest.raises(ConfigError):
        CliRunner().invoke(app, ["models", "nothing"], catch_exceptions=False)


def test_cite(app):
    for name in registry.names():
        assert CliRunner().invoke(app, ["cite", name]).output.startswith("@")
