"""What we test with, for you to test with: a model that answers from a script.

Hand it to a session from a ``conftest.py``, and nothing in that session calls a provider::

    from pytest_promptopt.testing import ScriptedLM

    def pytest_promptopt_make_lm(model):
        if model == "scripted/desk":
            return ScriptedLM({"refund": "billing", "crash": "bug"}, default="account")
"""

from __future__ import annotations

from pytest_promptopt.lms.scripted import ScriptedLM

__all__ = ["ScriptedLM"]
