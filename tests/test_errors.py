"""The tree of exceptions is what its docstring draws."""

import inspect
import re

import pytest

from epot import errors

KINDS = [k for _, k in inspect.getmembers(errors, inspect.isclass) if k.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", KINDS)
def test_one_root(kind):
    assert issubclass(kind, errors.EpotError)
    assert kind.__doc__


def test_the_drawing_is_complete():
    drawn = set(re.findall(r"\b\w+Error\b", errors.__doc__)) - {"ValueError"}
    assert drawn == {k.__name__ for k in KINDS}


@pytest.mark.parametrize("kind", [errors.DataError, errors.ConfigError, errors.ModelFileError, errors.LabelError])
def test_bad_values_are_value_errors(kind):
    assert issubclass(kind, ValueError)
