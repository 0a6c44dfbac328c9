"""The door to pytest: options, ini values, the marker, and hooks that return at once where no metric is.

Imports pytest and nothing else of weight; what the hooks do lives in :mod:`pytest_promptopt.session`.
"""

from __future__ import annotations

import os
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pytest_promptopt.prompts.runtime import Runtime
    from pytest_promptopt.session.run import Run

MARKER = "prompt_metric"
_MARKER_HELP = (
    "prompt_metric(dataset, *, threshold=None, arg='example', labels=None, margin=0.05, weight=1.0, repeats=1, "
    "concurrency=None, group=None, must_pass=(), example_timeout=None, prompts=None): this test is a metric; it runs "
    "once for every row of the dataset, a fixture's name or a .jsonl, .json or .csv file beside the test."
)
_NAMES = {
    "prompt_patterns": (
        "--prompt",
        "PATTERN",
        "Search these prompts only, by name or pattern (repeatable); others are held.",
    ),
    "prompt_model": (
        "--prompt-model",
        "MODEL",
        "Model under test: offline/keyword, openai/gpt-4.1-mini, or a name from [tool.pytest-promptopt.models]; repeat "
        "for a matrix.",
    ),
    "prompt_proposer": (
        "--prompt-proposer",
        "MODEL",
        "Model that writes proposals and teaches; default: the model under test.",
    ),
    "prompt_optimizer": (
        "--prompt-optimizer",
        "NAME",
        "Strategy of the search: auto (default), labeled-few-shot, bootstrap-few-shot, bootstrap-random-search, copro.",
    ),
    "prompt_set": ("--prompt-set", "NAME.KEY=VALUE", "A strategy's setting, such as copro.breadth=5 (repeatable)."),
    "prompt_budget": (
        "--prompt-budget",
        "N",
        'Most LM calls of the whole run, retries included, or "none"; default: 1000 outside the process.',
    ),
    "prompt_max_cost": ("--prompt-max-cost", "USD", 'Most money of the whole run, or "none"; default: 1.00.'),
    "prompt_lm": (
        "--prompt-lm",
        "MODE",
        "auto, replay (never call), live (always call), record (as auto, then the recordings in __prompts__ hold "
        "what was used), rerecord (call all of it again); default: auto, in CI replay.",
    ),
    "prompt_strict": (
        "--prompt-strict",
        "LIST",
        "Of stale, orphan, unrecorded, unfrozen, inconclusive; or all, none: what fails, not warns.",
    ),
    "prompt_freeze": (
        "--prompt-freeze",
        "NAME",
        "With --optimize-prompts: freeze the winner of this name (p-7f3a) although nothing confirmed it (repeatable).",
    ),
    "prompt_report": (
        "--prompt-report",
        "PATH",
        "Write a report: .md for a pull request, .html for a browser, .json for programs (repeatable); write it with "
        "an equals sign, --prompt-report=PATH.",
    ),
    "prompt_fulfil": (
        "--prompt-fulfil",
        "FILE",
        "Answer the requests that a replay missed (missing.jsonl) as far as this checkout's prompts make them, under "
        "the ceilings, and record the replies; runs no test. Write it with an equals sign, --prompt-fulfil=FILE.",
    ),
    "prompt_base": (
        "--prompt-base",
        "REF",
        "Compare with the baselines at the commit where this branch left REF, such as origin/main, and say what of its "
        "own baselines and recordings the branch moves.",
    ),
    "prompt_seed": ("--prompt-seed", "N", "Seed of the search; default: 0."),
    "prompt_concurrency": ("--prompt-concurrency", "N", "Rows and calls at a time; default: 16."),
}
_REPEATABLE = ("prompt_patterns", "prompt_model", "prompt_set", "prompt_freeze", "prompt_report")
_INIS = {
    "promptopt_model": "Model under test when nothing stronger names one.",
    "promptopt_proposer": "Model that writes proposals and teaches.",
    "promptopt_optimizer": "Strategy of the search.",
    "promptopt_budget": "Most LM calls of one run.",
    "promptopt_max_cost": "Most US dollars of one run.",
    "promptopt_lm": "Where replies may come from: auto, replay, live, record, rerecord.",
    "promptopt_strict": "What fails instead of warning.",
    "promptopt_seed": "Seed of the search.",
    "promptopt_concurrency": "Rows and calls at a time.",
    "promptopt_store": "Folder of the local reply store, below rootdir; default: .promptopt",
    "promptopt_split": "Shares of train, val and test in percent; default: 30/30/40",
    "promptopt_salt": "A new salt deals the rows anew.",
    "promptopt_sealed_rows": "Most keys that confirmation and gate read; default: 200",
    "promptopt_freeze_alpha": "Largest p at which a winner is frozen; default: 0.2 (0.05 for large sets)",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare every option and ini value."""
    group = parser.getgroup("promptopt", "prompt metrics and prompt optimization")
    group.addoption(
        "--optimize-prompts",
        action="store_true",
        help="Search better instructions and demos, confirm winners on sealed rows, freeze them beside their owners.",
    )
    group.addoption(
        "--prompt-bless",
        action="store_true",
        help="Accept this run's scores as baselines, and the source of stale prompts.",
    )
    group.addoption(
        "--prompt-list",
        action="store_true",
        help="List prompts with metrics and snapshots, then texts that look like unmanaged prompts; runs nothing.",
    )
    group.addoption(
        "--prompt-dry-run",
        action="store_true",
        help="Say what the same command would call and cost, with or without --optimize-prompts; calls nothing.",
    )
    group.addoption(
        "--prompt-transfer",
        action="store_true",
        help="With several --prompt-model: also try each model's prompt on each other model, on the sealed rows.",
    )
    for dest, (flag, metavar, text) in _NAMES.items():
        action = "append" if dest in _REPEATABLE else "store"
        group.addoption(flag, dest=dest, metavar=metavar, action=action, default=None, help=text)
    for name, text in _INIS.items():
        parser.addini(name, text, default="")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Let other packages and conftests extend the plugin."""
    from pytest_promptopt import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker; start a run where one is asked for, else leave it to the first metric."""
    config.addinivalue_line("markers", _MARKER_HELP)
    config.stash[_RUN] = None
    if config.getoption("prompt_fulfil") or config.getoption("prompt_report"):
        from pytest_promptopt.session import misuse

        misuse.refuse_lost_settings(config)
    if config.getoption("prompt_list"):
        _start_list(config)
    elif config.getoption("prompt_dry_run"):
        _start_dry_run(config)
    elif config.getoption("prompt_fulfil"):
        _start_fulfilling(config)
    elif config.getoption("optimize_prompts"):
        from pytest_promptopt.session import misuse

        note = misuse.refuse_workers(config)
        from pytest_promptopt.session.jobs import OptimizeHooks

        config.pluginmanager.register(OptimizeHooks(start_run(config), note), "promptopt-optimize")
        if start_run(config).settings.reports or any(name in os.environ for name in _GITHUB):
            from pytest_promptopt.session import reporting

            reporting.listen(start_run(config))
    elif _is_configured(config):
        start_run(config)  # a value that cannot be meant is refused here, where it is a usage error
    config.pluginmanager.register(Listener(config), "promptopt-listener")
    from pytest_promptopt.prompts import active

    config.stash[_FORMER_RUNTIME] = active.provide_runtime(lambda: start_run(config).runtime)


def _start_list(config: pytest.Config) -> None:
    """Register what lists prompts instead of running tests."""
    from pytest_promptopt.session import listing, misuse

    listing.refuse_misuse(config)
    note = misuse.refuse_workers(config, "--prompt-list")
    config.pluginmanager.register(listing.ListHooks(start_run(config), note), "promptopt-list")


def _start_dry_run(config: pytest.Config) -> None:
    """Register what counts calls instead of making them."""
    from pytest_promptopt.session import dry_run, misuse

    dry_run.refuse_misuse(config)
    note = misuse.refuse_workers(config, "--prompt-dry-run")
    config.pluginmanager.register(dry_run.DryRunHooks(start_run(config), note), "promptopt-dry-run")


def _start_fulfilling(config: pytest.Config) -> None:
    """Register what answers requests instead of running tests."""
    from pytest_promptopt.session import fulfil, misuse

    fulfil.refuse_misuse(config)
    note = misuse.refuse_workers(config, "--prompt-fulfil")
    path = config.invocation_params.dir / config.getoption("prompt_fulfil")
    config.pluginmanager.register(fulfil.FulfilHooks(start_run(config), path, note), "promptopt-fulfil")


def _is_configured(config: pytest.Config) -> bool:
    """Whether an option, an ini value or the environment says anything about prompts."""
    return (
        config.getoption("prompt_bless")
        or config.getoption("prompt_transfer")
        or any(config.getoption(name) is not None for name in _NAMES)
        or any(config.getini(name) for name in _INIS)
        or any(name.startswith("PROMPTOPT_") for name in os.environ)
    )


_GITHUB = ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS")
"""Where one of these is set, a report has a reader though nobody asked for a file."""

_RUN = pytest.StashKey["Run | None"]()
_FORMER_RUNTIME: pytest.StashKey[Callable[[], Runtime] | None] = pytest.StashKey()


def start_run(config: pytest.Config) -> Run:
    """The session's run, made when it is first needed."""
    run = config.stash[_RUN]
    if run is None:
        from pytest_promptopt.session.run import Run

        run = config.stash[_RUN] = Run(config)
    return run


def current_run(config: pytest.Config) -> Run | None:
    """The session's run, if anything needed one."""
    return config.stash.get(_RUN, None)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close what the run opened."""
    run = current_run(config)
    if run is not None:
        run.close()
    from pytest_promptopt.prompts import active

    active.provide_runtime(config.stash.get(_FORMER_RUNTIME, None))  # a session inside a session gives way to it


def pytest_report_header(config: pytest.Config) -> list[str] | None:
    """One line on model, mode and ceilings, where prompts are configured at all."""
    if not (
        config.getoption("optimize_prompts") or config.getoption("prompt_model") or config.getini("promptopt_model")
    ):
        return None
    from pytest_promptopt.session import header

    return header.lines(start_run(config))


def _is_marked(obj: object, collector: pytest.Collector) -> bool:
    """Whether ``obj``, about to be collected, is a function under the marker; found out without an import."""
    if not isinstance(obj, FunctionType):
        return False
    own = getattr(obj, "pytestmark", ())
    marks = own if isinstance(own, list) else [own]
    return (
        any(getattr(mark, "name", "") == MARKER for mark in marks) or collector.get_closest_marker(MARKER) is not None
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> Generator[None, Any, Any]:
    """Put a metric's dataset fixture into its static closure, so that scopes and parametrization work."""
    function = getattr(obj, "__func__", obj)
    if not _is_marked(function, collector):
        return (yield)
    from pytest_promptopt.session import collection

    with collection.dataset_requested(collector, function):
        return (yield)


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a metric its row argument, and one item for each model under test."""
    if metafunc.definition.get_closest_marker(MARKER) is not None:
        from pytest_promptopt.session import collection

        collection.parametrize(metafunc, start_run(metafunc.config).settings)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn misuse of the marker into a collection error."""
    report = yield
    nodes = report.result if report.passed else []
    if any(isinstance(node, pytest.Item) and node.get_closest_marker(MARKER) for node in nodes):
        from pytest_promptopt.session import collection

        collection.refuse_misuse(report)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note every collected metric before anything is deselected."""
    if any(item.get_closest_marker(MARKER) for item in items):
        start_run(config).note_collected(items)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Fix what the gate needs to know about the whole session."""
    run = current_run(session.config)
    if run is not None:
        run.collection_finished(session)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Run a metric over its rows instead of once."""
    if item.get_closest_marker(MARKER) is None or not isinstance(item, pytest.Function):
        return (yield)
    from pytest_promptopt.session import driving

    driven, item.obj = item.obj, driving.make_driver(start_run(item.config), item)
    try:
        with driving.steady_assertions(item.config):
            return (yield)
    finally:
        item.obj = driven


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send a metric's figures along with its report, as JSON alone."""
    report = yield
    run = current_run(item.config)
    if run is not None and call.when == "call":
        run.attach(item, report)
    return report


class Listener:
    """Collects the figures that metrics send along; with workers, in the process that hears of all of them."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.order: dict[str, int] = {}
        self.faults: dict[str, str] = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Note the order of the tests: workers report in any."""
        self.order = {nodeid: place for place, nodeid in enumerate(ids)}

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Put what workers reported in the order in which one process would have run it."""
        run = current_run(self.config)
        if run is not None and self.order:
            last = len(self.order)
            run.reports = dict(sorted(run.reports.items(), key=lambda report: self.order.get(report[0], last)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep one report's figures, if it has any, and that a metric or a search failed without."""
        figures = getattr(report, "promptopt", None)
        if figures is not None:
            self.faults.pop(report.nodeid, None)  # a test that is run again
            start_run(self.config).hear(figures)
        elif report.failed and (MARKER in report.keywords or self.config.getoption("optimize_prompts")):
            crash = getattr(report.longrepr, "reprcrash", None)
            self.faults[report.nodeid] = str(report.longreprtext if crash is None else crash.message)
        use = getattr(report, "promptopt_use", None)
        if use is not None:
            start_run(self.config).hear_use(use)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what was blessed; let the exit status tell."""
    run = current_run(session.config)
    if run is None:
        return
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["promptopt_orphans"] = run.orphans
        return
    from pytest_promptopt.session import summary

    summary.finish(run, session)
    if run.settings.reports or any(name in os.environ for name in _GITHUB):
        from pytest_promptopt.session import reporting

        listener = session.config.pluginmanager.get_plugin("promptopt-listener")
        reporting.write_reports(run, session, {} if listener is None else listener.faults)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist what only the process that read the command line can know."""
    from pytest_promptopt.session import orphans

    node.workerinput[orphans.WHOLE_SUITE] = orphans.is_whole_suite(node.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Hear from a worker of pytest-xdist what only a process that collected can know."""
    orphans = getattr(node, "workeroutput", {}).get("promptopt_orphans")
    if orphans:
        start_run(node.config).orphans = orphans


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The tables, where there is anything to say."""
    run = current_run(terminalreporter.config)
    if run is not None:
        from pytest_promptopt.session import summary

        summary.write(run, terminalreporter)


@pytest.fixture(scope="session")
def promptopt(request: pytest.FixtureRequest) -> Any:
    """Facts of the run (model, mode, seed), and ``propagate(function)`` for threads that the plugin did not start."""
    from pytest_promptopt.session.facts import Facts

    return Facts.of(start_run(request.config))
