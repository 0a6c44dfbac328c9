"""A metric under edits: a row runs as it is and edited, and scores what survives; a flip is told by its smallest edit.

Which edits count is fixed before the first of them runs, so a row's score is the same in a plain run, in a search and
in a replay. Only a plain run goes on to look for the smallest edit behind a flip: that explains a score, moves none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, TypeAlias

from pytest_promptopt.errors import BudgetExhausted, UsageError
from pytest_promptopt.evaluation.dataset import Example
from pytest_promptopt.evaluation.metric import Metric, Trial
from pytest_promptopt.evaluation.outcome import Judgement, RowResult, Status
from pytest_promptopt.evaluation.perturbations import (
    KINDS,
    Edit,
    Flip,
    Survival,
    Variant,
    apply,
    sample_variants,
    smaller_edits,
)
from pytest_promptopt.evaluation.split import LABEL_ALIASES
from pytest_promptopt.lms.store import prepare_folder
from pytest_promptopt.prompts.compiled import Json
from pytest_promptopt.prompts.registry import prompts_named
from pytest_promptopt.reports.records import MetricReport
from pytest_promptopt.session.blessing import matches
from pytest_promptopt.session.kept import write_whole
from pytest_promptopt.session.metric_item import MetricItem, ReadRows

if TYPE_CHECKING:
    from pytest_promptopt.session.run import Run

FOLDER = "perturbed"
SHOWN_OUTPUT = 24

Fields: TypeAlias = Callable[[Example, RowResult], Mapping[str, str]]
Steps: TypeAlias = Generator[Trial, RowResult, RowResult]
"""Yields what to run next, is sent what came of it or thrown what ended the run, and returns the result of the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerturbedMetric:
    """Runs ``metric`` on each row and on up to ``budget`` edits of it, ``sampled`` of which count for the score.

    ``fields_of`` tells from a row and its result which of its texts may be edited. For a candidate no edit beyond the
    sampled ones is tried: whoever evaluates it asks for a score.
    """

    metric: Metric
    kinds: Sequence[str]
    sampled: int
    budget: int
    seed: int
    fields_of: Fields

    def run(self, trial: Trial) -> RowResult:
        """One row and its edits, one after the other in this thread."""
        steps = self._steps(trial)
        try:
            step = next(steps)
            while True:
                try:
                    result = self.metric.run(step)
                except BudgetExhausted as spent:
                    step = steps.throw(spent)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return _result_of(end)

    async def arun(self, trial: Trial) -> RowResult:
        """The same in this task."""
        steps = self._steps(trial)
        try:
            step = next(steps)
            while True:
                try:
                    result = await self.metric.arun(step)
                except BudgetExhausted as spent:
                    step = steps.throw(spent)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return _result_of(end)

    def timed_out(self, trial: Trial, seconds: float) -> RowResult:
        """The result of a row that took too long, its edits included."""
        return self.metric.timed_out(trial, seconds)

    def _steps(self, trial: Trial) -> Steps:
        original = yield trial
        status = original.judgement.status
        if status in (Status.ERROR, Status.SKIPPED):
            return original
        texts = self.fields_of(trial.example, original)
        variants = sample_variants(texts, self.kinds, count=self.sampled, seed=self.seed)
        runs = _Runs(original=original, trial=trial, texts=texts)
        for variant in variants:
            result = yield from runs.run(variant)
            if result.judgement.status is Status.ERROR:
                return runs.broken(variant, result)
        if runs.unrecorded is not None:
            return runs.joined(runs.unrecorded.judgement, exception=runs.unrecorded.exception)
        if runs.is_unedited:
            return runs.joined(original.judgement, exception=original.exception)
        flip = yield from self._smallest(runs)
        return runs.judged(flip)

    def _smallest(self, runs: _Runs) -> Generator[Trial, RowResult, tuple[Variant, RowResult] | None]:
        """The flip that changes least, made smaller by what the budget has left; ``None`` where nothing flips."""
        flipped = runs.flipped
        if not flipped:
            return None
        best = min(flipped, key=lambda flip: len(flip[0].edits))
        left = 0 if runs.trial.candidate else self.budget - len(runs.results)
        guesses = smaller_edits(best[0].edits)
        guess = next(guesses, None)
        while guess is not None:
            smaller = replace(best[0], edits=guess)
            if not runs.knows(smaller):
                if left <= 0:
                    break
                left -= 1
            try:
                result = yield from runs.explain(smaller)
            except BudgetExhausted:  # the score is known: only its explanation stays as long as it is
                break
            if result.judgement.score is None:
                break
            is_flip = runs.is_flip(result)
            best = (smaller, result) if is_flip else best
            guess = _answered(guesses, is_flip)
        return best


def _answered(guesses: Generator[tuple[Edit, ...], bool, None], answer: bool) -> tuple[Edit, ...] | None:
    try:
        return guesses.send(answer)
    except StopIteration:
        return None


def _result_of(end: StopIteration) -> RowResult:
    result: RowResult = end.value
    return result


@dataclass(slots=True, kw_only=True)
class _Runs:
    """One row's runs: as it is, edited as sampled, and edited to find the smallest flip."""

    original: RowResult
    trial: Trial
    texts: Mapping[str, str]
    results: dict[Variant, RowResult] = field(default_factory=dict)
    explaining: dict[Variant, RowResult] = field(default_factory=dict)

    def run(self, variant: Variant) -> Steps:
        """Run the row edited as ``variant`` says; what comes of it counts."""
        self.results[variant] = yield replace(self.trial, example=self._edited(variant))
        return self.results[variant]

    def explain(self, variant: Variant) -> Steps:
        """The same for an edit that moves no score; one that ran before is not run again."""
        if not self.knows(variant):
            self.explaining[variant] = yield replace(self.trial, example=self._edited(variant))
        return self.results.get(variant) or self.explaining[variant]

    def knows(self, variant: Variant) -> bool:
        """Whether that edit ran already."""
        return variant in self.results or variant in self.explaining

    def _edited(self, variant: Variant) -> Example:
        return self.trial.example.with_fields({variant.field: self.text_of(variant)})

    def text_of(self, variant: Variant) -> str:
        """The field's text, edited."""
        return apply(self.texts[variant.field], variant.edits)

    def is_flip(self, result: RowResult) -> bool:
        """Whether an edited row scores less than the row as it is; an error or a row left out is no score."""
        before, after = self.original.judgement.score, result.judgement.score
        return before is not None and after is not None and after < before

    @property
    def flipped(self) -> list[tuple[Variant, RowResult]]:
        """The edits that cost the row its score."""
        return [(variant, result) for variant, result in self.results.items() if self.is_flip(result)]

    @property
    def unrecorded(self) -> RowResult | None:
        """A run that misses a reply, the row's own first."""
        runs = (self.original, *self.results.values())
        return next((result for result in runs if result.judgement.status is Status.UNRECORDED), None)

    @property
    def is_unedited(self) -> bool:
        """Whether there was nothing to edit, or the test left every edited row out."""
        return all(result.judgement.score is None for result in self.results.values())

    def broken(self, variant: Variant, result: RowResult) -> RowResult:
        """The row's result where one of its edits raised: no score."""
        words = f"{variant.words}: {result.judgement.feedback}"
        is_fault = result.judgement.is_provider_fault  # reports know a provider's faults by how they begin
        judgement = result.judgement if is_fault else replace(result.judgement, feedback=words)
        return self.joined(judgement, exception=result.exception)

    def judged(self, smallest: tuple[Variant, RowResult] | None) -> RowResult:
        """The row's result: the mean over the row as it is and its edits, and why it is not better."""
        own = self.original.judgement.score or 0.0
        edited = [result.judgement.score for result in self.results.values() if result.judgement.score is not None]
        score = fmean([own, *edited])
        is_unreadable = self.original.judgement.status is Status.FORMAT
        status = Status.FORMAT if is_unreadable else Status.GRADED
        if smallest is None:
            judgement = replace(self.original.judgement, status=status, score=score)
            return self.joined(judgement, exception=self.original.exception)
        variant, result = smallest
        flip = Flip(
            field=variant.field,
            kind=variant.kind,
            words=variant.words,
            turn=_turn(self.original, result),
            text=self.text_of(variant),
        )
        count = f"{len(self.flipped)} of {len(edited)} edits flip it"
        feedback = "\n".join(filter(None, [f"{flip.words} {flip.turn}; {count}", result.judgement.feedback]))
        judgement = Judgement(status=status, score=score, feedback=feedback)
        return self.joined(judgement, exception=result.exception, flip=flip)

    def joined(self, judgement: Judgement, *, exception: BaseException | None, flip: Flip | None = None) -> RowResult:
        """One result for all runs of the row. A reply that only an explanation misses is not missed."""
        counted, more = (*self.results.values(),), (*self.explaining.values(),)
        calls = [call for result in (*counted, *more) for call in result.calls]
        draws = [draw for result in counted for draw in result.draws]
        draws += [draw for result in more for draw in result.draws if draw.reply is not None]
        return replace(
            self.original,
            judgement=judgement,
            exception=exception,
            calls=(*self.original.calls, *calls),
            fresh_calls=self.original.fresh_calls + sum(result.fresh_calls for result in (*counted, *more)),
            draws=(*self.original.draws, *draws),
            survival=Survival(edits=len(counted), flipped=len(self.flipped), calls=len(calls), flip=flip),
        )


def _turn(before: RowResult, after: RowResult) -> str:
    """What an edit did to the row: the first answer that came out otherwise, where it is short enough to tell."""
    if after.judgement.status is Status.FORMAT:
        return "makes the reply unreadable"
    pairs = zip(before.calls, after.calls, strict=False)
    changed = next(((old.output, new.output) for old, new in pairs if old.output != new.output), None)
    shown = [] if changed is None else [_shown(output) for output in changed]
    if len(shown) == 2 and all(0 < len(one) <= SHOWN_OUTPUT for one in shown):
        return f"turns {shown[0]} into {shown[1]}"
    return "makes it fail" if after.judgement.score == 0 else f"takes it to {after.judgement.score:.2f}"


def _shown(output: Json) -> str:
    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


# --- which texts of a row are edited ----------------------------------------------------------------------------------


def perturbed(metric: Metric, item: MetricItem) -> PerturbedMetric:
    """``metric`` under the edits that the marker of ``item`` asks for."""
    options = item.options
    labels = (options.labels or {}).values()
    left_out = {"id", "split", *LABEL_ALIASES, *labels, *([options.group] if options.group else [])}
    return PerturbedMetric(
        metric=metric,
        kinds=[kind for kind in KINDS if kind in options.perturb],
        sampled=options.sampled_edits,
        budget=options.perturb_budget,
        seed=item.settings.seed,
        fields_of=partial(_fed_texts, left_out=left_out, patterns=options.prompts),
    )


def _fed_texts(
    example: Example, result: RowResult, *, left_out: Collection[str], patterns: Sequence[str] | None
) -> dict[str, str]:
    """The texts of ``example`` that reached a prompt under test: equal to an input of it, or several words in one.

    One word of a row may stand in an input by chance: as a label does that is also said in the question.
    """
    inputs = list(_texts_in([inputs for name, inputs in _asked(result) if _is_under_test(name, patterns)]))
    texts = {name: value for name, value in example.items() if isinstance(value, str) and name not in left_out}
    return {
        name: text
        for name, text in texts.items()
        if text.strip() and (text in inputs or (len(text.split()) > 1 and any(text in one for one in inputs)))
    }


def _asked(result: RowResult) -> Iterator[tuple[str, object]]:
    """Prompt and inputs of every call of a row, of one that was not recorded too."""
    yield from ((call.prompt, call.inputs) for call in result.calls)
    yield from ((draw.request.prompt, draw.request.inputs) for draw in result.draws if draw.reply is None)


def _is_under_test(name: str, patterns: Sequence[str] | None) -> bool:
    """Whether a prompt is one that the metric measures: a judge reads the right answer too, which nobody edits."""
    if patterns is not None:
        return matches(name, patterns)
    return any(prompt.is_optimized for prompt in prompts_named(name))


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for item in value.values() for text in _texts_in(item))
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        yield from (text for item in value for text in _texts_in(item))


# --- flips as rows ----------------------------------------------------------------------------------------------------


def keep_flips(
    run: Run, item: MetricItem, read: ReadRows, results: Sequence[RowResult], report: MetricReport
) -> MetricReport:
    """Write the edited rows that lost into the store's folder, ready to be appended to the dataset; ``report`` says so.

    The file of the last run is replaced, or goes when nothing flips. Where it cannot be written, the report says why.
    """
    path = run.settings.store / FOLDER / f"{item.baseline_path.stem}.jsonl"
    rows = [*_flipped_rows(item, read, results)]
    try:
        _write_rows(run, path, run.redactor.redact_json(rows))
    except (OSError, UsageError) as error:
        note = f"{item.name}: the rows that flipped are not kept in {path}: {error}"
        return replace(report, notes=(*report.notes, note))
    is_inside = path.is_relative_to(run.settings.rootdir)
    place = path.relative_to(run.settings.rootdir).as_posix() if is_inside else str(path)
    return replace(report, flips_path=place if rows else "")


def _write_rows(run: Run, path: Path, rows: Sequence[Mapping[str, Json]]) -> None:
    if not rows:
        path.unlink(missing_ok=True)
        return
    prepare_folder(run.settings.store)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_whole(path, "".join(f"{_line(row)}\n" for row in rows))


def _line(row: Mapping[str, Json]) -> str:
    text = json.dumps(row, ensure_ascii=False)
    return json.dumps(row) if any("\ud800" <= sign <= "\udfff" for sign in text) else text  # half a pair fits no file


def _flipped_rows(item: MetricItem, read: ReadRows, results: Sequence[RowResult]) -> Iterator[dict[str, Json]]:
    """The rows with their smallest flip made, without those that the dataset has already."""
    flips: dict[str, Flip] = {}
    for result in results:
        if result.survival is not None and result.survival.flip is not None:
            flips.setdefault(result.id, result.survival.flip)
    examples = item.examples() if flips else ()
    sides = _sides(examples, item, read) if flips else {}
    known = {example.id for example in examples}
    for example in examples:
        if example.id in flips:
            row = _edited_row(example, flips[example.id], item.options.group, sides.get(example.id, "test"))
            if row["id"] not in known:
                yield row


def _sides(examples: Sequence[Example], item: MetricItem, read: ReadRows) -> dict[str, str]:
    """Row id → the side that it is on."""
    split = item.split(examples)
    sides = {example.id: side for side in ("val", "train") for example in getattr(split, side)}
    is_sealed = item.baseline is not None and item.baseline.reads == "sealed"
    return sides | {example.id: "test" for example in (read.deciding if is_sealed else ())}


def _edited_row(example: Example, flip: Flip, group: str | None, side: str) -> dict[str, Json]:
    """A row like ``example`` with the edited text. It stays on the side of the row that it resembles.

    A search that learned from a near copy of a sealed row would be confirmed by what it has seen.
    """
    digest = sha256(flip.text.encode("utf-8", "surrogatepass")).hexdigest()[:4]
    row = {**example.as_json(), flip.field: flip.text, "id": f"{example.id}-{flip.kind}-{digest}"}
    if "split" in row or (group is not None and row.get(group) is not None):
        return row
    return {**row, "split": side}
