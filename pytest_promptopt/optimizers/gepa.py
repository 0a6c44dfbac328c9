"""Instruction search by reflection: one look at a few failing rows, one proposal, kept when it helps on those rows.

After GEPA (arXiv 2507.19457; project ``gepa`` 0.1.4). A parent is drawn from the per-row Pareto front of the pool; the
proposer sees what one of its prompts did on a minibatch of train rows, in the metric's own words; a child that scores
strictly more on that minibatch runs on all val rows and joins the pool. The best mean on the val rows wins.

Differences: nothing known is run again; a minibatch in which nothing is known to fail is passed over without a call, as
it teaches nothing; what worked is shown apart from what failed; a row without a score counts on neither side; no
iteration begins whose child the remaining calls could not score; the search ends at a plateau. A minibatch of three is
the published one, and noisy: where five rows in a hundred flip either way, it lets 13 % of useless children pass and
stops six in ten of those that gain ten points. The val rows and the confirmation catch the former.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from random import Random

from pytest_promptopt.optimizers.base import (
    Completion,
    Outcome,
    Rejection,
    Row,
    Search,
    Sizes,
    Task,
    TunablePrompt,
)
from pytest_promptopt.optimizers.evaluating import (
    ROUNDING,
    Steps,
    announce,
    best_of,
    calls_left,
    counted,
    is_perfect,
    listed,
    nothing_fits,
    require_at_least,
)
from pytest_promptopt.optimizers.gepa_pool import Pool, deal, sample_contested
from pytest_promptopt.optimizers.proposals import (
    ask_for_instruction,
    find_failures,
    find_successes,
    instructed,
    propose,
)
from pytest_promptopt.prompts.candidate import Candidate

ROUND = 10
"""Proposals after which a round ends; one that is the best so far or thrown away ends it before, so that it is seen."""

MERGE_ROWS = 5
"""Val rows on which a merged candidate must be as good as the better of its parents before it runs on the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gepa:
    """Reflection on ``reflection_minibatch_size`` train rows at a time, with the proposer at ``init_temperature``.

    The search takes at most the calls of ``max_evaluations`` runs over the val rows, minibatches and proposals
    included, and fewer where the budget is smaller. 30 is the upper end of what GEPA's authors advise; the formula of
    its ``auto`` settings assumes minibatches of 35 rows, which GEPA does not have. ``patience`` proposals in a row that
    are not accepted end it.

    ``use_merge`` crosses two candidates of a program of several prompts, prompt by prompt, up to
    ``max_merge_invocations`` times. It is off, as in ``gepa``: by the published figures it helps one model and harms
    another. Proposals of more than ``max_words`` words are thrown away, unless the source is as long.
    """

    reflection_minibatch_size: int = 3
    max_evaluations: int = 30
    patience: int = 30
    init_temperature: float = 1.0
    use_merge: bool = False
    max_merge_invocations: int = 5
    max_words: int = 300

    def __post_init__(self) -> None:
        require_at_least("gepa.reflection_minibatch_size", self.reflection_minibatch_size, 1)
        require_at_least("gepa.max_evaluations", self.max_evaluations, 1)
        require_at_least("gepa.patience", self.patience, 1)
        require_at_least("gepa.init_temperature", self.init_temperature, 0)
        require_at_least("gepa.max_merge_invocations", self.max_merge_invocations, 0)
        require_at_least("gepa.max_words", self.max_words, 1)

    def search(self, task: Task, rng: Random) -> Search:
        """Reflect, gate and keep until something ends it; the last announcement says what."""
        pool = Pool(task)
        yield from pool.enter(task.source)
        yield from pool.run(task.source, task.trainset)
        pool.planned_calls = self.max_evaluations * len(task.valset) * task.calls_per_row
        return (yield from _Reflection(self, pool, rng).go())

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        """None if the source fails on no train row; at most ``max_evaluations`` runs over the val rows.

        The latter hold the minibatches and the proposals too, which count as a row each in the plan.
        """
        return 0, self.max_evaluations * sizes.val_rows * sizes.calls_per_row if sizes.train_rows else 0


class _Journal:
    """What happened since the last announcement."""

    def __init__(self) -> None:
        self.round = 0
        self._begin()

    def _begin(self) -> None:
        self.proposals = 0
        self.flawless_minibatches = 0
        self.fates: Counter[str] = Counter()
        self.rejected: list[Rejection] = []

    def close(self, rounds: int, ending: str) -> Steps[None]:
        """Announce it, and begin the next round."""
        self.round += 1
        text = "; ".join([*self._sentences(), *filter(None, [ending])])
        self._begin()
        yield from announce(text, round=self.round, rounds=max(rounds, self.round))

    def _sentences(self) -> Iterable[str]:
        if self.proposals:
            fates = [f"{count} {fate}" for fate, count in self.fates.items()]
            if self.rejected:
                fates.append(f"{len(self.rejected)} rejected ({listed([each.reason for each in self.rejected])})")
            yield f"{counted(self.proposals, 'proposal')}: {', '.join(fates)}"
        if self.flawless_minibatches:
            plural = "es" if self.flawless_minibatches > 1 else ""
            yield f"nothing to learn from {self.flawless_minibatches} minibatch{plural}"


class _Reflection:
    """One search, from a pool that holds the source to the best of the pool."""

    def __init__(self, settings: Gepa, pool: Pool, rng: Random) -> None:
        self.settings = settings
        self.pool = pool
        self.plan = pool.planned_calls
        self.budget: int | None = None
        self.rng = rng
        self.task = pool.task
        self.minibatches = deal(self.task.trainset, settings.reflection_minibatch_size, rng)
        self.journal = _Journal()
        self.barren: set[Candidate] = set()
        self.proposals = 0
        self.in_vain = 0
        self.merges = 0
        self.ending = ""

    def go(self) -> Search:
        self.budget = yield from calls_left()
        while not self.ending:
            yield from self._iterate()
        yield from self.journal.close(self.journal.round + 1, self.ending)
        return best_of(self.pool.scores)

    def _iterate(self) -> Steps[None]:
        parent = yield from self._find_parent()
        if parent is None:
            return
        candidate, minibatch = parent
        best = best_of(self.pool.scores)
        child = yield from self._reflect(candidate, minibatch)
        is_accepted = child is not None and (yield from self._try(child, candidate, minibatch))
        self.in_vain = 0 if is_accepted else self.in_vain + 1
        if is_accepted and self.settings.use_merge:
            yield from self._merge()
        self._see_whether_to_stop()
        is_new_best = best_of(self.pool.scores) != best
        if not self.ending and (is_new_best or self.journal.rejected or self.journal.proposals >= ROUND):
            yield from self.journal.close((yield from self._foresee_rounds()), "")

    def _see_whether_to_stop(self) -> None:
        if is_perfect(self.pool.scores):
            self.ending = "nothing left to gain"
        elif self.in_vain >= self.settings.patience:
            self.ending = f"the last {self.in_vain} brought nothing"

    def _foresee_rounds(self) -> Steps[int]:
        """Rounds in all if the calls that are left go like those before."""
        left = yield from calls_left()
        done = 1 - self.pool.planned_calls / self.plan
        if self.budget and left is not None:
            done = max(done, 1 - left / self.budget)
        return ceil((self.journal.round + 1) / done)

    # parents and what they can learn from

    def _find_parent(self) -> Steps[tuple[Candidate, tuple[Row, ...]] | None]:
        """Somebody on the front and a minibatch it fails on; ``None`` ends the search."""
        while not self.ending and (front := self.pool.front(without=self.barren)).wins:
            parent = front.draw_parent(self.rng)
            minibatch = yield from self._find_minibatch(parent)
            if minibatch:
                return parent, minibatch
            self.barren.add(parent)
        self.ending = self.ending or "no train row fails that could teach"
        return None

    def _find_minibatch(self, parent: Candidate) -> Steps[tuple[Row, ...]]:
        """The next minibatch in which ``parent`` fails; empty when there is none, or no calls to use it.

        For an epoch only those run in which it or its nearest ancestor is known to fail; two further epochs, which hold
        a whole one wherever they begin, bring all other rows on which it has not run.
        """
        epoch = ceil(len(self.task.trainset) / self.settings.reflection_minibatch_size)
        for number in range(3 * epoch):
            minibatch = next(self.minibatches)
            unknown = self.pool.unknown(parent, minibatch)
            if not self._is_promising(parent, minibatch) and (number < epoch or not unknown):
                continue
            runs = len(unknown) + len({*minibatch, *self.task.valset})
            if not (yield from self.pool.affords(runs=runs, proposals=1)):
                left = yield from self.pool.calls_left()
                self.ending = "the calls left are too few for another" if self.proposals else nothing_fits(int(left))
                return ()
            outcomes = yield from self.pool.run(parent, minibatch)
            if parent not in self.pool.scores:
                return ()
            if any(map(self._teaches, outcomes)):
                return minibatch
            self.journal.flawless_minibatches += 1
        return ()

    def _is_promising(self, parent: Candidate, minibatch: Iterable[Row]) -> bool:
        foreseen = (self.pool.foresee(parent, row) for row in minibatch)
        return any(outcome is not None and self._teaches(outcome) for outcome in foreseen)

    def _teaches(self, outcome: Outcome) -> bool:
        """Whether it failed, with a call of a prompt that may change."""
        return any(find_failures(prompt.name, [("", outcome)]) for prompt in self.task.prompts)

    # children

    def _reflect(self, parent: Candidate, minibatch: Iterable[Row]) -> Steps[Candidate | None]:
        """A child of ``parent`` with another instruction for the prompt whose turn it is, unless it is thrown away."""
        rows = [(row.id, self.pool.outcomes[parent, row]) for row in minibatch]
        prompt = self._next_prompt(rows)
        messages = ask_for_instruction(
            prompt,
            parent[prompt.name].instruction,
            successes=find_successes(prompt.name, rows),
            failures=find_failures(prompt.name, rows),
        )
        temperature = self.settings.init_temperature
        completion = Completion(messages=messages, temperature=temperature, draw=self.proposals, prompt=prompt.name)
        self._count_proposal()
        tried = self._tried(parent, prompt.name)
        sifted = yield from propose(prompt, [completion], tried, max_words=self.settings.max_words)
        self.journal.rejected += sifted.rejected
        return next((instructed(parent, prompt.name, each) for each in sifted.instructions), None)

    def _count_proposal(self) -> None:
        self.proposals += 1
        self.pool.planned_calls -= 1
        self.journal.proposals += 1

    def _next_prompt(self, rows: Iterable[tuple[str, Outcome]]) -> TunablePrompt:
        """The next in turn of those that were called where ``rows`` failed."""
        rows, prompts = tuple(rows), self.task.prompts
        start = self.proposals % len(prompts)
        in_turn = (*prompts[start:], *prompts[:start])
        return next(prompt for prompt in in_turn if find_failures(prompt.name, rows))

    def _tried(self, parent: Candidate, name: str) -> list[str]:
        """Instructions for prompt ``name`` that were made with all other prompts as ``parent`` has them."""
        made = (parent, *self.pool.parents)
        others = [other for other in parent if other != name]
        return [each[name].instruction for each in made if all(each[other] == parent[other] for other in others)]

    def _try(self, child: Candidate, parent: Candidate, minibatch: tuple[Row, ...]) -> Steps[bool]:
        """Whether ``child`` does better than ``parent`` on ``minibatch``, and so is in the pool."""
        self.pool.parents[child] = (parent,)
        yield from self.pool.run(child, minibatch)
        margin = self.pool.margin(minibatch, child, parent)
        is_better = margin is not None and margin > ROUNDING
        is_accepted = is_better and (yield from self.pool.enter(child))
        self.journal.fates["accepted" if is_accepted else "no better"] += 1
        return is_accepted

    def _merge(self) -> Steps[None]:
        """Cross two of the front, if there are two to cross, and let the child in if it is as good as the better."""
        crossings = self.pool.crossings() if self.merges < self.settings.max_merge_invocations else []
        if not crossings or not (yield from self.pool.affords(runs=len(self.task.valset))):
            return
        self.merges += 1
        crossing = self.rng.choice(crossings)
        self.pool.parents[crossing.child] = (crossing.one, crossing.other)
        rows = sample_contested(self.pool, crossing.one, crossing.other, MERGE_ROWS, self.rng)
        yield from self.pool.run(crossing.child, rows)
        margins = [self.pool.margin(rows, crossing.child, each) for each in (crossing.one, crossing.other)]
        is_as_good = all(margin is not None and margin >= -ROUNDING for margin in margins)
        is_accepted = is_as_good and (yield from self.pool.enter(crossing.child))
        self.journal.fates["merged" if is_accepted else "not merged"] += 1
