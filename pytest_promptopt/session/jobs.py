"""``--optimize-prompts``: the collected metrics become evidence, and every prompt an item that is a search."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_promptopt.errors import BudgetExhausted, PromptOptError
from pytest_promptopt.optimizers.registry import make_optimizer
from pytest_promptopt.prompts.base import AnyPrompt
from pytest_promptopt.prompts.registry import prompts_by_name, registered_prompts
from pytest_promptopt.reports import terminal
from pytest_promptopt.reports.event_log import EventLog
from pytest_promptopt.reports.jobs import outcome_words
from pytest_promptopt.reports.progress import LiveLine
from pytest_promptopt.reports.records import JobReport, to_json
from pytest_promptopt.reports.words import harmless
from pytest_promptopt.session.again import hint_for_freezing
from pytest_promptopt.session.blessing import matches
from pytest_promptopt.session.campaign import Campaign, Group
from pytest_promptopt.session.metric_item import MetricItem
from pytest_promptopt.session.misuse import usage_errors
from pytest_promptopt.session.search import Search
from pytest_promptopt.session.settings import Settings
from pytest_promptopt.session.workbench import Bench, JobError
from pytest_promptopt.snapshots.change import check_writable

if TYPE_CHECKING:
    from pytest_promptopt.session.run import Run


class PromptFile(pytest.File):
    """The module that bears prompts, as pytest's tree shows it."""

    def collect(self) -> Iterator[pytest.Item]:
        """Nothing: jobs are made from evidence, not from the file."""
        return iter(())


class PromptJob(pytest.Item):
    """The search of one prompt on one model. It owns its protocol, and never enters pytest's set-up state."""

    def __init__(self, *, prompt: AnyPrompt, campaign: Campaign, model: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.prompt = prompt
        self.campaign = campaign
        self.model = model

    def runtest(self) -> None:
        """Never called: the job runs in ``pytest_runtest_protocol``."""
        raise NotImplementedError("a prompt job is driven by pytest_runtest_protocol")

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Where the prompt stands."""
        return self.path, self.prompt.home.line - 1, self.name


class OptimizeHooks:
    """The hooks of an optimize session, registered for it alone."""

    def __init__(self, run: Run, note: str | None = None) -> None:
        self.run = run
        self.note = note
        self._log = EventLog(run.settings.store, redact=lambda text: run.redactor.redact(text))
        self._has_begun = False

    def pytest_report_header(self) -> list[str]:
        """Say what was switched off."""
        return [self.note] if self.note else []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Lay every item aside, after ``-k``, ``-m`` and paths had their say, and put jobs in their place."""
        kept = {item.nodeid for item in items}
        metrics = [metric for metric in self.run.metrics if metric.nodeid in kept]
        config.hook.pytest_deselected(items=list(items))
        with usage_errors():
            items[:] = self._make_jobs(session, metrics) if metrics else []
            if items and not config.getoption("collectonly"):
                self._log.check()
                config.pluginmanager.register(self._log, "promptopt-event-log")

    def pytest_report_collectionfinish(self, items: Sequence[pytest.Item]) -> str:
        """Say what takes the place of the tests."""
        if not items:
            return "no prompt job: no metric was selected, or no prompt that --prompt names"
        return f"{len(items)} prompt job{'s' * (len(items) != 1)}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Run a job and report it."""
        if not isinstance(item, PromptJob):
            return None
        report = _run_job(self.run, item, nextitem)
        item.ihook.pytest_runtest_logreport(report=report)
        return True

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Count jobs by how they ended."""
        job = getattr(report, "promptopt_job", None)
        if job is None or report.failed:
            return None
        return outcome_words(job["outcome"], job["unconfirmed"]), "", ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_promptopt_event(self) -> None:
        """Begin the log with the first event: a run that ends before it searches leaves that of the last one."""
        if not self._has_begun:
            self._has_begun = True
            self._log.open()

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Say that nothing is lost; ``pytest.exit``, as for misuse, comes by here too and speaks for itself."""
        if isinstance(excinfo.value, KeyboardInterrupt):
            line = "interrupted: every reply that came is kept; the same command goes on from there"
            self.run.closing_lines.append(line)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Exit status 1 when what stands is below its threshold, or what was to be frozen on purpose is not.

        Jobs are no tests to run again by ``--lf``.
        """
        self._log.close()
        missing = self._not_frozen() if self.run.jobs else []
        self.run.closing_lines += missing
        if (missing or any(job.below for job in self.run.jobs)) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        memory = getattr(self.run.config.pluginmanager.get_plugin("lfplugin"), "lastfailed", {})
        jobs = {item.nodeid for item in session.items}
        for key in [key for key in memory if str(key) in jobs]:
            del memory[key]

    def _not_frozen(self) -> list[str]:
        """What to say about winners that ``--prompt-freeze`` names and no job froze."""
        lines: list[str] = []
        for name in self.run.settings.frozen_on_purpose:
            if line := terminal.not_frozen_line(name, self.run.jobs):
                is_found = any(job.candidate == name for job in self.run.jobs)
                lines += filter(None, (line, "" if is_found else hint_for_freezing(self.run, name)))
        return lines

    def _make_jobs(self, session: pytest.Session, metrics: Sequence[MetricItem]) -> list[pytest.Item]:
        campaigns = plan_campaigns(self.run, session, metrics)
        files: dict[Any, PromptFile] = {}
        jobs: list[pytest.Item] = []
        for campaign in campaigns:
            for prompt in campaign.prompts:
                path = prompt.home.file
                if path not in files:
                    files[path] = PromptFile.from_parent(session, path=path)
                name = _job_name(prompt)
                name = name if len(campaigns) == 1 else f"{name}[{campaign.model}]"
                jobs.append(
                    PromptJob.from_parent(
                        files[path], name=name, prompt=prompt, campaign=campaign, model=campaign.model
                    )
                )
        return jobs


def plan_campaigns(run: Run, session: pytest.Session, metrics: Sequence[MetricItem]) -> list[Campaign]:
    """What is searched on each model.

    Whatever would end the run before it spends anything is found here: misuse, files that cannot be read or written.
    """
    _refuse_misuse(run, metrics)
    prompts = _searched_prompts(run.settings)
    _refuse_bad_files(run, prompts, metrics)
    models = _in_order_of_command_line(run.settings, [metric.model for metric in metrics])
    campaigns: list[Campaign] = []
    for place, model in enumerate(models):
        campaign = Campaign(
            run=run,
            bench=Bench(session),
            metrics=[metric for metric in metrics if metric.model == model],
            # one that is pinned to a model of its own is searched by the first campaign
            prompts=[prompt for prompt in prompts if not prompt.model or place == 0],
            before=tuple(campaigns),
            waiting=len(models) - place - 1,
        )
        campaigns.append(campaign)
    return campaigns


def _in_order_of_command_line(settings: Settings, models: Sequence[str | None]) -> list[str | None]:
    """Distinct ``models`` in the order in which they were named, whatever order their metrics stand in."""
    named = [model for model in settings.models if model in models]
    return list(dict.fromkeys((*named, *models)))


def _refuse_bad_files(run: Run, prompts: Sequence[AnyPrompt], metrics: Sequence[MetricItem]) -> None:
    """Files that cannot be read or written are found before anything is paid."""
    for prompt in prompts:
        check_writable(prompt.home.snapshot_path("any").parent)
        for model in {prompt.model or metric.model for metric in metrics}:
            if model is not None:
                prompt.find_snapshot(run.runtime, model)
    for metric in metrics:
        check_writable(metric.baseline_path.parent)
        _ = metric.baseline, metric.recordings


def _searched_prompts(settings: Settings) -> list[AnyPrompt]:
    """The prompts to search: those of this project that ``--prompt`` means and that want to be optimized."""
    named = [
        prompt
        for prompt in _known_prompts(settings).values()
        if prompt.is_optimized and (not settings.patterns or matches(prompt.name, settings.patterns))
    ]
    foreign = [prompt for prompt in named if not prompt.home.file.is_relative_to(settings.rootdir)]
    if foreign and settings.patterns:
        raise pytest.UsageError(
            f"{foreign[0].name} ({foreign[0].home.file}) is outside {settings.rootdir}, where nothing is written"
        )
    return [prompt for prompt in named if prompt.home.file.is_relative_to(settings.rootdir)]


def _known_prompts(settings: Settings) -> dict[str, AnyPrompt]:
    """The project's own prompts by name, and where ``--prompt`` is given, those from elsewhere that it may mean."""
    own = prompts_by_name(settings.rootdir)
    return {**({prompt.name: prompt for prompt in registered_prompts()} if settings.patterns else {}), **own}


def _refuse_misuse(run: Run, metrics: Sequence[MetricItem]) -> None:
    """What ends the session before anything is spent, with exit status 4."""
    settings = run.settings
    if settings.is_blessing:
        raise pytest.UsageError(
            "--prompt-bless accepts the scores of a plain run: leave out --optimize-prompts, "
            "which writes baselines of its own"
        )
    models = dict.fromkeys(metric.model for metric in metrics)
    if None in models:
        from pytest_promptopt.prompts.runtime import NO_MODEL

        raise pytest.UsageError(NO_MODEL)
    for model in dict.fromkeys((*(model for model in models if model), *run.named_models)):
        run.find_lm(model)
        if settings.is_ci and not settings.has_own_mode and not run.is_offline(model):
            raise pytest.UsageError(
                f"an optimize run in CI would call {model}; say so with --prompt-lm auto (or live, record), "
                "or let it replay with --prompt-lm replay"
            )
    named_ones = {settings.optimizer: {}, **settings.optimizer_settings}
    strategies = {
        name: make_optimizer(name, given, extra=run.extra_optimizers, typed=settings.typed_names.get(name, name))
        for name, given in named_ones.items()
    }
    run.optimizer = strategies[settings.optimizer]


def _run_job(run: Run, job: PromptJob, nextitem: pytest.Item | None) -> pytest.TestReport:
    """One job's report, whatever happens in it short of the end of the session."""
    start, clock = time.time(), time.perf_counter()
    outcome: Any = "passed"
    longrepr: Any = None
    reports: list[JobReport] = []
    try:
        reports = _search(run, job)
    except (JobError, PromptOptError, BudgetExhausted) as error:
        outcome, longrepr = "failed", f"{job.nodeid}: {error}"
    finally:
        job.campaign.bench.leave(nextitem)
    mine = next((one for one in reports if one.prompt == job.prompt.name), None)
    if mine is None and outcome == "passed":
        outcome = "skipped"
        longrepr = (str(job.path), job.prompt.home.line, "Skipped: no selected metric calls this prompt")
    report = pytest.TestReport(
        nodeid=job.nodeid,
        location=job.location,
        keywords=dict.fromkeys(job.keywords, 1),
        outcome=outcome,
        longrepr=longrepr,
        when="call",
        sections=(),
        duration=time.perf_counter() - clock,
        start=start,
        stop=time.time(),
    )
    if mine is not None:
        report.promptopt_job = to_json(mine)  # type: ignore[attr-defined]  # pytest carries any JSON attribute
        run.jobs.append(mine)
        run.config.hook.pytest_promptopt_job_finished(config=run.config, report=mine)
    return report


def _search(run: Run, job: PromptJob) -> list[JobReport]:
    """The reports of the job's group: made by the first job of the group, looked up by the others."""
    groups = job.campaign.gather()
    group = next(group for group in groups if any(prompt is job.prompt for prompt in group.prompts))
    campaign = job.campaign
    if group.failure:
        raise JobError(group.failure)
    if not group.evidence or not any(job.prompt.name in one.prompts for one in group.evidence):
        if failure := campaign.failure_without_prompts():
            raise JobError(failure)
        return []
    leader = group.prompts[0].name
    if leader in campaign.failures:
        raise JobError(f"searched together with {leader}, which failed: {campaign.failures[leader]}")
    if leader not in campaign.reports:
        try:
            campaign.reports[leader] = _lead(run, job, group)
        except (JobError, PromptOptError, BudgetExhausted) as error:
            campaign.failures[leader] = str(error)
            raise
    return campaign.reports[leader]


def _lead(run: Run, job: PromptJob, group: Group) -> list[JobReport]:
    assert run.optimizer is not None
    lines = _Lines(run.config.pluginmanager.get_plugin("terminalreporter"))
    prompts = nodeids(run, group.prompts) + (f" on {job.model}" if len(run.settings.models) > 1 else "")
    lines.say(terminal.job_heading(prompts, [one.metric.title for one in group.evidence]))
    live = LiveLine(
        lines.say,
        lines.rewrite,
        lines.is_terminal,
        time.monotonic,
        cost_usd=lambda: None if run.client.counters.has_unknown_cost else run.client.counters.cost_usd,
        max_cost_usd=None if run.is_offline_alone else run.ceiling.max_cost_usd,
        columns=79 if lines.is_mute else run.config.get_terminal_writer().fullwidth - 1,
    )
    search = Search(
        run=run, campaign=job.campaign, group=group, optimizer=run.optimizer, model=job.model, say=lines.say
    )
    run.config.pluginmanager.register(live)
    try:
        reports = search.perform()
    finally:
        run.config.pluginmanager.unregister(live)
        live.end()
    if reports[0].sealed_after is not None:
        lines.say(terminal.confirm_line(reports[0]))
    for report in reports:
        lines.say(terminal.outcome_line(report))
    return reports


def nodeids(run: Run, prompts: Iterable[AnyPrompt]) -> str:
    """The prompts as node ids, as their jobs are called."""
    return ", ".join(
        f"{prompt.home.file.relative_to(run.settings.rootdir).as_posix()}::{_job_name(prompt)}" for prompt in prompts
    )


def _job_name(prompt: AnyPrompt) -> str:
    """The name of a job within its file, which need not be told twice."""
    return prompt.name.removeprefix(f"{prompt.home.file.stem}.")


class _Lines:
    """Writes whole lines to pytest's terminal, and one live line where it is a terminal."""

    def __init__(self, reporter: Any) -> None:
        self._reporter = reporter

    @property
    def is_terminal(self) -> bool:
        return bool(self._reporter is not None and self._reporter.isatty() and self._reporter.verbosity >= 0)

    @property
    def is_mute(self) -> bool:
        return self._reporter is None

    def say(self, text: str) -> None:
        if self._reporter is not None and self._reporter.verbosity >= 0:
            self._reporter.ensure_newline()
            if not self.is_terminal and self._reporter.config.get_terminal_writer().width_of_current_line:
                self._reporter.write_line("")  # after the letter of a job that pytest knows no file of
            self._reporter.write_line(harmless(text))

    def rewrite(self, text: str) -> None:
        if self._reporter is not None:
            self._reporter.rewrite(harmless(text), erase=True)
            if not text:
                self._reporter.write("\r")  # blanked, the line begins anew
