"""``--prompt-fulfil FILE``: trusted code answers the requests that a replay missed, and records the replies.

The file may come from a stranger, so nothing of it is believed. A request is answered when a prompt of this checkout
makes the same messages of its inputs, for a metric and a model of this checkout; whatever else it asks is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

from pytest_promptopt.errors import BudgetExhausted, PromptOptError
from pytest_promptopt.evaluation.loop import run_in_threads
from pytest_promptopt.lms.base import Request
from pytest_promptopt.lms.client import Draw
from pytest_promptopt.prompts.base import AnyPrompt
from pytest_promptopt.prompts.registry import prompts_by_name
from pytest_promptopt.reports.words import harmless
from pytest_promptopt.session.metric_item import MetricItem, from_root
from pytest_promptopt.session.missing import Missing, read_missing
from pytest_promptopt.session.misuse import usage_errors
from pytest_promptopt.session.recording import recordings_of
from pytest_promptopt.snapshots.change import ChangeKind
from pytest_promptopt.snapshots.recordings import compare_recordings

if TYPE_CHECKING:
    from pytest_promptopt.session.run import Run

_NOT_WITH = {
    "prompt_lm": "--prompt-lm",
    "optimize_prompts": "--optimize-prompts",
    "prompt_bless": "--prompt-bless",
    "prompt_dry_run": "--prompt-dry-run",
}


def refuse_misuse(config: pytest.Config) -> None:
    """It answers and records, and runs no test: what asks for something else does not go with it."""
    for option, flag in _NOT_WITH.items():
        if config.getoption(option):
            raise pytest.UsageError(f"--prompt-fulfil answers requests and records them; leave out {flag}")


MOST_NAMED = 20
"""A file of a stranger's fills no log: so many of its lines are named."""

MOST_ORDINALS = 20
"""How often one row may ask the same request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request that is to be answered: from which line of the file, and for which metric."""

    line: int
    missing: Missing
    metric: MetricItem
    request: Request

    @property
    def is_recorded(self) -> bool:
        """Whether its metric has a reply to it, which no stranger's wish replaces."""
        return self.missing.key in self.metric.recordings

    @property
    def former_key(self) -> str | None:
        """The key of the same request the time before, which a row asks first; ``None`` for the first time."""
        head, _, ordinal = self.missing.key.rpartition("-")
        return f"{head}-{int(ordinal) - 1}" if int(ordinal) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A line that is not answered, and why."""

    line: int
    reason: str


Answer: TypeAlias = "Draw | str"
"""The answered call, or why there is no answer."""


class FulfilHooks:
    """The hooks of a session that answers requests, registered for it alone."""

    def __init__(self, run: Run, path: Path, note: str | None = None) -> None:
        self.run = run
        self.path = path
        self.note = note
        self.lines: list[str] = []
        self.is_complete = False

    def pytest_report_header(self) -> list[str]:
        """Say what was switched off."""
        return [self.note] if self.note else []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Collecting has shown which metrics and prompts there are; none of the tests runs."""
        config.hook.pytest_deselected(items=list(items))
        items.clear()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Answer instead of running; what could not be collected is pytest's own business."""
        option = session.config.option
        if option.collectonly or (session.testsfailed and not option.continue_on_collection_errors):
            return None
        with usage_errors():
            self._fulfil()
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Success is that every request is answered and recorded."""
        if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and self.lines:
            session.exitstatus = pytest.ExitCode.OK if self.is_complete else pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """What was answered, recorded and refused."""
        if self.lines:
            terminalreporter.section("missing replies")
            for line in self.lines:
                terminalreporter.write_line(harmless(line))

    def _fulfil(self) -> None:
        asked, refusals = read_orders(self.run, self.path)
        orders = [order for order in asked if not order.is_recorded]
        answers = answer(self.run, orders)
        failures = [
            Refusal(line=order.line, reason=said)
            for order, said in zip(orders, answers, strict=True)
            if isinstance(said, str)
        ]
        draws = [(order, said) for order, said in zip(orders, answers, strict=True) if isinstance(said, Draw)]
        written = record(self.run, draws)
        self.is_complete = not refusals and not failures
        self.lines = [
            self._totals(len(draws), len(orders) + len(refusals)),
            *self._recorded_before(len(asked) - len(orders)),
            *(f"recorded: {path}" for path in written),
            *self._named("refused", refusals),
            *self._named("not answered", failures),
        ]

    def _recorded_before(self, count: int) -> list[str]:
        requests = "1 request is" if count == 1 else f"{count} requests are"
        return [f"{requests} recorded already, and left as recorded"] if count else []

    def _named(self, what: str, refusals: Sequence[Refusal]) -> list[str]:
        lines = [f"{what}: {self.path.name}:{each.line}: {each.reason}" for each in refusals[:MOST_NAMED]]
        more = len(refusals) - len(lines)
        return [*lines, f"{what}: and {more} more"] if more else lines

    def _totals(self, answered: int, count: int) -> str:
        if not count:
            return f"nothing to answer in {self.path.name}"
        spent = self.run.client.counters
        cost = "cost unknown" if spent.has_unknown_cost else f"${spent.cost_usd:.4f}"
        requests = "1 request" if count == 1 else f"{count} requests"
        return f"{answered} of {requests} answered: {spent.replayed} from the store, {spent.attempts} called, {cost}"


def read_orders(run: Run, path: Path) -> tuple[list[Order], list[Refusal]]:
    """The requests in ``path`` that may be answered, and the lines that may not."""
    metrics = {item.recordings_file: item for item in run.metrics}
    prompts = prompts_by_name(run.settings.rootdir)
    orders: list[Order] = []
    refusals: list[Refusal] = []
    for line, missing in read_missing(path).items():
        order = missing if isinstance(missing, str) else _order(run, line, missing, metrics, prompts)
        if isinstance(order, str):
            refusals.append(Refusal(line=line, reason=order))
        else:
            orders.append(order)
    admitted, unasked = _in_sequence(orders)
    return admitted, sorted([*refusals, *unasked], key=lambda refusal: refusal.line)


def _in_sequence(orders: Iterable[Order]) -> tuple[list[Order], list[Refusal]]:
    """The orders that a row can come to: who asks a second time has asked before."""
    admitted: list[Order] = []
    refusals: list[Refusal] = []
    asked: set[tuple[str, str]] = set()
    for order in sorted(orders, key=lambda order: order.missing.ordinal):
        former, file = order.former_key, order.missing.file
        if former is None or former in order.metric.recordings or (file, former) in asked:
            asked.add((file, order.missing.key))
            admitted.append(order)
        else:
            reason = "it asks the same request again, and the time before is neither recorded nor asked for"
            refusals.append(Refusal(line=order.line, reason=reason))
    return sorted(admitted, key=lambda order: order.line), refusals


def _order(
    run: Run, line: int, missing: Missing, metrics: Mapping[str, MetricItem], prompts: Mapping[str, AnyPrompt]
) -> Order | str:
    metric, prompt = metrics.get(missing.file), prompts.get(missing.prompt)
    if metric is None:
        return f"no metric here has its recordings in {missing.file!r}"
    if prompt is None:
        return f"no prompt here is called {missing.prompt!r}"
    if missing.repeat >= metric.options.repeats:
        return f"{metric.title} has {metric.options.repeats} repeats, and this is number {missing.repeat}, from 0"
    if missing.ordinal >= MOST_ORDINALS:
        return f"it asks one request more than {MOST_ORDINALS} times"
    if missing.model not in _models(run, metric, prompt):
        return f"{prompt.name} is not run on {missing.model!r} here"
    request = _request(run, missing, prompt)
    return request if isinstance(request, str) else Order(line=line, missing=missing, metric=metric, request=request)


def _models(run: Run, metric: MetricItem, prompt: AnyPrompt) -> set[str]:
    """The models that ``prompt`` may be sent to for ``metric``, by their names here."""
    named = {prompt.model} if prompt.model else {metric.model, *run.named_models}
    return {model for model in named if model and not run.is_offline(model)}


def _request(run: Run, missing: Missing, prompt: AnyPrompt) -> Request | str:
    """The request that ``prompt`` makes of the inputs, where it is the very one that was missed."""
    try:
        made = prompt.request_for(missing.model, missing.inputs, repeat=missing.repeat, ordinal=missing.ordinal)
    except Exception as error:  # noqa: BLE001 - a template may raise anything when a stranger fills it in
        return f"{prompt.name} cannot be filled in with its inputs: {type(error).__name__}"
    if [dict(message) for message in made.messages] != [dict(message) for message in missing.messages]:
        return f"{prompt.name} sends other messages for its inputs: its text differs here, or they hold a secret"
    if run.client.identify(made)[1] != missing.key:
        return f"{prompt.name} sends another request here: its settings or its model's differ"
    return made


def answer(run: Run, orders: Sequence[Order]) -> list[Answer]:
    """The calls of ``orders``, in their order, as far as the ceilings let them be made."""
    return run_in_threads(orders, partial(_ask, run), concurrency=run.settings.concurrency)


def _ask(run: Run, order: Order) -> Answer:
    request, key = run.client.identify(order.request)
    try:
        reply = run.client.complete(order.request)
    except (PromptOptError, BudgetExhausted) as error:
        return str(error)
    return Draw(key=key, model=order.request.model, request=request, reply=reply)


def record(run: Run, draws: Iterable[tuple[Order, Draw]]) -> list[str]:
    """Add the replies to the recordings of their metrics; gives the files that changed, from rootdir."""
    by_metric: dict[str, list[tuple[Order, Draw]]] = {}
    for order, draw in draws:
        by_metric.setdefault(order.missing.file, []).append((order, draw))
    changes = []
    for mine in by_metric.values():
        metric = mine[0][0].metric
        found = recordings_of([(order.missing.row, draw) for order, draw in mine], run.redactor)
        changes.append(compare_recordings(metric.recordings_path, found, metric=metric.owner, is_whole=False))
    run.write(changes)
    changed = (change.path for change in changes if change.kind is not ChangeKind.UNCHANGED)
    return [from_root(path, run.settings.rootdir) for path in changed]
