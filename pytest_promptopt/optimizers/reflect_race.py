"""Ours: look for headroom first, then edit what is best by several operators, and race every child on shared rows.

1. Headroom probe: one-shot proposals and demo sets race against each other. When the best of them gains next to
   nothing over the source, the answer is "not worth it", and the search ends for a fraction of its price.
2. Generations: parents are the best candidate and one drawn from the per-row Pareto front (GEPA, arXiv 2507.19457).
   Children come from edits of the instruction (after failures; after failures beside successes; shorter; from the
   source again), from other demo sets, and from the best instruction with the best demos. Programs of several prompts
   are edited coordinate by coordinate; their demos come from one trace of the whole program.
3. Selection is by races (:mod:`~pytest_promptopt.optimizers.racing`) over val rows in one shared, balanced order, so
   most candidates cost a fraction of a full evaluation.
4. It stops at the budget, at a plateau, and where nothing is left to gain. Of all candidates within one standard error
   of the best the one with the fewest words is returned (Breiman et al. 1984), unless the source is among the best.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import sqrt
from random import Random
from statistics import fmean, stdev

from pytest_promptopt.errors import BudgetExhausted, UsageError
from pytest_promptopt.evaluation.statistics import pooled_differences
from pytest_promptopt.optimizers.base import Completion, Outcome, Rejection, Row, Search, Sizes, Task, TunablePrompt
from pytest_promptopt.optimizers.demos import DemoSet, SetDrawer, draw_labelled, trace_successes, with_demos
from pytest_promptopt.optimizers.evaluating import (
    ROUNDING,
    Steps,
    announce,
    best_of,
    calls_left,
    complete,
    counted,
    evaluate,
    listed,
    nothing_fits,
    reject,
    require_at_least,
    require_at_most,
)
from pytest_promptopt.optimizers.guards import spell
from pytest_promptopt.optimizers.pareto import find_front
from pytest_promptopt.optimizers.proposals import (
    Attempt,
    ask_for_instruction,
    find_failures,
    find_successes,
    instructed,
    sift,
)
from pytest_promptopt.optimizers.racing import RacePlan, count_runs, differences_by_metric, plan_race, plan_rounds, race
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt

SHOWN_SUCCESSES = 8
SHOWN_ATTEMPTS = 8
PARENTS = 2
WORTH_COMPRESSING = 40
"""Words below which an instruction is short enough."""

TRACED_AT_ONCE = 16
TRACING_SHARE = 0.2
"""Of the calls that are left, as long as which a foreign teacher is asked for traces."""

SHORTER = "Make it shorter: half as many words at most, without losing a rule that matters."


class Edit(StrEnum):
    """How a child's instruction comes from its parent's."""

    REFLECT = "reflect"
    CONTRAST = "contrast"
    COMPRESS = "compress"
    RESTART = "restart"


EDITS = (Edit.REFLECT, Edit.CONTRAST, Edit.REFLECT, Edit.COMPRESS, Edit.CONTRAST, Edit.REFLECT)
"""Taken in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReflectRace:
    """``num_proposals`` instructions and ``num_demo_sets`` sets of demos probe for headroom, then ``generations``.

    A generation has ``children``, which reflect on ``minibatch_size`` train rows of their parent, two thirds of them
    rows that the source fails; one in ``1 / restart_share`` starts from the source again. ``patience`` generations
    without a new best end the search, and a probe that gains less than ``least_gain``. ``standard_errors`` is how far
    below the best a shorter candidate may be. The rest is as in ``copro`` and ``bootstrap-random-search``.
    """

    num_proposals: int = 8
    num_demo_sets: int = 4
    generations: int = 3
    children: int = 6
    minibatch_size: int = 16
    restart_share: float = 0.1
    patience: int = 2
    least_gain: float = 0.02
    standard_errors: float = 1.0
    init_temperature: float = 1.0
    max_examples: int = 32
    max_failures: int = 16
    max_words: int = 300
    max_bootstrapped_demos: int = 4
    max_labeled_demos: int = 16

    def __post_init__(self) -> None:
        least = {"num_proposals": 0, "num_demo_sets": 0, "generations": 0, "children": 1, "minibatch_size": 1}
        least |= {"restart_share": 0, "patience": 1, "least_gain": 0, "standard_errors": 0, "init_temperature": 0}
        least |= {"max_examples": 0, "max_failures": 0, "max_words": 1}
        least |= {"max_bootstrapped_demos": 0, "max_labeled_demos": 0}
        for name, value in least.items():
            require_at_least(f"reflect-race.{name}", getattr(self, name), value)
        require_at_most("reflect-race.restart_share", self.restart_share, 1)
        if not self.num_proposals and not self.num_demo_sets:
            raise UsageError(
                "reflect-race.num_proposals and reflect-race.num_demo_sets are both 0, so nothing would be tried: "
                "--prompt-set reflect-race.num_proposals=8"
            )

    def search(self, task: Task, rng: Random) -> Search:
        """Probe, then breed; the best so far when the budget ends."""
        hunt = _Hunt(self, task, rng)
        try:
            return (yield from hunt.run())
        except BudgetExhausted:
            return hunt.answer()

    def expected_calls(self, sizes: Sizes) -> tuple[int, int]:
        """At least the proposals; at most all races at full length, with every parent's minibatch and foreign traces.

        A race of k contenders runs at most ``count_runs(k, plan_rounds(k, val))`` rows.
        """
        demo_sets = self.num_demo_sets if sizes.takes_demos else 0
        probe = self.num_proposals + _most_runs(self.num_proposals + demo_sets, sizes.val_rows) * sizes.calls_per_row
        minibatches = PARENTS * min(self.minibatch_size, sizes.train_rows)
        rows = minibatches + _most_runs(self.children, sizes.val_rows)
        traced = demo_sets and self.max_bootstrapped_demos and not sizes.is_own_teacher
        traces = sizes.train_rows * sizes.calls_per_row if traced else 0
        return self.num_proposals, traces + probe + self.generations * (self.children + rows * sizes.calls_per_row)


def _most_runs(contenders: int, rows: int) -> int:
    """Of so many contenders or fewer, for some may turn out to be no candidates."""
    return max((count_runs(each, plan_rounds(each, rows)) for each in range(contenders + 1)), default=0)


class _Hunt:
    """All that one search has learnt so far."""

    def __init__(self, settings: ReflectRace, task: Task, rng: Random) -> None:
        self.settings = settings
        self.task = task
        self.rng = rng
        self.order: tuple[Row, ...] = ()
        self.scores: dict[Candidate, float] = {}
        self.lanes: dict[Candidate, tuple[Outcome, ...]] = {}
        self.trained: dict[Candidate, Mapping[Row, Outcome]] = {}
        self.tried: dict[str, dict[str, float]] = {prompt.name: {} for prompt in task.prompts}
        self.seen: dict[Candidate, None] = {task.source: None}
        self.rejected: list[Rejection] = []
        self.drawer = SetDrawer(task=task, found={}, max_bootstrapped_demos=0, max_labeled_demos=0)
        self.draws = 0
        self.leader_of_short_race: Candidate | None = None

    # --- the course ---------------------------------------------------------------------------------------------------

    def run(self) -> Search:
        """Everything in order; rounds are the probe and the generations."""
        yield from self.look_at_source()
        yield from self.probe()
        gain = self.scores[self.best] - self.scores[self.task.source]
        if self.leader_of_short_race is None and gain < self.settings.least_gain:
            return self.task.source
        stale = 0
        for number in range(self.settings.generations):
            before = self.scores[self.best]
            if before >= 1.0 or stale >= self.settings.patience:
                break
            if not (yield from self.breed(number)):
                break
            stale = 0 if self.scores[self.best] > before else stale + 1
        return self.answer()

    def look_at_source(self) -> Steps[None]:
        """What the baseline knows costs nothing; a teacher's traces do, where the teacher is somebody else."""
        task, settings, source = self.task, self.settings, self.task.source
        outcomes = yield from evaluate((source, row) for row in task.valset)
        self.order = self.balance(dict(zip(task.valset, outcomes, strict=True)))
        for candidate in (source, *task.seeds):
            self.enter(candidate, (yield from evaluate((candidate, row) for row in self.order)))
        self.seen.update(dict.fromkeys(task.seeds))
        trained = yield from evaluate((source, row) for row in task.trainset)
        self.trained[source] = dict(zip(task.trainset, trained, strict=True))
        wants_traces = settings.num_demo_sets and settings.max_bootstrapped_demos
        found = (yield from self.bootstrap()) if wants_traces else {}
        self.drawer = SetDrawer(
            task=task,
            found=found,
            max_bootstrapped_demos=settings.max_bootstrapped_demos,
            max_labeled_demos=settings.max_labeled_demos,
        )

    def bootstrap(self) -> Steps[Mapping[Row, DemoSet]]:
        """Traces of train rows until a share of the budget is spent; the model's own are known from the baseline."""
        task, found = self.task, dict[Row, DemoSet]()
        rows = self.rng.sample(task.trainset, len(task.trainset))
        before = yield from calls_left()
        for start in range(0, len(rows), TRACED_AT_ONCE):
            left = yield from calls_left()
            if before is not None and left is not None and before - left > TRACING_SHARE * before:
                break
            batch = rows[start : start + TRACED_AT_ONCE]
            found |= yield from trace_successes(task, batch, wanted=None, max_rounds=1, rng=self.rng)
        return found

    def balance(self, outcomes: Mapping[Row, Outcome]) -> tuple[Row, ...]:
        """Val rows in an order of which every beginning is a fair sample: by metric, and of what the source gets right.

        Rows that the source leaves out stand at the end.
        """
        strata: dict[tuple[str, bool], list[Row]] = {}
        for row, outcome in outcomes.items():
            if outcome.score is not None:
                strata.setdefault((row.metric, outcome.is_success), []).append(row)
        places: list[tuple[float, int, Row]] = []
        for rows in strata.values():
            self.rng.shuffle(rows)
            places += [((place + 0.5) / len(rows), len(places) + place, row) for place, row in enumerate(rows)]
        scored = [row for _, _, row in sorted(places, key=lambda place: place[:2])]
        return (*scored, *(row for row, outcome in outcomes.items() if outcome.score is None))

    def probe(self) -> Steps[None]:
        """One-shot proposals and demo sets in one race."""
        settings = self.settings
        plan = yield from self.plan(settings.num_proposals, settings.num_demo_sets if self.task.takes_demos else 0)
        if plan is None:
            yield from self.report_nothing()
            return
        sets = self.draw_sets(plan.demo_sets)
        source = self.task.source
        targets = [(self.prompt_at(number), source, Edit.REFLECT) for number in range(plan.proposals)]
        proposed = yield from self.propose(targets)
        yield from self.race((*proposed, *sets), plan)
        yield from self.report(0, proposed, sets, self.scores[source])

    def breed(self, number: int) -> Steps[bool]:
        """One generation; false when the budget has no room for another."""
        settings, before = self.settings, self.scores[self.best]
        left = yield from calls_left()
        looks = PARENTS * settings.minibatch_size * self.task.calls_per_row
        plan = plan_race(
            settings.children,
            0,
            rows=len(self.order),
            calls=None if left is None else int(left - looks),
            calls_per_row=self.task.calls_per_row,
        )
        if plan is None or plan.rounds[-1] < len(self.order):
            return False
        parents = [self.best, self.draw_parent()]
        for parent in parents:
            yield from self.look_at(parent)
        joined = [*self.crossed(), *self.with_another_set(plan.proposals)][: plan.proposals]
        targets = [self.target(number, place, parents) for place in range(plan.proposals - len(joined))]
        proposed = yield from self.propose(targets)
        yield from self.race((*joined, *proposed), plan)
        yield from self.report(number + 1, proposed, joined, before)
        return True

    def report_nothing(self) -> Steps[None]:
        """Announce why nothing was tried: too few calls, or neither proposals nor prompts that take demos."""
        left = yield from calls_left()
        has_kinds = self.settings.num_proposals or self.task.takes_demos
        text = nothing_fits(left) if has_kinds and left is not None else "nothing to try: no prompt takes demos"
        yield from announce(text, round=1, rounds=1)

    def report(
        self, number: int, edits: Sequence[Candidate], others: Sequence[Candidate], before: float
    ) -> Steps[None]:
        """Announce what the round was about, and what it means for those to come."""
        rejected, self.rejected = self.rejected, []
        reasons = listed([rejection.reason for rejection in rejected])
        noun = "edit" if number else "proposal"
        words = [counted(len(edits) + len(rejected), noun)]
        words += [f"{len(rejected)} rejected ({reasons})"] if rejected else []
        words += [counted(len(others), "combination" if number else "demo set")] if others else []
        gain = self.scores[self.best] - before
        if number == 0 and self.leader_of_short_race is None and gain < self.settings.least_gain:
            words.append(f"not worth it: {gain:+.3f}")
        elif number and gain <= 0:
            words.append("no new best")
        rounds = 1 + self.settings.generations
        yield from announce(", ".join(words), round=number + 1, rounds=rounds)

    # --- children -----------------------------------------------------------------------------------------------------

    def draw_sets(self, size: int) -> tuple[Candidate, ...]:
        """Labelled rows alone, where there are any, and random sets."""
        if not size:
            return ()
        labelled = with_demos(self.task.source, draw_labelled(self.task, self.settings.max_labeled_demos, self.rng))
        first = self.fresh([labelled])
        return (*first, *self.drawer.draw(size - len(first), self.seen, self.rng))

    def crossed(self) -> tuple[Candidate, ...]:
        """The best instruction of each prompt together, without demos and with the best of them."""
        best_first = sorted(self.scores, key=lambda each: -self.scores[each])
        told = {name: CompiledPrompt(instruction=self.best_instruction(name, best_first)) for name in self.task.source}
        together = _joined(Candidate(told), self.task.source)
        shown = next((each for each in best_first if any(each[name].demos for name in each)), None)
        return self.fresh([together, *([] if shown is None else [_joined(together, shown)])])

    def best_instruction(self, name: str, best_first: Sequence[Candidate]) -> str:
        """Another instruction than the source's for prompt ``name``: a finalist's, else the best of who dropped out."""
        source = self.task.source[name].instruction
        edited = (each[name].instruction for each in best_first if each[name].instruction != source)
        tried = sorted(self.tried[name].items(), key=lambda attempt: -attempt[1])
        return next(edited, next((text for text, score in tried if text != source and score), source))

    def with_another_set(self, children: int) -> tuple[Candidate, ...]:
        """The best instructions with a demo set that nobody had, in a generation of more than two."""
        if children <= PARENTS or not self.task.takes_demos:
            return ()
        return self.fresh(_joined(self.best, each) for each in self.drawer.draw(1, self.seen, self.rng))

    def fresh(self, candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
        """Those that did not come up before; puts them down as seen."""
        new = tuple(candidate for candidate in dict.fromkeys(candidates) if candidate not in self.seen)
        self.seen.update(dict.fromkeys(new))
        return new

    def target(self, number: int, place: int, parents: Sequence[Candidate]) -> tuple[TunablePrompt, Candidate, Edit]:
        """Which prompt of which parent the child at ``place`` edits, and how."""
        prompt = self.prompt_at(number + place)
        parent, edit = parents[place % len(parents)], EDITS[place % len(EDITS)]
        if self.rng.random() < self.settings.restart_share:
            return prompt, self.task.source, Edit.RESTART
        if edit is Edit.COMPRESS and len(parent[prompt.name].instruction.split()) < WORTH_COMPRESSING:
            edit = Edit.REFLECT
        return prompt, parent, edit

    def propose(self, targets: Sequence[tuple[TunablePrompt, Candidate, Edit]]) -> Steps[tuple[Candidate, ...]]:
        """The children that the proposer's replies make."""
        if not targets:
            return ()
        replies = yield from complete(self.ask(prompt, parent, edit) for prompt, parent, edit in targets)
        children: list[Candidate] = []
        rejected: list[Rejection] = []
        for (prompt, parent, _), reply in zip(targets, replies, strict=True):
            tried = self.tried[prompt.name]
            sifted = sift([reply], prompt, tried, max_words=self.settings.max_words)
            rejected += sifted.rejected
            for instruction in sifted.instructions:
                tried[instruction] = 0.0
                children += self.fresh([instructed(parent, prompt.name, instruction)])
        self.rejected += rejected
        yield from reject(rejected)
        return tuple(children)

    def ask(self, prompt: TunablePrompt, parent: Candidate, edit: Edit) -> Completion:
        """The request for one edit; each shows other examples and failures."""
        settings, rng = self.settings, self.rng
        rows = [(row.id, outcome) for row, outcome in self.trained[parent].items()]
        failures, successes = find_failures(prompt.name, rows), find_successes(prompt.name, rows)
        is_edit = edit is not Edit.RESTART
        messages = ask_for_instruction(
            prompt,
            parent[prompt.name].instruction,
            examples=rng.sample(prompt.labelled, min(settings.max_examples, len(prompt.labelled))),
            successes=rng.sample(successes, min(SHOWN_SUCCESSES, len(successes))) if edit is Edit.CONTRAST else (),
            failures=rng.sample(failures, min(settings.max_failures, len(failures))),
            attempts=self.attempts_on(prompt.name) if is_edit else (),
            wish=SHORTER if edit is Edit.COMPRESS else "",
        )
        self.draws += 1
        return Completion(messages=messages, temperature=settings.init_temperature, draw=self.draws, prompt=prompt.name)

    def attempts_on(self, name: str) -> tuple[Attempt, ...]:
        """The best instructions that were tried for prompt ``name``, once there is more than the source's."""
        scored = [Attempt(instruction=text, score=score) for text, score in self.tried[name].items() if score]
        best = sorted(scored, key=lambda attempt: -attempt.score)[:SHOWN_ATTEMPTS]
        return tuple(best) if len(best) > 1 else ()

    # --- what is known ------------------------------------------------------------------------------------------------

    @property
    def best(self) -> Candidate:
        return best_of(self.scores)

    def prompt_at(self, number: int) -> TunablePrompt:
        """The prompts in turn."""
        return self.task.prompts[number % len(self.task.prompts)]

    def plan(self, proposals: int, demo_sets: int) -> Steps[RacePlan | None]:
        left = yield from calls_left()
        return plan_race(proposals, demo_sets, rows=len(self.order), calls=left, calls_per_row=self.task.calls_per_row)

    def race(self, contenders: Sequence[Candidate], plan: RacePlan) -> Steps[None]:
        """Let them run, and put down who came through all val rows."""
        champion = self.best
        spared = self.near_though_below(champion, contenders)
        finish = yield from race(self.task, contenders, self.order, plan.rounds, champion=champion, spared=spared)
        is_whole = len(finish.rows) == len(self.order)
        for candidate, lane in finish.lanes.items() if is_whole else ():
            self.enter(candidate, lane)
        for candidate, score in finish.dropped.items():
            self.note_attempt(candidate, score)
        if not is_whole:
            self.note_leader(champion, finish.rows, finish.scores)

    def near_though_below(self, champion: Candidate, contenders: Iterable[Candidate]) -> frozenset[Candidate]:
        """Those that may be returned for being shorter, though they do not reach the champion."""
        if champion == self.task.source or not self.settings.standard_errors:
            return frozenset()
        return frozenset(each for each in contenders if _length(each) < _length(champion))

    def note_leader(self, champion: Candidate, rows: Sequence[Row], scores: Mapping[Candidate, float]) -> None:
        """The winner of a race that the budget kept from all rows, if it is ahead on those that it ran."""
        score = self.task.mean(rows, self.lanes[champion][: len(rows)])
        leader = next(iter(scores), None)
        if leader is not None and score is not None and scores[leader] > score:
            self.leader_of_short_race = leader

    def enter(self, candidate: Candidate, lane: tuple[Outcome, ...]) -> None:
        """Put down a candidate that ran all val rows."""
        score = self.task.mean(self.order, lane)
        if score is None:
            return
        self.scores[candidate], self.lanes[candidate] = score, lane
        self.note_attempt(candidate, score)

    def note_attempt(self, candidate: Candidate, score: float) -> None:
        """What the proposer is told of ``candidate``'s instructions: the best that they came to with any demos."""
        for name, compiled in candidate.items():
            tried = self.tried[name]
            tried[compiled.instruction] = max(score, tried.get(compiled.instruction, 0.0))

    def draw_parent(self) -> Candidate:
        """One of the per-row Pareto front."""
        scores = {candidate: [outcome.score for outcome in lane] for candidate, lane in self.lanes.items()}
        return find_front(scores).draw_parent(self.rng)

    def look_at(self, parent: Candidate) -> Steps[None]:
        """Run a parent on train rows to reflect on, most of them rows that the source fails."""
        if parent in self.trained:
            return
        source, size = self.trained[self.task.source], self.settings.minibatch_size
        failed = [row for row in self.task.trainset if not source[row].is_success]
        passed = [row for row in self.task.trainset if source[row].is_success]
        rows = self.rng.sample(failed, min(2 * size // 3 or 1, len(failed)))
        rows += self.rng.sample(passed, min(size - len(rows), len(passed)))
        outcomes = yield from evaluate((parent, row) for row in rows)
        self.trained[parent] = dict(zip(rows, outcomes, strict=True))

    def answer(self) -> Candidate:
        """The shortest of those within reach of the best; what leads a short race when nothing else is known."""
        source = self.task.source
        if not self.scores or self.best == source:
            return self.leader_of_short_race or source
        best = self.best
        near = [each for each in self.scores if self.scores[each] > self.scores[source] and self.is_near(each, best)]
        return min(near, key=_length)

    def is_near(self, candidate: Candidate, best: Candidate) -> bool:
        """Whether ``candidate`` is below ``best`` by one row at most, or by a standard error of the difference.

        Of rows that weigh unequally, it is the lightest.
        """
        by_metric = differences_by_metric(self.order, self.lanes[best], self.lanes[candidate])
        strata = [(self.task.weights[metric], differences, None) for metric, differences in by_metric.items()]
        differences, _ = pooled_differences(strata)
        if not self.settings.standard_errors or len(differences) < 2:
            return candidate == best
        total = sum(weight for weight, _, _ in strata)
        one_row = min(weight / len(mine) for weight, mine, _ in strata) / total
        error = stdev(differences) / sqrt(len(differences))
        return fmean(differences) <= max(one_row, self.settings.standard_errors * error) + ROUNDING


def _joined(told: Candidate, shown: Candidate) -> Candidate:
    """The instructions of the one with the demos of the other."""
    return Candidate(
        {name: CompiledPrompt(instruction=told[name].instruction, demos=shown[name].demos) for name in told}
    )


def _length(candidate: Candidate) -> int:
    """Words of a candidate's instructions and demos."""
    texts = [compiled.instruction for compiled in candidate.values()]
    for compiled in candidate.values():
        for demo in compiled.demos:
            texts += [spell(value) for value in (*demo.inputs.values(), demo.output)]
    return sum(len(text.split()) for text in texts)
