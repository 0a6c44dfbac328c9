"""One session's run: its settings, the client that all prompts share, and the metrics that were collected."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from threading import RLock

import pytest

from pytest_promptopt.errors import PromptOptError, UsageError
from pytest_promptopt.gate import session_alpha
from pytest_promptopt.lms.base import LM, AsyncLM
from pytest_promptopt.lms.ceiling import Ceiling
from pytest_promptopt.lms.client import Client, Counters, Mode
from pytest_promptopt.lms.prices import find_price, most_output_tokens
from pytest_promptopt.lms.redaction import Redactor, secrets_in
from pytest_promptopt.lms.registry import Registry
from pytest_promptopt.lms.store import Store
from pytest_promptopt.optimizers.base import Optimizer
from pytest_promptopt.prompts.registry import registered_prompts
from pytest_promptopt.prompts.runtime import Runtime, Shelf
from pytest_promptopt.reports import terminal
from pytest_promptopt.reports.records import JobReport, MetricReport, Spending, from_json, to_json
from pytest_promptopt.session import orphans
from pytest_promptopt.session.events import EventStream
from pytest_promptopt.session.metric_item import MetricItem
from pytest_promptopt.session.misuse import usage_errors
from pytest_promptopt.session.recording import MetricUse
from pytest_promptopt.session.settings import Settings, read_settings
from pytest_promptopt.snapshots.change import Change, apply

REPORT = pytest.StashKey[MetricReport]()
USE = pytest.StashKey[MetricUse]()
ITEM = pytest.StashKey[MetricItem]()


class Run:
    """What one pytest process knows about prompts. Everything is made when it is first asked for."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.settings: Settings = read_settings(config)
        self.metrics: list[MetricItem] = []
        self.reports: dict[str, MetricReport] = {}
        self.uses: dict[str, MetricUse] = {}
        self.jobs: list[JobReport] = []
        self.orphans: list[str] = []
        self.strict_findings: list[str] = []
        self.closing_lines: list[str] = []
        self.written: list[str] = []
        self.alpha = session_alpha(1)
        self.counted = Counters()
        self.unreported = Spending()
        self.optimizer: Optimizer | None = None
        self.events = EventStream(config)
        self._registry = Registry(self.settings.catalog, environ=os.environ)
        self._lms: dict[str, LM | AsyncLM] = {}
        self._finding = RLock()  # a hook may ask for another model

    @cached_property
    def ceiling(self) -> Ceiling:
        """The ceiling on provider attempts and money for the whole run.

        Nobody need name a budget: the default one is there for whatever model outside the process is called, also one
        that only a prompt or the code under test names.
        """
        return Ceiling(max_calls=self.settings.budget, max_cost_usd=self.settings.max_cost_usd)

    @property
    def max_calls(self) -> int | None:
        """The ceiling on calls, ``None`` where only simulators are called and nobody has named one."""
        settings = self.settings
        return settings.budget if settings.has_own_budget or not self.is_offline_alone else None

    @cached_property
    def client(self) -> Client:
        """The one way to a model, which a dry run closes."""
        settings = self.settings
        return Client(
            lm_for=_refuse_calling if settings.is_dry_run else self.find_lm,
            models=settings.catalog,
            store=None if settings.is_dry_run else Store(settings.store),
            ceiling=self.ceiling,
            mode=settings.mode,
            max_concurrency=settings.concurrency,
            counts_offline=settings.has_own_budget,
            price_of=find_price,
            most_output_tokens=most_output_tokens,
            redact=lambda text: self.redactor.redact(text),
        )

    @cached_property
    def redactor(self) -> Redactor:
        """Hides keys, tokens and passwords in whatever is written, and what the project's own hook finds."""
        hook = self.config.hook.pytest_promptopt_redact

        def further(text: str) -> list[str]:
            return [part for parts in hook(config=self.config, text=text) for part in parts]

        secrets = secrets_in(os.environ, self.settings.catalog, self.named_models)
        return Redactor(secrets, further=further if hook.get_hookimpls() else None)

    @cached_property
    def runtime(self) -> Runtime:
        """What prompts run as in this session."""
        settings = self.settings
        return Runtime(
            client=self.client,
            shelf=Shelf(),
            command_line_model=settings.models[0] if settings.models else None,
            environment_model=settings.environment_model,
            ini_model=settings.ini_model,
        )

    def write(self, changes: Iterable[Change]) -> list[Path]:
        """Apply ``changes`` to files that people review; gives the paths that were touched.

        Raises ``UsageError``, with every file as it was, where one would hold a key: hidden in a demo, say, it would be
        another demo than the one that was tried.
        """
        wanted = list(changes)
        for change in wanted:
            if change.after is not None and self.redactor.holds_secret(change.after):
                raise UsageError(
                    f"{change.path}: not written, because it would hold the value of an environment variable that is "
                    "named like a key, a token or a password. Take it out of the rows, or out of the environment, and "
                    "run again: every reply is kept"
                )
        return apply(wanted)

    @property
    def is_offline_alone(self) -> bool:
        """Whether every model that this session and its prompts name answers inside the process."""
        models = self.named_models
        return bool(models) and all(self.is_offline(model) for model in models)

    @property
    def named_models(self) -> list[str]:
        """The models of the session, the proposer, and those that imported prompts are pinned to."""
        settings = self.settings
        named = [*(settings.models or (settings.default_model,)), settings.proposer]
        pinned = [prompt.model for prompt in registered_prompts(settings.rootdir)]
        return list(dict.fromkeys(model for model in (*named, *pinned) if model))

    @cached_property
    def extra_optimizers(self) -> dict[str, str]:
        """Strategies that other packages and conftests offer: name → ``"module:attribute"``."""
        offered = self.config.hook.pytest_promptopt_optimizers(config=self.config)
        return {name: address for strategies in offered for name, address in strategies.items()}

    def is_offline(self, model: str) -> bool:
        """Whether ``model`` answers inside this process."""
        if self.settings.catalog.find(model).provider == "offline":
            return True
        try:
            return bool(getattr(self.find_lm(model), "is_offline", False))
        except Exception:  # noqa: BLE001 - a hook may raise anything; whoever calls the model will say so
            return False

    def find_lm(self, model: str) -> LM | AsyncLM:
        """The model's object: a hook's, else the registry's. Raises ``ModelError`` for an unknown one."""
        lm = self._lms.get(model)
        if lm is None:
            with self._finding:  # rows of one metric ask at the same time
                lm = self._lms.get(model)
                if lm is None:
                    lm = self._lms[model] = self._make_lm(model)
        return lm

    def _make_lm(self, model: str) -> LM | AsyncLM:
        given: LM | AsyncLM | None = self.config.hook.pytest_promptopt_make_lm(config=self.config, model=model)
        return given if given is not None else self._registry.lm_for(model)

    def note_collected(self, items: Iterable[pytest.Item]) -> None:
        """Remember every metric before anything is deselected, and fix the gate's level by how many changed."""
        for item in items:
            if isinstance(item, pytest.Function) and item.get_closest_marker("prompt_metric"):
                metric = MetricItem.of(item, self.settings)
                item.stash[ITEM] = metric
                self.metrics.append(metric)
        with usage_errors():
            self.alpha = session_alpha(self._count_changed())

    def metric_of(self, item: pytest.Item) -> MetricItem:
        """The metric that ``item`` is."""
        metric = item.stash.get(ITEM, None)
        if metric is None:
            assert isinstance(item, pytest.Function)
            metric = item.stash[ITEM] = MetricItem.of(item, self.settings)
        return metric

    def _count_changed(self) -> int:
        """How many collected metrics may score otherwise than their baseline says; under ``live`` all of them may."""
        if self.settings.mode in (Mode.LIVE, Mode.RERECORD):
            return len(self.metrics)
        standing = {model: self.standing_digests(model) for model in {metric.model for metric in self.metrics}}
        return sum(metric.has_changed(standing[metric.model]) for metric in self.metrics)

    def standing_digests(self, model: str | None) -> dict[str, str]:
        """Prompt name → digest of what stands for it on ``model``; an empty one for a file that cannot be read."""
        digests: dict[str, str] = {}
        for prompt in registered_prompts():
            own = prompt.model or model
            try:
                digest = (prompt.find_snapshot(self.runtime, own).compiled if own else prompt.source).digest
            except PromptOptError:
                digest = ""
            digests[prompt.name] = "" if prompt.name in digests else digest  # of two by one name, nobody knows which
        return digests

    def collection_finished(self, session: pytest.Session) -> None:
        """Look for orphans where all metrics were collected and kept: a part of the suite cannot tell."""
        kept = {item.nodeid for item in session.items}
        is_whole = orphans.is_whole_suite(self.config)
        if is_whole and self.metrics and all(metric.nodeid in kept for metric in self.metrics):
            self.orphans = orphans.find(self.metrics, self.settings.rootdir)

    def hear(self, figures: object) -> None:
        """Keep what one metric reported; a test that is run again replaces its own."""
        report = from_json(MetricReport, figures)
        self.reports[report.nodeid] = report
        if not hasattr(self.config, "workerinput"):
            self.config.hook.pytest_promptopt_metric_finished(config=self.config, report=report)

    def hear_use(self, use: object) -> None:
        """Keep what one metric used of models outside the process; a test that is run again replaces its own."""
        assert isinstance(use, dict)
        heard = MetricUse.from_json(use)
        self.uses[heard.nodeid] = heard

    def take_spending(self, seconds: float) -> Spending:
        """What went through the client since this was last asked; ``seconds`` is how long it took."""
        counters, before = self.client.counters, self.counted
        self.counted = counters
        handed_out = counters.handed_out - before.handed_out
        is_unknown = counters.unknown_costs > before.unknown_costs
        return Spending(
            calls=counters.calls - before.calls,
            replayed=counters.replayed - before.replayed,
            attempts=counters.attempts - before.attempts,
            handed_out=handed_out,
            cost_usd=None if is_unknown else counters.cost_usd - before.cost_usd,
            seconds=seconds,
        )

    def leave_unreported(self) -> None:
        """Set aside what a metric spent before it ended without a report, so that it is no other metric's."""
        self.unreported += self.take_spending(0.0)

    def attach(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Put a metric's figures on its report."""
        metric_report = item.stash.get(REPORT, None)
        if metric_report is None or self.settings.is_optimizing:
            return
        report.promptopt = to_json(metric_report)  # type: ignore[attr-defined]  # pytest carries any JSON attribute
        use = item.stash.get(USE, None)
        if use is not None:
            report.promptopt_use = use.as_json()  # type: ignore[attr-defined]  # as above
        crash = getattr(report.longrepr, "reprcrash", None)
        if crash is not None:
            crash.message = terminal.failure_summary(metric_report)

    def close(self) -> None:
        """Let go of connections and files."""
        if "client" in self.__dict__:
            self.client.close()


def _refuse_calling(model: str) -> LM:
    raise UsageError(
        f"a dry run calls nothing, and {model} was asked before any row ran, by a fixture say. Let what needs replies "
        "happen in the test, or read them from a file"
    )
