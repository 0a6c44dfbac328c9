"""``--prompt-list``: tests are collected and none is run; prompts are listed with what covers them and what is frozen.

Collection tells the metrics and imports the modules under test; a search of the source tells the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_promptopt.errors import ModelError, PromptOptError, SnapshotError
from pytest_promptopt.prompts.discovery.findings import Discovery, ManagedPrompt
from pytest_promptopt.prompts.discovery.search import discover
from pytest_promptopt.prompts.frozen import FrozenPrompt, snapshot_path
from pytest_promptopt.prompts.registry import registered_prompts
from pytest_promptopt.prompts.runtime import Standing
from pytest_promptopt.reports.listing import ListedPrompt, Listing, listing_lines
from pytest_promptopt.reports.words import harmless
from pytest_promptopt.session.blessing import matches
from pytest_promptopt.session.covering import covered_by
from pytest_promptopt.session.metric_item import MetricItem
from pytest_promptopt.session.orphans import is_whole_suite

if TYPE_CHECKING:
    from pytest_promptopt.prompts.base import AnyPrompt
    from pytest_promptopt.session.run import Run

CACHE_NAME = "discovery.json"
NO_MODEL = "no model configured"


def refuse_misuse(config: pytest.Config) -> None:
    """A list runs nothing, so nothing that wants a run goes with it."""
    for option, flag in (
        ("optimize_prompts", "--optimize-prompts"),
        ("prompt_bless", "--prompt-bless"),
        ("prompt_dry_run", "--prompt-dry-run"),
    ):
        if config.getoption(option):
            raise pytest.UsageError(f"--prompt-list runs nothing; leave out {flag}, or --prompt-list")


class ListHooks:
    """The hooks of a session that lists, registered for it alone."""

    def __init__(self, run: Run, note: str | None = None) -> None:
        self.run = run
        self.note = note
        self.metrics: list[MetricItem] = []
        self.is_verbose = run.config.get_verbosity() > 0
        run.config.option.verbose = -2  # the list is all there is to read: no header, no count of tests

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Lay every test aside, after ``-k``, ``-m`` and paths had their say."""
        kept = {item.nodeid for item in items}
        self.metrics = [metric for metric in self.run.metrics if metric.nodeid in kept]
        config.hook.pytest_deselected(items=list(items))
        items[:] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A list without tests is still a list; what could not be collected stays an error."""
        if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The list itself."""
        terminalreporter.ensure_newline()
        for line in [*([self.note] if self.note else []), *listing_lines(self._listing(), is_verbose=self.is_verbose)]:
            terminalreporter.write_line(harmless(line))

    def _listing(self) -> Listing:
        settings = self.run.settings
        within = _paths(self.run.config)
        found = discover(settings.rootdir, within=within, cache=settings.store / CACHE_NAME)
        inside = [path for path in found.unmanaged if not (settings.rootdir / path.file).is_relative_to(settings.store)]
        return Listing(
            prompts=tuple(self._prompts(found)),
            models=self._models(),
            unmanaged=tuple(inside),
            unread=found.unread,
            passed_over=found.passed_over,
            patterns=settings.patterns,
        )

    def _models(self) -> tuple[str, ...]:
        settings = self.run.settings
        try:
            return settings.models or (self.run.runtime.choose_model(),)
        except ModelError:
            return ()

    def _prompts(self, found: Discovery) -> Iterator[ListedPrompt]:
        """Imported prompts and those that only the source tells of, in the order of their files."""
        settings = self.run.settings
        imported = registered_prompts(settings.rootdir)
        covered = _coverage(self.metrics, imported, settings.rootdir)
        is_whole = is_whole_suite(self.run.config)
        listed: list[tuple[str, int, ListedPrompt]] = [
            self._imported(prompt, covered.get(id(prompt), []), is_whole=is_whole) for prompt in imported
        ]
        places = {_place(prompt, settings.rootdir) for prompt in imported}
        names = {(prompt.name, prompt.home.file) for prompt in imported}
        for prompt in found.managed:
            is_known = (prompt.file, prompt.line) in places or (prompt.name, settings.rootdir / prompt.file) in names
            if not is_known:
                listed.append((prompt.file, prompt.line, self._written(prompt, is_whole=is_whole)))
        for _, _, one in sorted(listed, key=lambda entry: entry[:2]):
            if matches(one.name, settings.patterns):
                yield one

    def _imported(
        self, prompt: AnyPrompt, metrics: Sequence[MetricItem], *, is_whole: bool
    ) -> tuple[str, int, ListedPrompt]:
        file, line = _place(prompt, self.run.settings.rootdir)
        states: dict[str, str] = {}
        faults: list[str] = []
        for model in [prompt.model] if prompt.model else self._models():
            try:
                snapshot = prompt.find_snapshot(self.run.runtime, model)
                states[model] = _state_words(snapshot.standing, snapshot.frozen)
            except PromptOptError as error:
                states[model] = "broken file" if isinstance(error, SnapshotError) else "cannot be read"
                faults.append(str(error))
        missing = "no metric covers it" if is_whole else "no collected metric covers it"
        one = ListedPrompt(
            name=prompt.name,
            place=f"{file}:{line}",
            metrics=tuple(dict.fromkeys(metric.title for metric in metrics)),
            snapshots=states or {"": NO_MODEL},
            note="" if metrics else missing,
            faults=tuple(faults),
        )
        return file, line, one

    def _written(self, prompt: ManagedPrompt, *, is_whole: bool) -> ListedPrompt:
        """A prompt that no collected test imports: its signature is unknown, so its files are not judged."""
        file = self.run.settings.rootdir / prompt.file
        states = {
            model: "frozen, not checked" if snapshot_path(file, prompt.name, model).is_file() else "-"
            for model in self._models()
        }
        return ListedPrompt(
            name=prompt.name,
            place=f"{prompt.file}:{prompt.line}",
            metrics=(),
            snapshots=states or {"": NO_MODEL},
            note="not imported by any test" if is_whole else "not imported by these tests",
        )


def _place(prompt: AnyPrompt, rootdir: Path) -> tuple[str, int]:
    return prompt.home.file.relative_to(rootdir).as_posix(), prompt.home.line


def _paths(config: pytest.Config) -> list[Path]:
    """The files and folders that were typed; none where the whole project is meant."""
    if is_whole_suite(config):
        return []
    typed = (config.invocation_params.dir / argument.partition("::")[0] for argument in config.args)
    return [path.resolve() for path in typed if path.exists()]


def _state_words(standing: Standing, frozen: FrozenPrompt | None) -> str:
    """``frozen 0.906, 64 rows``: what its sealed rows gave, confirmed or not; ``-`` where the source runs."""
    if frozen is None:
        return "-"
    confirmation = frozen.provenance.get("confirmation")
    figures = ""
    if isinstance(confirmation, dict) and standing is not Standing.STALE:
        after, rows = confirmation.get("after"), confirmation.get("rows")
        figures = f" {after:.3f}" if isinstance(after, int | float) else ""
        figures += f", {rows} rows" if isinstance(rows, int) else ""
    doubt = " unconfirmed" if frozen.unconfirmed_reason and standing is not Standing.STALE else ""
    return f"{standing.value}{doubt}{figures}"


def _coverage(
    metrics: Iterable[MetricItem], prompts: Sequence[AnyPrompt], rootdir: Path
) -> dict[int, list[MetricItem]]:
    """The metrics of each prompt: what the marker names, else what its baseline saw and what its code can reach."""
    covered: dict[int, list[MetricItem]] = {}
    for metric in metrics:
        for prompt in covered_by(metric, prompts, rootdir):
            covered.setdefault(id(prompt), []).append(metric)
    return covered
