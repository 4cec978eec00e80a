"""Checks that every potential must pass; made for anyone who writes a model.

::

    import epot.testing

    epot.testing.check_potential(MyModel.tiny())  # all of them; raises with a readable report

    @pytest.mark.parametrize("check", epot.testing.checks(), ids=str)
    def test_my_model(check):
        check(MyModel.tiny())
"""

from . import contract, derivatives, dynamics, locality, symmetry  # noqa: F401  (each adds its checks)
from .check import Check, CheckFailure, Result, check_potential, checks, examine_potential

__all__ = ["Check", "CheckFailure", "Result", "check_potential", "checks", "examine_potential"]
