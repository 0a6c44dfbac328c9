"""Choosing among alternatives by Bayesian search: Optuna's ask and tell, quiet, seeded, in memory.

A multivariate tree-structured Parzen estimator (TPE, arXiv 2304.11127) learns from scores which alternatives of each
slot go well together. Slots are nominal: index 3 is no nearer to 4 than to 0. Alternatives of a slot are known from the
start; a strategy that finds more of them on its way makes another chooser and adds to it what it knows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optuna

STARTUP_TRIALS = 10
"""Trials with a score before the first that is not drawn at random: Optuna's default, and so DSPy's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One alternative of each slot, by index; ``trial`` is its number in the study."""

    indices: Mapping[str, int]
    trial: int


class Chooser:
    """Proposes one alternative for each slot, and learns from the scores of what it proposed.

    ``sizes`` says how many alternatives each slot has, one at least. The same sizes, seed and scores give the same
    choices; a choice may come again, and then may be told again. Importing Optuna takes half a second, which the first
    chooser of a process pays.
    """

    def __init__(self, sizes: Mapping[str, int], *, seed: int, startup_trials: int = STARTUP_TRIALS) -> None:
        from optuna.distributions import CategoricalDistribution

        self._sizes = dict(sorted(sizes.items()))
        self._slots: dict[str, optuna.distributions.BaseDistribution] = {
            name: CategoricalDistribution(range(size)) for name, size in self._sizes.items()
        }
        self._study = _make_study(seed, startup_trials)

    def ask(self, indices: Mapping[str, int] | None = None) -> Choice:
        """A choice that promises well, or the one that ``indices`` make; several may be open at a time."""
        if indices is not None:
            self._check(indices)
            self._study.enqueue_trial(dict(indices))
        trial = self._study.ask(self._slots)
        return Choice(indices=dict(trial.params), trial=trial.number)

    def tell(self, choice: Choice, score: float | None) -> None:
        """The score of what was asked; ``None`` when it has none, which counts as worse than any."""
        from optuna.trial import TrialState

        self._study.tell(choice.trial, score, state=TrialState.PRUNED if score is None else TrialState.COMPLETE)

    def add(self, indices: Mapping[str, int], score: float | None) -> None:
        """A score that is known from elsewhere: asked and told at once."""
        self.tell(self.ask(indices), score)

    def _check(self, indices: Mapping[str, int]) -> None:
        """Raise ``ValueError`` for other slots or an index out of range, which Optuna would draw anew."""
        if indices.keys() != self._sizes.keys():
            raise ValueError(f"expected an index for each of {[*self._sizes]}, not for {[*indices]}")
        for name, index in indices.items():
            if not 0 <= index < self._sizes[name]:
                raise ValueError(f"{name} has {self._sizes[name]} alternatives, so none with the index {index}")


def _make_study(seed: int, startup_trials: int) -> optuna.Study:
    import optuna

    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup_trials, multivariate=True)
    with _quiet(logging.getLogger("optuna")):
        return optuna.create_study(direction="maximize", sampler=sampler, study_name="search")


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Only warnings from ``logger``, whose level is put back: Optuna greets every study on stderr."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
