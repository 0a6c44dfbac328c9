"""The search of one group of prompts: task, driver, confirmation, files, and what it reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from statistics import fmean
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_promptopt.errors import BudgetExhausted, PromptOptError
from pytest_promptopt.evaluation.labels import labelled_demos
from pytest_promptopt.evaluation.statistics import Interval, provable_drop
from pytest_promptopt.lms.client import Draw
from pytest_promptopt.optimizers.base import Optimizer, Outcome, Pair, Row, Task, TunablePrompt
from pytest_promptopt.optimizers.driver import Allowance, Event, Found, RoundEnded, RowsScored, TrialScored, drive
from pytest_promptopt.prompts.base import AnyPrompt
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo
from pytest_promptopt.prompts.runtime import Snapshot
from pytest_promptopt.reports import terminal
from pytest_promptopt.reports.events import Confirmed, MetricRows, SearchEnded, SearchEvent, SearchStarted
from pytest_promptopt.reports.records import JobReport, Spending
from pytest_promptopt.reports.words import plural
from pytest_promptopt.session.campaign import Campaign, Group, models_of, own_client_prompts, varies
from pytest_promptopt.session.confirming import (
    Arm,
    Decision,
    alpha_for,
    arm_of,
    decide,
    freeze_on_purpose,
    new_baseline,
    plain_settings,
    provenance_of,
    raised,
    remember_winners,
    snapshot_texts,
)
from pytest_promptopt.session.kept import keep
from pytest_promptopt.session.recording import draws_of, frozen_recordings
from pytest_promptopt.session.workbench import Evidence, GroupBench, JobError, outcome_of, run_arm
from pytest_promptopt.snapshots.change import Change, compare

if TYPE_CHECKING:
    from pytest_promptopt.session.run import Run

Say = Callable[[str], None]

NOTHING_BETTER = "nothing better than the source was found"

MONEY_MARGIN = 1.5
"""How much more than the calls so far those of a confirmation are expected to cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One group's search. ``say`` prints a line, ``clock`` counts seconds; events go to the run's stream.

    ``tried`` fills with the candidates that ran on rows.
    """

    run: Run
    campaign: Campaign
    group: Group
    optimizer: Optimizer
    model: str
    say: Say
    clock: Callable[[], float] = time.perf_counter
    tried: set[Candidate] = field(default_factory=set)

    def perform(self) -> list[JobReport]:
        """Search, confirm, write; one report a prompt, the group's first one leading."""
        try:
            return self._perform()
        except (JobError, PromptOptError, BudgetExhausted) as error:
            self._tell(SearchEnded(outcome="errored", reason=str(error)))
            raise

    def _tell(self, event: SearchEvent) -> None:
        prompts = tuple(prompt.name for prompt in self.group.prompts)
        self.run.events.emit(event, prompts=prompts, model=self.model)

    def _perform(self) -> list[JobReport]:
        start = self.clock()
        snapshots = self._snapshots()
        self._say_rows()
        allowance = Allowance(self.campaign.share(self.group), reason_to_stop=self._money_watch())
        found = self._search(allowance)
        self.campaign.spent_by_groups += allowance.calls
        self.campaign.found.update(found.candidate)
        self._say_seeds(found)
        winner = found.candidate
        source = Candidate({prompt.name: prompt.source for prompt in self.group.prompts})
        incumbent = Candidate({name: snapshot.compiled for name, snapshot in snapshots.items()})
        rival = source if winner == incumbent and _stands_for_source(snapshots.values()) else incumbent
        named = self.run.settings.frozen_on_purpose
        is_aside = bool(named) and winner.short_name not in named
        is_settled = is_aside or winner in (source, rival)
        decision, alpha = (None, None) if is_settled else self._weigh(winner, rival, incumbent)
        calls = allowance.calls + sum(one.all_calls for one in self.group.evidence)
        parent = "source" if rival == source else incumbent.digest
        is_whole = is_aside or incumbent == source or (decision is not None and decision.is_frozen)
        healed = {} if is_whole else self._heal(incumbent, decision)
        if decision is not None or healed:
            changes = [] if decision is None else self._changes(found, decision, parent, calls, set(healed))
            written = self.run.write([*changes, *self._healing_changes(healed, incumbent, found, decision)])
            self.run.written += [path.relative_to(self.run.settings.rootdir).as_posix() for path in written]
            self.run.runtime.shelf.forget()
        kept = "" if decision is None or winner == incumbent else self._keep(found, decision, parent, calls)
        spending = self.run.take_spending(self.clock() - start)
        reason = _aside_words(named) if is_aside and winner != source else self._nothing_words(found, allowance)
        reports = self._reports(found, decision, alpha, snapshots, source, incumbent, spending, kept, reason)
        self._tell(_ended(found, reports))
        return reports

    def _weigh(self, winner: Candidate, rival: Candidate, incumbent: Candidate) -> tuple[Decision, float]:
        """Whether ``winner`` is better than ``rival``, and the level that this needed.

        The rival is the incumbent but where the winner itself was frozen on purpose and may be confirmed by now.
        """
        is_wanted = winner.short_name in self.run.settings.frozen_on_purpose
        alpha = alpha_for(winner, self.group.evidence, self.run.settings)
        decision = self._decide(winner, rival, alpha, is_on_purpose=is_wanted and winner != incumbent)
        self._tell_confirmed(decision, winner, rival)
        if winner == incumbent and not decision.is_frozen:
            decision = replace(decision, incumbent=decision.winner)  # what stands is the winner, however unproven
        return decision, alpha

    def _tell_confirmed(self, decision: Decision, winner: Candidate, rival: Candidate) -> None:
        confirmation = decision.confirmation
        if confirmation is not None:
            event = Confirmed(
                candidate=winner,
                incumbent=rival,
                rows=sum(len(arm.rows) for arm in decision.winner.values()),
                before=confirmation.incumbent,
                after=confirmation.winner,
                difference=confirmation.difference,
                interval=confirmation.interval,
                p=confirmation.p,
                alpha=confirmation.alpha,
                is_proven=confirmation.is_better,
            )
            self._tell(event)

    def _keep(self, found: Found, decision: Decision, parent: str, calls: int) -> str:
        """Let a winner that is not frozen lie where it can be looked at; gives the folder as one would type it."""
        if decision.is_frozen:
            return ""
        settings = self.run.settings
        texts = self._snapshot_texts(found, decision, parent, calls)
        files = {path.name: text for path, text in texts.items() if text is not None}
        redact = self.run.redactor.redact
        folder = keep(settings.store, found.candidate, {name: redact(text) for name, text in files.items()})
        is_inside = folder.is_relative_to(settings.rootdir)
        return folder.relative_to(settings.rootdir).as_posix() if is_inside else str(folder)

    def _decide(self, winner: Candidate, incumbent: Candidate, alpha: float, *, is_on_purpose: bool) -> Decision:
        """What the sealed rows say about ``winner``, and that it stays unproven where a ceiling comes before they do.

        Calls are reserved for them, but their retries are not, and nobody knows beforehand what they will cost.
        """
        bench, group, varying = self.campaign.bench, self.group, varies(self.group)
        try:
            decision = decide(bench, group.evidence, winner=winner, incumbent=incumbent, alpha=alpha, varies=varying)
            if is_on_purpose and not decision.is_frozen:
                decision = freeze_on_purpose(bench, group.evidence, decision, winner=winner, varies=varying)
            return self._with_fresh_arms(decision, winner) if decision.is_frozen and varying else decision
        except BudgetExhausted as end:
            self.say(f"  note      {end}")
            reason = "a ceiling was reached before it was confirmed"
            return Decision(is_frozen=False, reason=reason, winner={}, incumbent={})

    def _money_watch(self) -> Callable[[], str] | None:
        """What ends a search while there is money left to confirm its winner, and those of the groups that wait.

        What a call will cost is taken from those so far, and half as much again: demos make prompts longer.
        """
        ceiling = self.run.ceiling
        most_usd = ceiling.max_cost_usd
        if most_usd is None or self.run.is_offline_alone:
            return None
        calls = self.campaign.reserve(self.campaign.waiting_groups())

        def watch() -> str:
            kept_usd = MONEY_MARGIN * calls * ceiling.cost_usd / max(1, ceiling.calls)
            if ceiling.cost_usd + kept_usd <= most_usd:
                return ""
            return f"what is left of ${most_usd:g} (--prompt-max-cost {most_usd:g}) is kept for the confirmation"

        return watch

    def _snapshots(self) -> dict[str, Snapshot]:
        models = models_of(self.group, self.model)
        runtime = self.run.runtime
        return {prompt.name: prompt.find_snapshot(runtime, models[prompt.name]) for prompt in self.group.prompts}

    def _say_rows(self) -> None:
        split = max((one.split for one in self.group.evidence), key=lambda split: len(split.test))
        sealed = len(split.test)
        alpha = self.run.settings.freeze_alpha
        self.say(
            terminal.rows_line(
                len(split.train),
                len(split.val),
                sealed,
                is_merged=split.is_merged,
                provable_gain=provable_drop(sealed, alpha=alpha) if sealed else None,
            )
        )
        for one in self.group.evidence:
            if one.left_out:
                self.say(
                    f"  note      {one.left_out} rows of {one.metric.title} are sealed by another metric, so no search "
                    "sees them; give metrics of one dataset the same group= and labels="
                )

    def _search(self, allowance: Allowance) -> Found:
        task, refusals = make_task(self.group, allowance.max_calls, seeds=tuple(self.seeds))
        for refusal in refusals:
            self.say(f"  note      {refusal}")
        for name in own_client_prompts(self.group):
            self.say(f"  note      replies to {name} come through your own client: not recorded, not counted in money")
        evidence = {one.metric.nodeid: one for one in self.group.evidence}
        source_cost = self.run.client.counters
        known = known_outcomes(self.group.evidence, task.source)
        score = task.mean(task.valset, [known[task.source, row] for row in task.valset]) if task.valset else None
        self._tell(self._started(task.source, score))
        cost = None if source_cost.has_unknown_cost else source_cost.cost_usd
        if score is not None:
            self.say(terminal.start_line(score, self.campaign.source_calls, cost))
        names = " ".join(prompt.name for prompt in self.group.prompts)
        return drive(
            self.optimizer,
            task,
            GroupBench(self.run, self.campaign.bench, evidence, allowance),
            allowance,
            rng=Random(f"{self.run.settings.seed} {self.model} {names}"),
            known=known,
            calls_per_row={
                Row(metric=one.metric.nodeid, id=row): one.calls_of(row)
                for one in self.group.evidence
                for row in one.results
            },
            observer=self._counting_all(self.campaign.source_calls + self.campaign.spent_by_groups),
        )

    @property
    def seeds(self) -> dict[Candidate, tuple[str, ...]]:
        """What the models before this one found, and which of them did."""
        return self.campaign.seeds(self.group)

    def _tried(self, found: Found) -> tuple[str, ...]:
        """The models before this one whose winners were scored here."""
        seeds = self.seeds
        return tuple(model for seed in found.seeds for model in seeds[seed])

    def _say_seeds(self, found: Found) -> None:
        """Which winners of other models there was no room for, and whether the search settled on one."""
        for seed, models in self.seeds.items():
            if seed == found.candidate:
                self.say(terminal.taken_line(models))
            elif found.trials and found.source_score < 1.0 and seed not in found.seeds:
                self.say(terminal.untried_line(models))

    def _started(self, source: Candidate, start_score: float | None) -> SearchStarted:
        settings = self.run.settings
        return SearchStarted(
            prompts=tuple(prompt.name for prompt in self.group.prompts),
            model=self.model,
            proposer=settings.proposer or self.model,
            optimizer=settings.optimizer,
            settings=MappingProxyType(plain_settings(self.optimizer)),
            seed=settings.seed,
            split=str(settings.split),
            metrics=tuple(
                MetricRows(
                    metric=one.metric.nodeid,
                    train=len(one.split.train),
                    val=len(one.split.val),
                    sealed=len(one.split.test),
                )
                for one in self.group.evidence
            ),
            source=source,
            start_score=start_score,
            calls=self.campaign.source_calls + self.campaign.spent_by_groups,
            max_calls=self.run.max_calls,
        )

    def _counting_all(self, calls_before: int) -> Callable[[Event], None]:
        """Who tells the driver's events, with the run's calls and its ceiling instead of the search's own."""
        seeds = self.seeds

        def observe(event: Event) -> None:
            if isinstance(event, TrialScored) and event.trial.candidate in seeds:
                self.say(terminal.seed_line(seeds.pop(event.trial.candidate), event.trial.score))
            if isinstance(event, RoundEnded | TrialScored):
                event = replace(event, calls=calls_before + event.calls, max_calls=self.run.max_calls)
            elif isinstance(event, RowsScored):
                self.tried.add(event.candidate)
                event = replace(event, calls=calls_before + event.calls)
            self._tell(event)

        return observe

    def _nothing_words(self, found: Found, allowance: Allowance) -> str:
        """Why the source is the winner; that a ceiling kept everything else from being tried, where one did."""
        source = found.trials[0].candidate
        if found.source_score >= 1.0 or len(found.trials) > 1 or found.rejected or self.tried - {source}:
            return NOTHING_BETTER
        if money := allowance.reason_to_stop():
            return f"nothing was tried: {money}; give a larger --prompt-max-cost"
        a_trial = sum(one.calls_of(example.id) for one in self.group.evidence for example in one.split.val)
        if not found.is_cut and allowance.covers(a_trial):
            return f"nothing was tried: {self.run.settings.optimizer} had nothing to try here"
        calls = plural(allowance.max_calls or 0, "call")
        return f"nothing was tried: the budget left {calls} for the search; give a larger --prompt-budget"

    def _changes(
        self, found: Found, decision: Decision, parent: str, calls: int, healed: Collection[str]
    ) -> list[Change]:
        settings = self.run.settings
        evidence = self.group.evidence
        tried = [] if decision.confirmation is None else [found.candidate]
        if not decision.is_frozen:
            others = [one for one in evidence if tried and one.metric.nodeid not in healed]
            return [remember_winners(one, tried, settings) for one in others]
        texts = self._snapshot_texts(found, decision, parent, calls)
        return [  # baselines first: killed in between, the gate fails aloud instead of reading rows that were searched
            *(
                new_baseline(
                    one, decision.baseline[one.metric.nodeid], tried, settings, is_confirmed=not decision.unconfirmed
                )
                for one in evidence
            ),
            *self._recording_changes(decision.baseline, found.candidate),
            *(compare(path, text) for path, text in texts.items()),
        ]

    def _recording_changes(self, arms: Mapping[str, Arm], winner: Candidate) -> list[Change]:
        """The replies that the gate will need, out of what confirmed the winner; nothing is called for them."""
        return [
            frozen_recordings(
                one.metric,
                [*arms[one.metric.nodeid].draws, *self._must_pass_draws(one, winner)],
                self.run.redactor,
                is_whole=True,
            )
            for one in self.group.evidence
        ]

    def _must_pass_draws(self, one: Evidence, winner: Candidate) -> Iterable[tuple[str, Draw]]:
        """Those of must-pass rows that are not sealed, where the store has them from the confirmation."""
        sealed = {example.id for example in one.split.test}
        wanted = set(one.metric.options.must_pass) - sealed
        rows = [example for example in one.examples.values() if example.id in wanted]
        if not rows or varies(self.group) or not self.run.settings.mode.reads_store:
            return ()
        results = run_arm(self.campaign.bench, one, rows, winner)
        return draws_of(result for repeats in results.values() for result in repeats)

    def _snapshot_texts(self, found: Found, decision: Decision, parent: str, calls: int) -> dict[Path, str | None]:
        """What the snapshots of the winner say; ``None`` for a prompt that it leaves at its source."""
        provenance = provenance_of(
            settings=self.run.settings,
            optimizer=self.optimizer,
            found=found,
            decision=decision,
            evidence=self.group.evidence,
            parent=parent,
            calls=calls,
            tried=self._tried(found),
            taken_from=self.seeds.get(found.candidate, ()),
        )
        models = models_of(self.group, self.model)
        return snapshot_texts(self.group.prompts, models, found.candidate, provenance)

    def _heal(self, incumbent: Candidate, decision: Decision | None) -> dict[str, Arm]:
        """Sealed scores of what stays frozen, for metrics without: their baseline was deleted, or they are new.

        A metric that cannot be run on its sealed rows keeps what it has.
        """
        arms: dict[str, Arm] = {}
        for one in self.group.evidence:
            baseline, name = one.metric.baseline, one.metric.nodeid
            if (baseline is not None and baseline.reads == "sealed") or not one.split.test:
                continue
            arm = None if decision is None or varies(self.group) else decision.incumbent.get(name)
            arm = arm or arm_of(one, run_arm(self.campaign.bench, one, one.split.test, incumbent))
            if arm is not None:
                arms[name] = arm
        return arms

    def _healing_changes(
        self, healed: Mapping[str, Arm], incumbent: Candidate, found: Found, decision: Decision | None
    ) -> list[Change]:
        tried = [incumbent] if decision is None or decision.confirmation is None else [incumbent, found.candidate]
        settings = self.run.settings
        mine = [(one, healed[one.metric.nodeid]) for one in self.group.evidence if one.metric.nodeid in healed]
        return [
            *(new_baseline(one, arm, tried, settings) for one, arm in mine),
            *(frozen_recordings(one.metric, arm.draws, self.run.redactor, is_whole=False) for one, arm in mine),
        ]

    def _with_fresh_arms(self, decision: Decision, winner: Candidate) -> Decision:
        """Where replies vary, the baseline is another draw than the lucky one that confirmed the winner.

        A metric that raises on that draw would raise in every plain run to come, so nothing is frozen then.
        """
        arms: dict[str, Arm] = {}
        for one in self.group.evidence:
            results = run_arm(self.campaign.bench, one, one.split.test, winner)
            arm = arm_of(one, results)
            if arm is None:
                return replace(decision, is_frozen=False, reason=raised(one, results))
            arms[one.metric.nodeid] = arm
        return replace(decision, baseline=arms)

    def _reports(
        self,
        found: Found,
        decision: Decision | None,
        alpha: float | None,
        snapshots: Mapping[str, Snapshot],
        source: Candidate,
        incumbent: Candidate,
        spending: Spending,
        kept: str,
        reason_without_decision: str,
    ) -> list[JobReport]:
        outcome, reason = _outcome(found, decision, source, incumbent)
        reason = reason or ("" if outcome == "frozen" else reason_without_decision)
        is_source = incumbent == source and outcome != "frozen"
        confirmation = None if decision is None else decision.confirmation
        common = JobReport(
            prompt="",
            model=self.model,
            outcome=outcome,
            reason=reason,
            metrics=tuple(one.metric.title for one in self.group.evidence),
            start_score=found.source_score,
            selected_score=found.score,
            selected_rows=found.rows,
            val_rows=sum(len(one.split.val) for one in self.group.evidence),
            sealed_before=None if confirmation is None else confirmation.incumbent,
            sealed_after=None if confirmation is None else confirmation.winner,
            sealed_rows=0 if decision is None else sum(len(arm.rows) for arm in decision.winner.values()),
            difference=None if confirmation is None else confirmation.difference,
            interval=None if confirmation is None else confirmation.interval,
            p=None if confirmation is None else confirmation.p,
            alpha=alpha,
            candidate="" if found.candidate == source else found.candidate.short_name,
            kept=kept,
            is_cut=found.is_cut,
            tried=self._tried(found),
            taken_from=self.seeds.get(found.candidate, ()),
        )
        if outcome == "unchanged":
            common = replace(common, unconfirmed=_unconfirmed_reason(snapshots.values()))
            common = _as_confirmed_before(common, snapshots.values()) if confirmation is None else common
        elif outcome == "frozen" and decision is not None:
            common = replace(common, unconfirmed=decision.unconfirmed)
        reports = []
        for place, prompt in enumerate(self.group.prompts):
            snapshot = snapshots[prompt.name]
            compiled = found.candidate[prompt.name] if outcome == "frozen" or kept else snapshot.compiled
            path = snapshot.path.relative_to(self.run.settings.rootdir).as_posix()
            written = outcome == "frozen" and compiled != prompt.source
            reports.append(
                replace(
                    common,
                    prompt=prompt.name,
                    outcome="kept" if outcome == "frozen" and not written else outcome,
                    reason="its source is best as it is" if outcome == "frozen" and not written else reason,
                    candidate="" if outcome == "frozen" and not written else common.candidate,
                    unconfirmed="" if outcome == "frozen" and not written else common.unconfirmed,
                    path=path if written or outcome == "unchanged" else "",
                    before=snapshot.compiled.instruction,
                    after=compiled.instruction,
                    demos=_demo_words(compiled) if written or kept else (),
                    spending=spending if place == 0 else Spending(),
                    below=self._below(decision, is_source=is_source) if place == 0 else (),
                    leads_group=place == 0,
                )
            )
        return reports

    def _below(self, decision: Decision | None, *, is_source: bool) -> tuple[str, ...]:
        """Which metrics stand below their threshold once this job is done, in words."""
        lines = []
        for one in self.group.evidence:
            threshold = one.metric.options.threshold
            standing, rows = _standing_score(one, decision, is_source=is_source)
            if threshold is not None and standing is not None and standing < threshold:
                lines.append(f"{one.metric.title} {standing:.3f} on {rows}, below threshold={threshold}")
        return tuple(lines)


def _standing_score(evidence: Evidence, decision: Decision | None, *, is_source: bool) -> tuple[float | None, str]:
    """The score of what stands after the job, on the rows that a plain run reads as far as they were run, and which.

    That is the sealed rows once something is frozen, all rows before.
    """
    arms: Mapping[str, Arm] = {} if decision is None else decision.winner if decision.is_frozen else decision.incumbent
    arm = arms.get(evidence.metric.nodeid)
    sealed = [] if arm is None else [row.score for row in arm.rows]
    baseline = evidence.metric.baseline
    reads_sealed = baseline is not None and baseline.reads == "sealed"
    if not sealed and not is_source and baseline is not None and reads_sealed:
        sealed = [row.score for row in baseline.rows]
    if sealed and (reads_sealed or not is_source):
        return fmean(sealed), f"the {len(sealed)} sealed rows"
    if not is_source:
        return None, ""
    outcomes = [outcome_of(evidence.metric, repeats).score for repeats in evidence.results.values()]
    scores = [*(score for score in outcomes if score is not None), *sealed]
    which = "rows" if sealed else "train and val rows"
    return (fmean(scores), f"{len(scores)} {which}") if scores else (None, "")


def _ended(found: Found, reports: Sequence[JobReport]) -> SearchEnded:
    lead = reports[0]
    outcomes = [report.outcome for report in reports]
    frozen = next((report for report in reports if report.outcome == "frozen"), lead)
    return SearchEnded(
        outcome="frozen" if "frozen" in outcomes else lead.outcome,
        reason=frozen.reason,
        unconfirmed=frozen.unconfirmed,
        candidate=found.candidate,
        start_score=found.source_score,
        selected_score=found.score,
        is_cut=found.is_cut,
        paths=tuple(report.path for report in reports if report.path),
    )


def _stands_for_source(snapshots: Iterable[Snapshot]) -> bool:
    """Whether it was frozen on purpose in the source's place, so that the source is what it has to beat.

    Of another snapshot that it replaced, nothing is left to compare it with.
    """
    marked = [one.frozen for one in snapshots if one.frozen is not None and one.unconfirmed_reason]
    return bool(marked) and all(frozen.provenance.get("parent") == "source" for frozen in marked)


def _unconfirmed_reason(snapshots: Iterable[Snapshot]) -> str:
    """Why what is frozen was never proven better; empty where it was, and where it is not in force."""
    return next((snapshot.unconfirmed_reason for snapshot in snapshots if snapshot.unconfirmed_reason), "")


def _aside_words(named: Sequence[str]) -> str:
    """Why a winner that ``--prompt-freeze`` does not name is left as it is, unconfirmed and unwritten."""
    return f"--prompt-freeze {' '.join(named)} leaves every other winner aside"


def _outcome(found: Found, decision: Decision | None, source: Candidate, incumbent: Candidate) -> tuple[str, str]:
    if found.candidate == incumbent != source and not (decision and decision.is_frozen):
        return "unchanged", "the search finds what is frozen already"
    if decision is None:
        return "kept", ""
    return ("frozen", "") if decision.is_frozen else ("kept", decision.reason)


def _as_confirmed_before(report: JobReport, snapshots: Iterable[Snapshot]) -> JobReport:
    """The report of a winner that is frozen already, with the figures that its snapshot keeps of its confirmation."""
    kept = [snapshot.frozen.provenance.get("confirmation") for snapshot in snapshots if snapshot.frozen]
    facts = next((one for one in kept if isinstance(one, Mapping)), None)
    try:
        return report if facts is None else replace(report, **_sealed_facts(facts))
    except (KeyError, TypeError, ValueError):
        return report  # somebody edited the provenance; it is information, nothing hangs on it


def _sealed_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    low, high = facts["interval_90"]
    return {
        "sealed_before": float(facts["before"]),
        "sealed_after": float(facts["after"]),
        "sealed_rows": int(facts["rows"]),
        "difference": float(facts["difference"]),
        "interval": Interval(low=float(low), high=float(high)),
        "p": float(facts["p"]),
        "alpha": float(facts["alpha"]),
    }


def _demo_words(compiled: CompiledPrompt) -> tuple[str, ...]:
    return tuple(_demo_line(demo) for demo in compiled.demos)


def _demo_line(demo: Demo) -> str:
    output = demo.output if isinstance(demo.output, str) else ""
    return " ".join(part for part in (demo.row or "a traced row", output) if part)


def make_task(group: Group, max_calls: int | None, *, seeds: tuple[Candidate, ...] = ()) -> tuple[Task, list[str]]:
    """What a strategy may know about ``group``, and notes on prompts without labelled demos."""
    tunable, refusals = [], []
    for prompt in group.prompts:
        labelled, refusal = _labelled(prompt, group.evidence)
        refusals += [refusal] if refusal else []
        tunable.append(
            TunablePrompt(name=prompt.name, signature=prompt.signature, source=prompt.source, labelled=labelled)
        )
    task = Task(
        prompts=tuple(tunable),
        source=Candidate({prompt.name: prompt.source for prompt in group.prompts}),
        trainset=_rows(group.evidence, "train"),
        valset=_rows(group.evidence, "val"),
        weights={one.metric.nodeid: one.metric.options.weight for one in group.evidence},
        max_calls=max_calls,
        calls_on_valset=sum(one.calls_of(example.id) for one in group.evidence for example in one.split.val),
        seeds=seeds,
    )
    return task, refusals


def _rows(evidence: Sequence[Evidence], side: str) -> tuple[Row, ...]:
    return tuple(
        Row(metric=one.metric.nodeid, id=example.id) for one in evidence for example in getattr(one.split, side)
    )


def _labelled(prompt: AnyPrompt, evidence: Sequence[Evidence]) -> tuple[tuple[Demo, ...], str | None]:
    """Demos of every metric that calls the prompt, each row once; a refusal only when no metric gave any."""
    if not prompt.signature.takes_demos:
        return (), None
    demos: dict[str, Demo] = {}
    refusals = []
    for one in evidence:
        if prompt.name not in one.prompts:
            continue
        rows = {example.id: example for example in one.split.train}
        made = labelled_demos(
            prompt.signature,
            [*rows.values()],
            labels=one.metric.options.labels or {},
            traced=[(rows[row], results[0]) for row, results in one.results.items() if row in rows],
        )
        refusals += [made.refusal] if made.refusal else []
        for demo in made.demos:
            demos.setdefault(repr(demo.as_json()), demo)
    return tuple(demos.values()), (refusals[0] if refusals and not demos else None)


def known_outcomes(evidence: Sequence[Evidence], source: Candidate) -> dict[Pair, Outcome]:
    """What the baseline run knows of the source."""
    return {
        (source, Row(metric=one.metric.nodeid, id=row)): outcome_of(one.metric, repeats)
        for one in evidence
        for row, repeats in one.results.items()
    }
