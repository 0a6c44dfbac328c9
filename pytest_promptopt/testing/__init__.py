"""What we test with, for you to test with: a model that answers from a script, and what every optimizer promises.

Hand the model to a session from a ``conftest.py``, and nothing in that session calls a provider::

    from pytest_promptopt.testing import ScriptedLM

    def pytest_promptopt_make_lm(model):
        if model == "scripted/desk":
            return ScriptedLM({"refund": "billing", "crash": "bug"}, default="account")

Inherit the contract for a strategy of your own, and pytest collects its tests::

    from pytest_promptopt.testing import OptimizerContract

    class TestHillClimb(OptimizerContract):
        def make_optimizer(self):
            return HillClimb(tries=3)
"""

from __future__ import annotations

from pytest_promptopt.lms.scripted import ScriptedLM
from pytest_promptopt.testing.optimizer_contract import OptimizerContract

__all__ = ["OptimizerContract", "ScriptedLM"]
