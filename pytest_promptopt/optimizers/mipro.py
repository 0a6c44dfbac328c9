"""Instructions and demos searched together: grounded proposals, bootstrapped demo sets, Bayesian choice among both.

After DSPy's ``MIPROv2`` (MIPRO, arXiv 2406.11695). What differs, and why:

- The budget sets the size of a search, up to DSPy's ``heavy``; there its user guesses one of three sizes.
- The source is the first instruction; DSPy pays for a proposal in its place and throws that away. The program is
  described once, not once for each proposal, and a program of one prompt not at all.
- Requests show more rows than three demos: with more labels than that, most would never be seen.
- The first trials deal every demo set and every instruction in turn; a random start leaves some of them out.
- A row that a combination has seen is not paid for again. So a repeated combination reads other rows, a full evaluation
  reads those that are missing, and minibatches pay on small valsets too; one that cannot win any more is not completed.
- Opening words of a proposal are kept, errors are no scores, and 0 is a seed like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, log2, prod
from random import Random

from pytest_promptopt.optimizers.base import Outcome, Row, Search, Sizes, Task
from pytest_promptopt.optimizers.bayesian import Choice, Chooser
from pytest_promptopt.optimizers.demos import PLAIN_SETS, DemoSet, SetDrawer, Shelves, trace_successes
from pytest_promptopt.optimizers.evaluating import (
    Steps,
    announce,
    best_of,
    calls_left,
    counted,
    evaluate,
    is_perfect,
    nothing_fits,
    require_at_least,
)
from pytest_promptopt.optimizers.mipro_proposals import GroundedProposer, Grounds, Proposals
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt

SMALLEST_SEARCH = 6
"""Candidates of the smallest search, which a short budget gives fewer trials: DSPy's ``light``."""

SMALLEST_MINIBATCH = 10
"""Rows under which a mean says next to nothing."""

MOST_REPEATS = 20
"""So many combinations in a row with nothing left to learn are answered from what is known; then a round ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPlan:
    """What one search sets out to do; ``instructions`` counts the source's.

    ``is_grounded``: the proposer looks around before it proposes.
    """

    sets: int
    instructions: int
    trials: int
    is_grounded: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Mipro:
    """``num_candidates`` demo sets and half as many instructions for each prompt, searched in ``num_trials`` trials.

    Where no prompt takes demos there are ``num_candidates`` instructions. 18 is DSPy's ``heavy`` (12 ``medium``, 6
    ``light``, its default); a limited budget makes a smaller search of it, down to ``light``, and then has fewer
    trials. Trials are, unless given, DSPy's max(2·slots·log2 n, 1.5·n) for n candidates, with a slot for the
    instruction of each prompt and one for its demos.

    A set has at most ``max_bootstrapped_demos``, and labelled ones up to ``max_labeled_demos`` in all: DSPy's 4 leave
    most labels without a demo, and labelled rows cost no call. A trial scores a third of the val rows, at most
    ``minibatch_size``; after every ``minibatch_full_eval_steps`` trials the best combination so far is scored on the
    rest of them. After ``startup_trials`` the study chooses: Optuna's 10 would be most of a small search.

    Before it proposes, the proposer looks at ``view_data_batch_size`` train rows a time; each request shows it
    ``max_examples`` rows, at ``init_temperature``. Proposals of more than ``max_words`` words are thrown away, unless
    the source is as long.
    """

    num_candidates: int = 18
    num_trials: int | None = None
    max_bootstrapped_demos: int = 4
    max_labeled_demos: int = 16
    max_rounds: int = 1
    minibatch_size: int = 35
    minibatch_full_eval_steps: int = 5
    startup_trials: int = 8
    view_data_batch_size: int = 10
    max_examples: int = 32
    init_temperature: float = 1.0
    max_words: int = 300

    def __post_init__(self) -> None:
        require_at_least("mipro.num_candidates", self.num_candidates, 2)
        require_at_least("mipro.num_trials", 1 if self.num_trials is None else self.num_trials, 1)
        require_at_least("mipro.max_bootstrapped_demos", self.max_bootstrapped_demos, 0)
        require_at_least("mipro.max_labeled_demos", self.max_labeled_demos, 0)
        require_at_least("mipro.max_rounds", self.max_rounds, 1)
        require_at_least("mipro.minibatch_size", self.minibatch_size, 1)
        require_at_least("mipro.minibatch_full_eval_steps", self.minibatch_full_eval_steps, 1)
        require_at_least("mipro.startup_trials", self.startup_trials, 0)
        require_at_least("mipro.view_data_batch_size", self.view_data_batch_size, 1)
        require_at_least("mipro.max_examples", self.max_examples, 0)
        require_at_least("mipro.init_temperature", self.init_temperature, 0)
        require_at_least("mipro.max_words", self.max_words, 1)

    def search(self, task: Task, rng: Random) -> Search:
        """Make demo sets, then instructions, then try combinations of them, a few at a time."""
        found = yield from self._trace(task, self._plan(task, task.max_calls), rng)
        left = yield from calls_left()
        plan = self._plan(task, left)
        if left is not None and not plan.trials:
            yield from announce(nothing_fits(left), round=1, rounds=1)
            return task.source
        rounds = 2 + ceil(plan.trials / self.minibatch_full_eval_steps)
        shelves = self._draw_sets(task, found, plan, rng)
        yield from announce(_summarise_sets(found, shelves), round=1, rounds=rounds)
        proposals = yield from self._propose(task, shelves, plan, rng)
        yield from announce(proposals.text, round=2, rounds=rounds)
        trials = _Trials(task, proposals.instructions, shelves, startup_trials=self.startup_trials, rng=rng)
        yield from trials.score_source()
        for number in range(rounds - 2):
            size = min(self.minibatch_full_eval_steps, plan.trials - number * self.minibatch_full_eval_steps)
            text = yield from trials.run_some(size, self._rows_per_trial(len(task.valset)))
            yield from announce(text, round=3 + number, rounds=rounds)
            if is_perfect(trials.scores) or trials.is_exhausted:
                break
        return best_of(trials.scores)

    @property
    def _proposer(self) -> GroundedProposer:
        return GroundedProposer(
            batch_size=self.view_data_batch_size,
            max_examples=self.max_examples,
            temperature=self.init_temperature,
            max_words=self.max_words,
        )

    def _trace(self, task: Task, plan: TrialPlan, rng: Random) -> Steps[Mapping[Row, DemoSet]]:
        """Rows to bootstrap from, enough for other ones in each set; a foreign teacher is not asked for more."""
        rows = rng.sample(task.trainset, len(task.trainset))
        wanted = self.max_bootstrapped_demos * plan.sets
        return (yield from trace_successes(task, rows, wanted=wanted, max_rounds=self.max_rounds, rng=rng))

    def _draw_sets(self, task: Task, found: Mapping[Row, DemoSet], plan: TrialPlan, rng: Random) -> Shelves:
        """The distinct demo sets of each prompt, drawn for the program as a whole."""
        drawer = SetDrawer(
            task=task,
            found=found,
            max_bootstrapped_demos=self.max_bootstrapped_demos,
            max_labeled_demos=self.max_labeled_demos,
        )
        seen = dict.fromkeys((task.source, *drawer.draw_plain(rng)))
        drawer.draw(max(0, plan.sets - PLAIN_SETS), seen, rng)
        names = [prompt.name for prompt in task.prompts if prompt.takes_demos]
        sets = {name: tuple(dict.fromkeys(candidate[name] for candidate in seen)) for name in names}
        return {prompt.name: sets.get(prompt.name, (task.source[prompt.name],)) for prompt in task.prompts}

    def _propose(self, task: Task, shelves: Shelves, plan: TrialPlan, rng: Random) -> Steps[Proposals]:
        if plan.instructions == 1:
            own = {name: (compiled.instruction,) for name, compiled in task.source.items()}
            return Proposals(instructions=own, text="no calls left for instructions")
        outcomes = yield from evaluate((task.source, row) for row in task.trainset)
        trained = dict(zip(task.trainset, outcomes, strict=True))
        grounds = (yield from self._proposer.look_around(task, trained)) if plan.is_grounded else Grounds()
        count = plan.instructions - 1
        return (yield from self._proposer.propose(task, grounds, shelves, trained, count=count, rng=rng))

    # sizes

    def _rows_per_trial(self, val_rows: int) -> int:
        """A third of the val rows, at most ``minibatch_size``; all of few."""
        return min(val_rows, self.minibatch_size, max(SMALLEST_MINIBATCH, val_rows // 3))

    def _make_plan(self, candidates: int, *, prompts: int, takes_demos: bool) -> TrialPlan:
        slots = prompts * (1 + takes_demos)
        published = int(max(2 * slots * log2(candidates), 1.5 * candidates))
        return TrialPlan(
            sets=max(PLAIN_SETS, candidates),
            instructions=max(2, candidates // 2) if takes_demos else candidates,
            trials=published if self.num_trials is None else self.num_trials,
        )

    def _plan(self, task: Task, max_calls: int | None) -> TrialPlan:
        """The largest search that ``max_calls`` hold, with as many trials as fit; the whole one without a limit."""
        prompts, takes_demos = len(task.prompts), task.takes_demos
        whole = self._make_plan(self.num_candidates, prompts=prompts, takes_demos=takes_demos)
        if max_calls is None or not task.calls_on_valset:
            return whole
        sizes = range(self.num_candidates, min(SMALLEST_SEARCH, self.num_candidates) - 1, -1)
        plans = [self._make_plan(size, prompts=prompts, takes_demos=takes_demos) for size in sizes]
        largest = next((plan for plan in plans if self._count_calls(plan, task) <= max_calls), plans[-1])
        blind = replace(largest, is_grounded=False)
        for plan in (largest, blind, replace(blind, instructions=1)):
            affordable = (replace(plan, trials=trials) for trials in range(whole.trials, 0, -1))
            if fitting := next((each for each in affordable if self._count_calls(each, task) <= max_calls), None):
                return fitting
        return replace(blind, instructions=1, trials=0)

    def _count_calls(self, plan: TrialPlan, task: Task) -> int:
        """The most calls of proposals and trials."""
        val_rows = len(task.valset)
        _, proposals = self._count_proposals(plan, train_rows=len(task.trainset), prompts=len(task.prompts))
        return proposals + ceil(self._count_rows(plan.trials, val_rows) / val_rows * (task.calls_on_valset or 0))

    def _count_proposals(self, plan: TrialPlan, *, train_rows: int, prompts: int) -> tuple[int, int]:
        """The fewest and the most calls of the proposer."""
        if plan.instructions == 1:
            return 0, 0
        asked = prompts * (plan.instructions - 1)
        fewest, most = self._proposer.count_grounding(train_rows, prompts) if plan.is_grounded else (0, 0)
        return fewest + asked, most + asked

    def _count_rows(self, trials: int, val_rows: int) -> int:
        """The most rows that ``trials`` score, the full evaluations between them included."""
        rows = self._rows_per_trial(val_rows)
        return trials * rows + ceil(trials / self.minibatch_full_eval_steps) * (val_rows - rows)

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        """Observations, their summary, descriptions, proposals; traces; trials and full evaluations.

        For T train rows, V val rows, P prompts with L calls a row, I instructions and N trials of b rows: at most
        min(10, ⌈T/10⌉) + 1, and 1 + P if P > 1, and P·(I-1) proposer calls; L·T a round of traces, of which the first
        is known when the model is its own teacher; L·(b·N + (V-b)·⌈N/5⌉) for trials. DSPy's, of its own sizes: 1 +
        min(9, ⌈(T-10)/10⌉) + 1 + 3·P·I; bootstraps for each set; L·(35·N + V·(1 + ⌊N/5⌋)), or L·V·(N+1) where V ≤ 50.
        At least the proposals, when none of them can be used, and one trial of a labelled set.
        """
        plan = self._make_plan(self.num_candidates, prompts=sizes.prompts, takes_demos=sizes.takes_demos)
        fewest, most = self._count_proposals(plan, train_rows=sizes.train_rows, prompts=sizes.prompts)
        fewest_traces, most_traces = self._count_traces(plan, sizes)
        has_labels = bool(sizes.takes_demos and sizes.labelled_rows and self.max_labeled_demos)
        can_bootstrap = bool(sizes.takes_demos and sizes.train_rows and self.max_bootstrapped_demos)
        sets = plan.sets if has_labels or can_bootstrap else 1
        others = (plan.instructions * sets) ** sizes.prompts - 1
        rows = min(self._count_rows(plan.trials, sizes.val_rows), others * sizes.val_rows)
        fewest_rows = fewest_traces + has_labels * self._rows_per_trial(sizes.val_rows)
        return fewest + fewest_rows * sizes.calls_per_row, most + (most_traces + rows) * sizes.calls_per_row

    def _count_traces(self, plan: TrialPlan, sizes: Sizes) -> tuple[int, int]:
        """The fewest and the most train rows that are traced for calls."""
        wanted = self.max_bootstrapped_demos * plan.sets
        if not sizes.takes_demos or not wanted:
            return 0, 0
        fewest = 0 if sizes.is_own_teacher else min(wanted, sizes.train_rows)
        return fewest, (self.max_rounds - sizes.is_own_teacher) * sizes.train_rows


def _summarise_sets(found: Mapping[Row, DemoSet], shelves: Shelves) -> str:
    """``25 rows to bootstrap from, 18 demo sets``."""
    return f"{counted(len(found), 'row')} to bootstrap from, {counted(max(map(len, shelves.values())), 'demo set')}"


class _Trials:
    """Every combination of instructions and demo sets: what its rows said so far, and which one to look at next.

    A combination is spent when all of its val rows are known, or when the metric refused it.
    """

    def __init__(
        self,
        task: Task,
        instructions: Mapping[str, tuple[str, ...]],
        shelves: Shelves,
        *,
        startup_trials: int,
        rng: Random,
    ) -> None:
        self._task = task
        self._instructions = instructions
        self._shelves = shelves
        self._rng = rng
        self._sizes = {f"{name} instruction": len(texts) for name, texts in instructions.items()}
        self._sizes |= {f"{name} demos": len(shelf) for name, shelf in shelves.items()}
        self._chooser = Chooser(self._sizes, seed=rng.getrandbits(32), startup_trials=startup_trials)
        self._dealt = self._deal(startup_trials)
        self._known: dict[Candidate, dict[Row, Outcome]] = {}
        self._tried: dict[Candidate, Mapping[str, int]] = {}
        self._spent: set[Candidate] = set()
        self.scores: dict[Candidate, float] = {}

    @property
    def is_exhausted(self) -> bool:
        """Whether every combination is spent."""
        return len(self._spent) == prod(self._sizes.values())

    def _deal(self, count: int) -> list[dict[str, int]]:
        """Combinations in which each alternative to the source comes as early as the others allow."""
        decks = {slot: self._rng.sample(range(1, size), size - 1) or [0] for slot, size in self._sizes.items()}
        longest = max(map(len, decks.values()))
        return [{slot: deck[turn % len(deck)] for slot, deck in decks.items()} for turn in range(min(count, longest))]

    def score_source(self) -> Steps[None]:
        """Put down what is known of the source, as DSPy's trial 0."""
        mean = yield from self._score(self._task.source, self._task.valset)
        self._chooser.add(dict.fromkeys(self._sizes, 0), mean)

    def run_some(self, size: int, rows_per_trial: int) -> Steps[str]:
        """Up to ``size`` trials, then the best of what is open on all val rows; gives words about them."""
        ran = 0
        while ran < size and not is_perfect(self.scores) and (choice := self._choose()) is not None:
            candidate = self._read(choice.indices)
            self._tried[candidate] = choice.indices
            rows = self._draw_rows(candidate, rows_per_trial)
            self._chooser.tell(choice, (yield from self._score(candidate, rows)))
            ran += 1
        best = self._best_open()
        if best is None or is_perfect(self.scores):
            return counted(ran, "trial")
        yield from self._score(best, self._unknown_rows(best))
        self._chooser.add(self._tried[best], self.scores.get(best))
        return f"{counted(ran, 'trial')}, the best on all {counted(len(self._task.valset), 'row')}"

    def _choose(self) -> Choice | None:
        """What was dealt first, then what the study likes; a combination that is spent is answered at once."""
        if self.is_exhausted:
            return None
        while self._dealt:
            indices = self._dealt.pop(0)
            if self._read(indices) not in self._spent:
                return self._chooser.ask(indices)
        for _ in range(MOST_REPEATS):
            choice = self._chooser.ask()
            candidate = self._read(choice.indices)
            if candidate not in self._spent:
                return choice
            self._chooser.tell(choice, self.scores.get(candidate))
        return None

    def _read(self, indices: Mapping[str, int]) -> Candidate:
        compiled = {
            name: CompiledPrompt(
                instruction=texts[indices[f"{name} instruction"]],
                demos=self._shelves[name][indices[f"{name} demos"]].demos,
            )
            for name, texts in self._instructions.items()
        }
        return Candidate(compiled)

    def _draw_rows(self, candidate: Candidate, count: int) -> tuple[Row, ...]:
        """``count`` val rows that this combination has not seen, or what is left of them."""
        unknown = self._unknown_rows(candidate)
        return unknown if count >= len(unknown) else tuple(self._rng.sample(unknown, count))

    def _unknown_rows(self, candidate: Candidate) -> tuple[Row, ...]:
        known = self._known.get(candidate, {})
        return tuple(row for row in self._task.valset if row not in known)

    def _score(self, candidate: Candidate, rows: Sequence[Row]) -> Steps[float | None]:
        """Run ``rows``; gives the mean over all that is known of the combination then."""
        outcomes = yield from evaluate((candidate, row) for row in rows)
        known = self._known.setdefault(candidate, {})
        known.update(zip(rows, outcomes, strict=True))
        mean = self._mean(known)
        if len(known) == len(self._task.valset) or any(outcome.is_rejected for outcome in outcomes):
            self._spent.add(candidate)
            self.scores.update({} if mean is None else {candidate: mean})
        return mean

    def _mean(self, known: Mapping[Row, Outcome]) -> float | None:
        return self._task.mean([*known], [*known.values()])

    def _best_open(self) -> Candidate | None:
        """The best mean among combinations that can still beat the best score: none whose rows are all known can."""
        means = {
            candidate: mean
            for candidate, known in self._known.items()
            if (mean := self._mean(known)) is not None and self._can_win(candidate)
        }
        return max(means, key=lambda candidate: means[candidate], default=None)

    def _can_win(self, candidate: Candidate) -> bool:
        """Whether full marks on all rows that it has not seen would do."""
        hoped = dict.fromkeys(self._unknown_rows(candidate), Outcome(score=1.0))
        most = self._mean({**self._known[candidate], **hoped})
        return most is not None and most > max(self.scores.values(), default=0.0)
