"""From a search's winner to files: is it better on sealed rows, may it be frozen, and what is then written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from pytest_promptopt.evaluation.confirmation import Confirmation, Pair, Stratum, confirm, spent_alpha
from pytest_promptopt.evaluation.outcome import RowResult
from pytest_promptopt.evaluation.split import SMALLEST_TESTSET
from pytest_promptopt.gate import Outcome, ScoredRow, judge
from pytest_promptopt.lms.client import Draw
from pytest_promptopt.optimizers.base import Optimizer
from pytest_promptopt.optimizers.driver import Found
from pytest_promptopt.prompts.base import AnyPrompt
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import Json, content_digest
from pytest_promptopt.session.anchoring import anchored
from pytest_promptopt.session.recording import draws_of
from pytest_promptopt.session.workbench import Bench, Evidence, JobError, outcome_of, run_arm
from pytest_promptopt.snapshots.baseline import Baseline, BaselineRow, dump_baseline
from pytest_promptopt.snapshots.change import Change, compare
from pytest_promptopt.snapshots.compiled import dump_frozen, freeze

if TYPE_CHECKING:
    from pytest_promptopt.session.settings import Settings

FRESH_DRAW = 1_000
"""The repeats that confirm where replies vary start here, so that the baseline's draws, from 0 on, are others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One candidate on one metric's sealed rows: the rows with a score, and the digests of the prompts that ran.

    ``draws`` are its calls of models outside the process, each with the id of its row.
    """

    rows: tuple[ScoredRow, ...]
    prompts: Mapping[str, str]
    draws: tuple[tuple[str, Draw], ...] = ()

    @property
    def mean(self) -> float:
        """The mean score."""
        return fmean(row.score for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the sealed rows say about a winner.

    ``reason`` is why it is not frozen, ``unconfirmed`` why it would not have been where it is frozen on purpose;
    ``baseline`` holds the scores that are written where it is.
    """

    is_frozen: bool
    reason: str
    winner: Mapping[str, Arm]
    incumbent: Mapping[str, Arm]
    confirmation: Confirmation | None = None
    baseline: Mapping[str, Arm] = field(default_factory=dict)
    unconfirmed: str = ""


def decide(
    bench: Bench,
    evidence: Sequence[Evidence],
    *,
    winner: Candidate,
    incumbent: Candidate,
    alpha: float,
    varies: bool,
) -> Decision:
    """Run both arms on the sealed rows of all metrics and weigh them."""
    sealed = sum(len(one.split.test) for one in evidence)
    if any(len(one.split.test) < SMALLEST_TESTSET for one in evidence):
        return Decision(is_frozen=False, reason=too_few(evidence), winner={}, incumbent={})
    first_repeat = FRESH_DRAW if varies else 0
    arms: dict[str, dict[str, Arm]] = {"winner": {}, "incumbent": {}}
    for one in evidence:
        for name, candidate in (("incumbent", incumbent), ("winner", winner)):
            results = run_arm(bench, one, one.split.test, candidate, first_repeat=first_repeat)
            arm = arm_of(one, results)
            if arm is None and name == "winner":
                return Decision(is_frozen=False, reason=raised(one, results), winner={}, incumbent=arms["incumbent"])
            if arm is None:
                raise JobError(raised(one, results))
            arms[name][one.metric.nodeid] = arm
    strata = [
        _stratum(one, arms["winner"][one.metric.nodeid], arms["incumbent"][one.metric.nodeid]) for one in evidence
    ]
    if not any(stratum.pairs for stratum in strata):
        return Decision(
            is_frozen=False, reason=f"none of the {sealed} sealed rows has a score", winner={}, incumbent={}
        )
    confirmation = confirm(strata, alpha=alpha)
    reason = _not_better(confirmation)
    if confirmation.is_better:
        reason = _veto(evidence, arms) or _failed_must_pass(bench, evidence, winner, first_repeat)
    return Decision(
        is_frozen=not reason,
        reason=reason,
        winner=arms["winner"],
        incumbent=arms["incumbent"],
        confirmation=confirmation,
        baseline=arms["winner"],
    )


def freeze_on_purpose(
    bench: Bench, evidence: Sequence[Evidence], decision: Decision, *, winner: Candidate, varies: bool
) -> Decision:
    """``decision`` as a freeze of the ``winner`` that it left unproven.

    It stays as it is, with the reason, where a must-pass row fails or a metric raises.
    """
    first_repeat = FRESH_DRAW if varies else 0
    arms = dict(decision.winner)
    for one in evidence:
        if one.metric.nodeid not in arms:
            results = run_arm(bench, one, one.split.test, winner, first_repeat=first_repeat)
            arm = arm_of(one, results)
            if arm is None:
                return replace(decision, reason=raised(one, results))
            arms[one.metric.nodeid] = arm
    refusal = _failed_must_pass(bench, evidence, winner, first_repeat)
    if refusal:
        return replace(decision, reason=refusal)
    return replace(decision, is_frozen=True, reason="", unconfirmed=decision.reason, winner=arms, baseline=arms)


def arm_of(evidence: Evidence, results: Mapping[str, Sequence[RowResult]]) -> Arm | None:
    """The arm of ``results``; ``None`` when the metric raised on a row."""
    digests = {row.id: row.digest for row in evidence.split.test}
    rows = []
    for row_id, repeats in results.items():
        outcome = outcome_of(evidence.metric, repeats)
        if outcome.is_rejected:
            return None
        if outcome.score is not None:
            rows.append(ScoredRow(id=row_id, digest=digests[row_id], score=outcome.score, group=repeats[0].group))
    calls = [call for repeats in results.values() for result in repeats for call in result.calls]
    draws = draws_of(result for repeats in results.values() for result in repeats)
    return Arm(rows=tuple(rows), prompts={call.prompt: call.digest for call in calls}, draws=tuple(draws))


def _stratum(evidence: Evidence, winner: Arm, incumbent: Arm) -> Stratum:
    """The pairs of one metric; rows with one split key, in whatever metric, are one observation."""
    before = {row.id: row.score for row in incumbent.rows}
    keys = {example.id: evidence.metric.key_of(example) for example in evidence.split.test}
    pairs = tuple(
        Pair(winner=row.score, incumbent=before[row.id], group=keys[row.id]) for row in winner.rows if row.id in before
    )
    return Stratum(metric=evidence.metric.nodeid, pairs=pairs, weight=evidence.metric.options.weight)


def too_few(evidence: Sequence[Evidence]) -> str:
    """Which metric has too few sealed rows to confirm anything, and how many more rows it needs."""
    fewest = min(evidence, key=lambda one: len(one.split.test))
    rule = fewest.metric.settings.split
    have = len(fewest.split.test)
    more = max(1, round((SMALLEST_TESTSET - have) / (1 - rule.train - rule.val)))
    return (
        f"{fewest.metric.title} has {have} sealed rows, {SMALLEST_TESTSET} are needed to confirm anything: "
        f"add about {more} rows"
    )


def raised(evidence: Evidence, results: Mapping[str, Sequence[RowResult]]) -> str:
    """On which row the metric raised, and with which words."""
    for row_id, repeats in results.items():
        outcome = outcome_of(evidence.metric, repeats)
        if outcome.is_rejected:
            return f"{evidence.metric.title} raised on row {row_id}: {outcome.feedback}"
    return f"{evidence.metric.title} raised"


def _not_better(confirmation: Confirmation) -> str:
    if confirmation.difference <= 0:
        return "not better on the sealed rows"
    halved = "" if confirmation.p > 0.2 else f" (p must reach {confirmation.alpha:.3g} by now)"
    return f"not proven better{halved}"


def _veto(evidence: Sequence[Evidence], arms: Mapping[str, Mapping[str, Arm]]) -> str:
    """Why one metric forbids a winner that is better on the whole; an empty string when none does."""
    for one in evidence:
        winner, incumbent = (arms[name][one.metric.nodeid] for name in ("winner", "incumbent"))
        if not incumbent.rows:
            continue  # it left every row out: nothing to fall from
        if not winner.rows:
            return f"{one.metric.title} leaves every sealed row out"
        options = one.metric.options
        baseline = {row.id: row for row in incumbent.rows}
        if judge(winner.rows, baseline=baseline, margin=options.margin).outcome is Outcome.FAIL:
            return f"{one.metric.title} got worse ({incumbent.mean:.3f} -> {winner.mean:.3f})"
        if options.threshold is not None and winner.mean < options.threshold <= incumbent.mean:
            return f"{one.metric.title} would fall below threshold={options.threshold} ({winner.mean:.3f})"
    return ""


def _failed_must_pass(bench: Bench, evidence: Sequence[Evidence], winner: Candidate, first_repeat: int) -> str:
    """Which must-pass row the winner fails, on whatever side it stands; an empty string for none."""
    for one in evidence:
        wanted = set(one.metric.options.must_pass)
        rows = [example for example in one.examples.values() if example.id in wanted]
        results = run_arm(bench, one, rows, winner, first_repeat=first_repeat) if rows else {}
        for row, repeats in results.items():
            outcome = outcome_of(one.metric, repeats)
            if outcome.is_rejected or (outcome.score is not None and outcome.score < 1.0):
                return f"{one.metric.title} fails on the must-pass row {row}"
    return ""


def alpha_for(winner: Candidate, evidence: Iterable[Evidence], settings: Settings) -> float:
    """The level that ``winner`` has to reach, after the distinct winners that its sealed rows have seen before."""
    before = 0
    for one in evidence:
        seen = sealed_winners(one, settings)
        before = max(before, seen.index(winner.digest) if winner.digest in seen else len(seen))
    return spent_alpha(settings.freeze_alpha, before)


def sealed_winners(evidence: Evidence, settings: Settings) -> tuple[str, ...]:
    """The digests of the winners ever confirmed on these rows; a new salt deals other rows and starts anew."""
    return _winners_by_salt(evidence.metric.baseline).get(settings.split.salt, ())


def _winners_by_salt(baseline: Baseline | None) -> dict[str, tuple[str, ...]]:
    """Salt → winners; the file marks those of other salts than its own as ``salt:digest``."""
    winners: dict[str, tuple[str, ...]] = {}
    for entry in () if baseline is None else baseline.sealed:
        salt, marked, digest = entry.rpartition(":")
        salt = salt if marked or baseline is None else baseline.salt
        winners[salt] = (*winners.get(salt, ()), digest)
    return winners


def _winners_with(evidence: Evidence, tried: Iterable[Candidate], *, salt: str, own_salt: str) -> tuple[str, ...]:
    """All winners and those just ``tried`` under ``salt``, as a file whose own salt is ``own_salt`` lists them."""
    winners = _winners_by_salt(evidence.metric.baseline)
    winners[salt] = tuple(dict.fromkeys((*winners.get(salt, ()), *(winner.digest for winner in tried))))
    return tuple(
        digest if each == own_salt else f"{each}:{digest}" for each, digests in winners.items() for digest in digests
    )


def remember_winners(evidence: Evidence, tried: Iterable[Candidate], settings: Settings) -> Change:
    """The baseline with further winners among those that its sealed rows have seen, and nothing else changed."""
    old = evidence.metric.baseline
    metric = evidence.metric
    salt = settings.split.salt
    own_salt = salt if old is None or not old.rows else old.salt  # rows stay rows of the salt that dealt them
    baseline = Baseline(
        metric=metric.owner,
        model=metric.model or "",
        reads="all" if old is None else old.reads,
        metric_digest=metric.digest if old is None else old.metric_digest,
        prompts={} if old is None else old.prompts,
        rows=() if old is None else old.rows,
        sealed=_winners_with(evidence, tried, salt=salt, own_salt=own_salt),
        salt=own_salt,
        searched=() if old is None else old.searched,
        blessings=0 if old is None else old.blessings,
        is_anchor_warned=old is not None and old.is_anchor_warned,
    )
    return compare(metric.baseline_path, dump_baseline(baseline))


def new_baseline(
    evidence: Evidence, arm: Arm, tried: Sequence[Candidate], settings: Settings, *, is_confirmed: bool = False
) -> Change:
    """The baseline of what is frozen: its scores on the sealed rows, which have now seen the winners ``tried``.

    Where all rows were left out, the old one stays. ``is_confirmed``: these rows proved it better than what stood.
    """
    if not arm.rows:
        return remember_winners(evidence, tried, settings)
    metric = evidence.metric
    salt = settings.split.salt
    baseline = Baseline(
        metric=metric.owner,
        model=metric.model or "",
        reads="sealed",
        metric_digest=metric.digest,
        prompts=dict(sorted(arm.prompts.items())),
        rows=tuple(BaselineRow(id=row.id, digest=row.digest, score=row.score, group=row.group) for row in arm.rows),
        sealed=_winners_with(evidence, tried, salt=salt, own_salt=salt),
        salt=salt,
        searched=tuple(example.id for example in evidence.split.searchable),
    )
    held = anchored(baseline, metric.baseline, is_confirmed=is_confirmed)
    return compare(metric.baseline_path, dump_baseline(held.baseline))


def snapshot_texts(
    prompts: Sequence[AnyPrompt], models: Mapping[str, str], winner: Candidate, provenance: Mapping[str, Json]
) -> dict[Path, str | None]:
    """Each prompt's snapshot file and its text under the winner; ``None`` for a prompt that it leaves at its source."""
    texts: dict[Path, str | None] = {}
    for prompt in prompts:
        model = models[prompt.name]
        compiled = winner[prompt.name]
        frozen = freeze(
            prompt=prompt.name,
            model=model,
            signature_digest=prompt.signature.digest,
            source_digest=prompt.signature.source_digest,
            compiled=compiled,
            provenance=provenance,
        )
        texts[prompt.home.snapshot_path(model)] = None if compiled == prompt.source else dump_frozen(frozen)
    return texts


def provenance_of(
    *,
    settings: Settings,
    optimizer: Optimizer,
    found: Found,
    decision: Decision,
    evidence: Sequence[Evidence],
    parent: str,
    calls: int,
    tried: Sequence[str] = (),
    taken_from: Sequence[str] = (),
) -> dict[str, Json]:
    """Where a compiled prompt comes from; the same whenever the same search is run again, whatever was cached.

    One that is not proven better says so first, and why. ``tried`` are the other models whose winners were scored too,
    ``taken_from`` those of them that found this one.
    """
    rows = sorted(example.digest for one in evidence for example in one.examples.values())
    unproven = decision.unconfirmed or decision.reason
    record: dict[str, Json] = {"unconfirmed": True, "reason": unproven} if unproven else {}
    record |= {"optimizer": settings.optimizer, "seed": settings.seed, "calls": calls}
    if settings.proposer:
        record["proposer"] = settings.proposer
    if settings.has_own_budget and settings.budget is not None:
        record["budget"] = settings.budget
    record |= {name: [*models] for name, models in (("tried", tried), ("taken_from", taken_from)) if models}
    record |= {
        "parent": parent,
        "dataset": content_digest(list(rows)),
        "split": str(settings.split),
        "settings": plain_settings(optimizer),
        "selection": {
            "rows": found.rows,
            "start": round(found.source_score, 4),
            "optimistic": round(found.score, 4),
        },
    }
    return record if decision.confirmation is None else {**record, "confirmation": _figures(decision, evidence)}


def _figures(decision: Decision, evidence: Sequence[Evidence]) -> dict[str, Json]:
    confirmation = decision.confirmation
    assert confirmation is not None
    return {
        "metrics": [one.metric.owner for one in evidence],
        "rows": sum(len(arm.rows) for arm in decision.winner.values()),
        "before": round(confirmation.incumbent, 4),
        "after": round(confirmation.winner, 4),
        "difference": round(confirmation.difference, 4),
        "interval_90": [round(confirmation.interval.low, 4), round(confirmation.interval.high, 4)],
        "p": float(f"{confirmation.p:.4g}"),
        "alpha": confirmation.alpha,
    }


def plain_settings(optimizer: Optimizer) -> dict[str, Json]:
    """A strategy's settings by dotted name, nested strategies included."""
    plain: dict[str, Json] = {}

    def flatten(values: Mapping[str, object], prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, Mapping):
                flatten(value, f"{prefix}{name}.")
            elif isinstance(value, bool | int | float | str):
                plain[f"{prefix}{name}"] = value

    flatten(asdict(optimizer), "")  # type: ignore[call-overload]  # strategies are frozen dataclasses
    return plain
