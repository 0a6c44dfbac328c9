"""What the fixture ``promptopt`` gives to tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from pytest_promptopt.errors import ModelError
from pytest_promptopt.prompts.active import propagate

if TYPE_CHECKING:
    from pytest_promptopt.session.run import Run

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Read-only facts of the run. ``model`` is ``None`` where none is configured."""

    model: str | None
    mode: str
    seed: int
    is_optimizing: bool

    @classmethod
    def of(cls, run: Run) -> Facts:
        """The facts of ``run``."""
        try:
            model = run.runtime.choose_model()
        except ModelError:
            model = None
        settings = run.settings
        return cls(model=model, mode=str(settings.mode), seed=settings.seed, is_optimizing=settings.is_optimizing)

    @staticmethod
    def propagate(function: Callable[P, T]) -> Callable[P, T]:
        """``function`` made to carry the candidate under evaluation into a thread that the plugin did not start."""
        return propagate(function)
