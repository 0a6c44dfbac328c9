"""Threads, loops, forks and Ctrl-C as users meet them: what is answered, what is traced, and what is said about it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import dedent, indent
from threading import Event, Lock, Thread
from typing import Any

import aiohttp
import pytest

from pytest_promptopt import prompt
from pytest_promptopt.errors import DetachedCallError
from pytest_promptopt.lms.client import Scope
from pytest_promptopt.prompts import active, registry
from pytest_promptopt.prompts.active import Evaluation
from tests.loopback import Answer, completion, refusal
from tests.plugin.projects import GOOD_INSTRUCTION, TELLING, Desk, make_tickets, stray_files, words

assert aiohttp  # a run inside this process forgets what it imports itself, and would import it again for every test
LATENCY_SECONDS = 0.02
PATIENCE_SECONDS = 30.0


class Tutor(ThreadingHTTPServer):
    """A server that knows a ticket's team once its telling word was shown to it; ``heard`` are the bodies that came."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Lesson)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.heard: list[str] = []
        self.on_request: Callable[[int], None] = lambda number: None
        self.lock = Lock()
        self.never_answers: str | None = None
        self.refuses_after: int | None = None
        self.closing = Event()

    def hear(self, body: str) -> int:
        """The request's number, from 1."""
        with self.lock:
            self.heard.append(body)
            self.on_request(len(self.heard))
            return len(self.heard)

    def forget(self) -> None:
        self.heard, self.on_request = [], lambda number: None


def _with_paths() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


class _Lesson(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Tutor

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = json.dumps(body, sort_keys=True)
        number = self.server.hear(text)
        is_held = self.server.never_answers is not None and self.server.never_answers in text
        self.server.closing.wait(None if is_held else LATENCY_SECONDS)
        if self.server.refuses_after is not None and number > self.server.refuses_after:
            answer = refusal(503, retry_after="20")
        else:
            answer = completion(_answer([message["content"] for message in body["messages"]]))
        with suppress(ConnectionError):  # who asked may have given up
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        content = answer.body.encode()
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def _answer(contents: list[str]) -> str:
    *shown, ticket = contents
    if shown and shown[0].startswith("You improve the instruction"):
        return f"```\n{GOOD_INSTRUCTION}\n```"
    known = (team for team, telling in TELLING.items() for word in telling if word in ticket and word in "".join(shown))
    return next(known, "account")


@pytest.fixture
def tutor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tutor]:
    with Tutor() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "gateway-5b1d")
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


class Lane(Desk):
    """The desk whose model is the tutor, unless another one is named, and whose metric is for each test to write."""

    def __init__(self, project: Any, model: str = "openai/gpt-4o-mini", *, rows: int = 60) -> None:
        super().__init__(project, rows=rows)
        self.model = model
        self.ini(model=model)

    def start(self, *arguments: str, plugins: str = "") -> subprocess.Popen[str]:
        """Begin a run in a process of its own."""
        flags = [flag for name in ("promptopt", *plugins.split()) for flag in ("-p", name)]
        command = [sys.executable, "-m", "pytest", *flags, *arguments]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=self.path, text=True, env=_with_paths(), **pipes)

    def stored(self) -> int:
        """How many replies the store holds."""
        path = self.path / ".promptopt" / "replies.sqlite3"
        if not path.exists():
            return 0
        with closing(sqlite3.connect(path)) as connection:
            return int(connection.execute("SELECT count(*) FROM replies").fetchone()[0])

    def freeze(self) -> None:
        """Search, and be sure that the winner was frozen."""
        result = self.optimize("-q")
        assert result.ret == 0, result.stdout.str()
        assert self.frozen_files()

    def metric(self, text: str) -> None:
        """Put another metric in the place of the desk's own."""
        head = self.read("test_desk.py").partition("@pytest.mark.prompt_metric")[0]
        self.write("test_desk.py", head + dedent(text))

    def await_route(self, backend: str) -> str:
        """Make prompt and metric coroutines that ``backend`` runs; gives the plugin that they need."""
        self.replace("desk.py", "def route", "async def route")
        self.metric(f"""
            @pytest.fixture
            def anyio_backend():
                return {backend.removeprefix("anyio ")!r}

            @pytest.mark.{_mark(backend)}
            @pytest.mark.prompt_metric("tickets", threshold=0.8)
            async def test_routes(example):
                assert await route(ticket=example["ticket"]) == example["team"]
        """)
        self.ini(*BACKENDS[backend][1], model=self.model)
        return BACKENDS[backend][0]


BACKENDS = {
    "asyncio": ("pytest_asyncio.plugin", ("asyncio_default_fixture_loop_scope = function",)),
    "anyio asyncio": ("anyio", ()),
    "trio": ("anyio", ()),
}
"""Who runs a coroutine → the plugin it takes, and its ini lines."""


def _mark(backend: str) -> str:
    return "asyncio" if backend == "asyncio" else "anyio"


@pytest.fixture
def lane(project: Any, tutor: Tutor) -> Lane:
    return Lane(project)


def warned(result: pytest.RunResult) -> list[str]:
    """The places in the summary of warnings, each with the words of the warning."""
    return [line for line in map(str.strip, result.outlines) if "PromptOptWarning" in line]


# --- a synchronous prompt in a running loop ---------------------------------------------------------------------------

SYNCHRONOUS = """
    @pytest.fixture
    def anyio_backend():
        return "{backend}"

    @pytest.mark.{mark}
    @pytest.mark.prompt_metric("tickets", threshold=0.75)
    async def test_metric(example):
        team = route(ticket=example.ticket)  # HERE
        assert team == example.team
"""
BLOCKING = "test_desk.route was called inside a running event loop"


def _synchronous_in_a_loop(project: Any, backend: str) -> str:
    plugin, lines = BACKENDS[backend]
    project.ini(*lines)
    project.tests(SYNCHRONOUS.format(backend=backend.removeprefix("anyio "), mark=_mark(backend)))
    return plugin


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_synchronous_prompt_in_an_async_test_warns_once_at_the_callers_line(project: Any, backend: str) -> None:
    plugin = _synchronous_in_a_loop(project, backend)
    result = project.run("-W", "default", plugins=plugin)  # ours are errors, and it runs in our process
    result.assert_outcomes(passed=1, warnings=1)
    source = (project.path / "test_desk.py").read_text().splitlines()
    (line,) = [number for number, text in enumerate(source, 1) if "# HERE" in text]
    (warning,) = warned(result)
    assert f"test_desk.py:{line}: PromptOptWarning: {BLOCKING}" in warning
    assert warning.endswith("write it as `async def route` and await it")


@pytest.mark.parametrize("backend", BACKENDS)
def test_where_warnings_are_errors_the_first_row_is_errored_in_the_same_words(project: Any, backend: str) -> None:
    plugin = _synchronous_in_a_loop(project, backend)
    result = project.run("-W", "error", plugins=plugin)
    assert result.ret == 1
    first, *others = project.figure()["rows"]
    assert (first["status"], first["score"]) == ("error", None)
    assert BLOCKING in first["feedback"]
    assert "`async def route`" in first["feedback"]
    assert [row["status"] for row in others] == ["passed", "passed", "failed"]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_synchronous_prompt_in_a_synchronous_test_never_warns(project: Any, concurrency: int) -> None:
    project.tests(f"""
        @pytest.mark.prompt_metric("tickets", threshold=0.75, concurrency={concurrency})
        def test_metric(example):
            assert route(ticket=example.ticket) == example.team
    """)
    project.run("-W", "error").assert_outcomes(passed=1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_synchronous_prompt_in_a_worker_thread_of_a_loop_is_traced_and_does_not_warn(
    project: Any, backend: str
) -> None:
    plugin = _synchronous_in_a_loop(project, backend)
    away = "asyncio.to_thread" if backend == "asyncio" else "anyio.to_thread.run_sync"
    path = project.path / "test_desk.py"
    called = f"await {away}(lambda: route(ticket=example.ticket))"
    path.write_text("import asyncio, anyio\n" + path.read_text().replace("route(ticket=example.ticket)", called))
    project.run("-W", "error", plugins=plugin).assert_outcomes(passed=1)
    (state,) = project.figure()["prompts"]
    assert state["calls"] == 4
    assert project.figure()["notes"] == []


# --- loops in loops ---------------------------------------------------------------------------------------------------


def test_a_loop_of_its_own_in_a_synchronous_metric_carries_the_row_and_is_searched(lane: Lane) -> None:
    lane.replace("desk.py", "def route", "async def route")
    lane.metric("""
        import asyncio

        async def both(ticket):
            return await asyncio.gather(route(ticket=ticket), route(ticket=ticket))

        @pytest.mark.prompt_metric("tickets", threshold=0.8)
        def test_routes(example):
            assert asyncio.run(both(example["ticket"])) == [example["team"]] * 2
    """)
    lane.freeze()
    assert lane.jobs()["desk.route"]["sealed_after"] == 1.0
    assert lane.run("-W", "error").ret == 0
    (state,) = lane.figure()["prompts"]
    assert state["calls"] == 2 * len(lane.figure()["rows"])


# --- threads of the user's own ----------------------------------------------------------------------------------------

VOTES = """
    from concurrent.futures import ThreadPoolExecutor

    @pytest.mark.prompt_metric("tickets", threshold=0.8)
    def test_routes(example, promptopt):
        with ThreadPoolExecutor(3) as pool:
            votes = list(pool.map(CARRIED(lambda ticket: route(ticket=ticket)), [example["ticket"]] * 3))
        assert votes == [example["team"]] * 3
"""


def test_calls_of_a_pool_that_carries_the_row_are_traced_counted_as_draws_and_searched(
    lane: Lane, tutor: Tutor
) -> None:
    lane.metric(VOTES.replace("CARRIED", "promptopt.propagate"))
    lane.freeze()
    assert lane.jobs()["desk.route"]["sealed_after"] == 1.0
    assert set(Counter(body for body in tutor.heard if "You improve" not in body).values()) == {3}
    tutor.forget()
    assert lane.run().ret == 0
    (state,) = lane.figure()["prompts"]
    assert (state["standing"], state["calls"]) == ("frozen", 3 * len(lane.figure()["rows"]))
    assert tutor.heard == []  # every draw was kept under an ordinal of its own
    assert lane.figure()["notes"] == []


WAYS = {
    "a pool": (
        "",
        """
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(ask, example).result() == example["team"]
        """,
    ),
    "a thread that keeps its errors": (
        "",
        """
        answers = []
        def keep():
            try:
                answers.append(ask(example))
            except Exception:
                answers.append("account")
        thread = Thread(target=keep)
        thread.start()
        thread.join()
        assert answers == [example["team"]]
        """,
    ),
    "an executor of a loop": (
        "pytest_asyncio.plugin",
        """
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, ask, example) == example["team"]
        """,
    ),
}
"""How prompts are called without the row → the plugin it takes, and the body of the metric."""


AWAY = """
import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

def ask(example):
    return route(ticket=example["ticket"])

{mark}
@pytest.mark.prompt_metric("tickets", threshold=0.8)
{kind} test_routes(example):
"""


def _call_without_row(lane: Lane, way: str) -> str:
    """Let the metric call its prompt in that way; gives the plugin it takes."""
    plugin, body = WAYS[way]
    mark, kind = ("@pytest.mark.asyncio", "async def") if plugin else ("", "def")
    lane.metric(AWAY.format(mark=mark, kind=kind) + indent(dedent(body), "    "))
    lane.ini(*(BACKENDS["asyncio"][1] if plugin else ()), model=lane.model)
    return plugin


@pytest.mark.parametrize("way", WAYS)
def test_calls_without_the_row_work_in_a_plain_run_and_one_note_names_the_way_out(project: Any, way: str) -> None:
    desk = Lane(project, "scripted/learner")
    plugin = _call_without_row(desk, way)
    desk.replace("desk.py", '"""Decide which team should answer."""', f'"""{GOOD_INSTRUCTION}"""')
    result = desk.run(plugins=plugin)
    assert result.ret == 0
    figure = desk.figure()
    assert (figure["verdict"]["score"], figure["prompts"]) == (1.0, [])
    (note,) = figure["notes"]
    assert "desk.route was called by code that carries no row" in note
    assert words(result).count("promptopt.propagate(function), from the fixture promptopt") == 1


@pytest.mark.parametrize("way", WAYS)
def test_calls_without_the_candidate_end_a_search_whoever_keeps_the_error(project: Any, way: str) -> None:
    desk = Lane(project, "scripted/learner")
    plugin = _call_without_row(desk, way)
    result = desk.optimize(plugins=plugin)
    assert result.ret == 1
    said = words(result)
    assert "desk.route was called while a candidate is under evaluation, by code that does not carry it" in said
    assert "promptopt.propagate(function), from the fixture promptopt" in said
    assert desk.asked() == []
    assert (desk.jobs(), desk.frozen_files()) == ({}, {})


def test_calls_without_the_row_ask_the_model_whose_column_they_are_in(project: Any) -> None:
    desk = Lane(project, "")
    _call_without_row(desk, "a pool")
    desk.run("--prompt-model", "scripted/one", "--prompt-model", "scripted/two")
    assert Counter(line["model"] for line in desk.asked()) == {"scripted/one": 60, "scripted/two": 60}


def test_a_fixture_that_calls_a_prompt_in_a_search_is_told_to_leave_it_to_the_test(project: Any) -> None:
    desk = Lane(project, "scripted/learner")
    desk.metric("""
        @pytest.fixture
        def usual():
            return route(ticket="hello")

        @pytest.mark.prompt_metric("tickets", threshold=0.8)
        def test_routes(example, usual):
            assert route(ticket=example["ticket"]) == example["team"]
    """)
    result = desk.optimize()
    assert result.ret == 1
    assert "in a fixture, do not call it: call it in the test" in words(result)
    assert desk.frozen_files() == {}


def test_a_thread_that_outlives_its_run_asks_nobody() -> None:
    with registry.apart():

        @prompt
        def late(ticket: str) -> str:
            """Answer."""
            raise NotImplementedError

        before = active.provide_runtime(None)
        try:
            with active.evaluating(Evaluation(scope=Scope())), pytest.raises(DetachedCallError, match="has ended"):
                late(ticket="hello")
        finally:
            active.provide_runtime(before)


# --- processes of the user's own --------------------------------------------------------------------------------------

FORKING = """
    import multiprocessing
    import os
    import signal

    def forked(ticket):
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            signal.alarm(20)  # who waits for ever does not
            try:
                os.write(theirs, route(ticket=ticket).encode())
            finally:
                os._exit(0)
        os.close(theirs)
        os.waitpid(child, 0)
        with os.fdopen(ours) as pipe:
            return pipe.read()

    def pooled(ticket):
        with multiprocessing.get_context("fork").Pool(1) as pool:
            team = pool.apply(route, (ticket,))
            pool.close()
            pool.join()
        return team

    @pytest.mark.prompt_metric("tickets", threshold=0.8)
    def test_routes(example):
        number = int(example.id[2:])
        away = forked if number % 8 == 3 else pooled if number % 8 == 7 else None
        before = route(ticket=example["ticket"] + " Please.")
        answer = away(example["ticket"]) if away else route(ticket=example["ticket"])
        assert [before, answer, route(ticket=example["ticket"] + " Thanks.")] == [example["team"]] * 3

    def test_no_child_is_left():
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_metric_may_fork_while_calls_are_under_way_and_both_sides_go_on(lane: Lane, tutor: Tutor) -> None:
    lane.replace("desk.py", '"""Decide which team should answer."""', f'"""{GOOD_INSTRUCTION}"""')
    lane.rows(make_tickets(24))
    lane.metric(FORKING)
    result = lane.run_apart("--prompt-concurrency", "8")
    result.assert_outcomes(passed=2)
    spending = lane.figure()["spending"]
    assert (spending["calls"], spending["attempts"]) == (66, 66)  # of 72: six are their children's
    assert Counter(tutor.heard).most_common(1)[0][1] == 1
    assert len(tutor.heard) == lane.stored() == 72
    tutor.forget()
    assert lane.run_apart("--prompt-concurrency", "8").ret == 0
    assert tutor.heard == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_carries_the_candidate_of_a_search(project: Any) -> None:
    desk = Lane(project, "scripted/learner")
    asked, (fork, answers) = (
        'route(ticket=example["ticket"])',
        FORKING.split("    def pooled")[0].split("    def forked"),
    )
    desk.metric(f"""{fork}    def forked{answers}
    @pytest.mark.prompt_metric("tickets", threshold=0.8)
    def test_routes(example):
        assert forked(example["ticket"]) == {asked}
        assert {asked} == example["team"]
    """)
    result = desk.run_apart("--optimize-prompts")
    assert result.ret == 0, result.stdout.str()
    assert desk.jobs()["desk.route"]["sealed_after"] == 1.0
    assert len(desk.frozen_files()) == 2


FORKED_WHILE_LOCKED = """
import os, signal, sys
from pathlib import Path
from threading import Event, Thread
from pytest_promptopt.lms.base import Request
from pytest_promptopt.lms.ceiling import Ceiling
from pytest_promptopt.lms.client import Client
from pytest_promptopt.lms.scripted import ScriptedLM
from pytest_promptopt.lms.store import Store

opening, may_open, parent = Event(), Event(), os.getpid()

def wait(event, arguments):
    if event == "sqlite3.connect" and os.getpid() == parent:
        opening.set()
        may_open.wait()

sys.addaudithook(wait)
request = Request(model="scripted/x", messages=({"role": "user", "content": "hello"},))
store = Store(Path(sys.argv[1]))
client = Client(lm_for=lambda _: ScriptedLM([], default="yes"), store=store, ceiling=Ceiling())
asking = Thread(target=client.complete, args=(request,))
asking.start()
opening.wait()
child = os.fork()
if not child:
    signal.alarm(10)  # who waits for ever does not
    os._exit(7 if client.complete(request).text == "yes" else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
may_open.set()
asking.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_waits_for_no_thread_that_opens_the_store_in_its_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKED_WHILE_LOCKED, str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_with_paths()) as process:
        assert process.communicate(timeout=PATIENCE_SECONDS)[0] == "7\n"


def test_a_worker_that_was_spawned_is_outside_the_run_and_its_row_is_errored_not_scored(project: Any) -> None:
    desk = Lane(project, "scripted/learner", rows=1)
    desk.metric("""
        import multiprocessing

        @pytest.mark.prompt_metric("tickets", threshold=0.8)
        def test_routes(example):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                assert pool.apply(route, (example["ticket"],)) == example["team"]
    """)
    result = desk.run_apart()
    assert result.ret == 1
    (row,) = desk.figure()["rows"]
    assert (row["status"], row["score"]) == ("error", None)
    assert "no model is configured" in row["feedback"]
    assert desk.asked() == []


# --- rows that take too long ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_that_takes_too_long_is_given_up_and_its_slot_goes_to_the_next_row(
    lane: Lane, tutor: Tutor, backend: str
) -> None:
    plugin = lane.await_route(backend)
    lane.replace("desk.py", '"""Decide which team should answer."""', f'"""{GOOD_INSTRUCTION}"""')
    lane.replace("test_desk.py", "threshold=0.8", "threshold=0.8, example_timeout=0.5")
    tickets = make_tickets(6)
    lane.rows(tickets)
    tutor.never_answers = tickets[1]["ticket"]
    result = lane.run("--prompt-concurrency", "1", plugins=plugin)
    assert result.ret == 1
    rows = lane.figure()["rows"]
    assert [row["status"] for row in rows] == ["passed", "error", "passed", "passed", "passed", "passed"]
    assert rows[1]["score"] is None
    assert "example_timeout=0.5" in rows[1]["feedback"]
    assert lane.stored() == 5
    tutor.never_answers = None
    tutor.forget()
    assert lane.run("--prompt-concurrency", "1", plugins=plugin).ret == 0
    assert len(tutor.heard) == 1


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When Ctrl-C is pressed: as the server hears these requests, all told, in a run of that kind of metric."""

    requests: tuple[int, ...]
    backend: str = ""
    concurrency: int = 16


SOURCE, PROPOSAL, SEARCH, CONFIRMATION = 17, 40, 50, 80
"""The source is asked about 39 rows, one proposal follows, then 19 rows, and 42 confirm."""

MOMENTS = {
    "the source run": Moment(requests=(SOURCE,)),
    "the proposal": Moment(requests=(PROPOSAL,)),
    "the search": Moment(requests=(SEARCH,), concurrency=4),
    "the confirmation": Moment(requests=(CONFIRMATION,)),
    "the search, asyncio": Moment(requests=(SEARCH,), backend="asyncio"),
    "the confirmation, anyio": Moment(requests=(CONFIRMATION,), backend="anyio asyncio"),
    "the source run, trio": Moment(requests=(SOURCE,), backend="trio"),
}


@pytest.mark.skipif(os.name != "posix", reason="SIGINT to a child")
@pytest.mark.parametrize("name", MOMENTS)
def test_ctrl_c_ends_a_search_at_once_and_the_next_one_pays_for_the_rest_alone(
    lane: Lane, tutor: Tutor, name: str
) -> None:
    moment = MOMENTS[name]
    plugin = lane.await_route(moment.backend) if moment.backend else ""
    arguments = ("--optimize-prompts", "--prompt-concurrency", str(moment.concurrency))
    said, code = _interrupted(lane, tutor, moment.requests, *arguments, plugins=plugin)
    assert code == pytest.ExitCode.INTERRUPTED, said
    assert "KeyboardInterrupt" in said
    assert "Traceback" not in said
    assert "INTERNALERROR" not in said
    assert "interrupted: every reply that came is kept; the same command goes on from there" in said
    _check_that_the_next_run_pays_for_the_rest_alone(lane, tutor, moment, plugin)


@pytest.mark.skipif(os.name != "posix", reason="SIGINT to a child")
def test_ctrl_c_pressed_again_and_again_loses_no_reply_and_no_file(lane: Lane, tutor: Tutor) -> None:
    moment = Moment(requests=(SEARCH, SEARCH + 1, SEARCH + 2))
    _, code = _interrupted(lane, tutor, moment.requests, "--optimize-prompts")
    assert code != 0  # pytest itself dies of one while it reports another, as chance has it by the signal or with 1
    _check_that_the_next_run_pays_for_the_rest_alone(lane, tutor, moment, "")


def _interrupted(
    lane: Lane, tutor: Tutor, requests: Collection[int], *arguments: str, plugins: str = ""
) -> tuple[str, int]:
    """What a run says, and its exit code, when Ctrl-C is pressed as the server hears ``requests``."""
    with lane.start(*arguments, plugins=plugins) as process:

        def press(number: int) -> None:
            if number in requests:
                process.send_signal(signal.SIGINT)

        tutor.on_request = press
        try:
            return process.communicate(timeout=PATIENCE_SECONDS)[0], process.returncode
        finally:
            process.kill()


def _check_that_the_next_run_pays_for_the_rest_alone(lane: Lane, tutor: Tutor, moment: Moment, plugin: str) -> None:
    paid, kept = set(tutor.heard), lane.stored()
    assert len(tutor.heard) == len(paid)
    assert len(paid) - moment.concurrency <= kept <= len(paid)  # what was under way is all that may be lost
    assert stray_files(lane.path) == []
    assert lane.frozen_files() == {}
    tutor.forget()
    assert lane.optimize("--prompt-concurrency", "16", plugins=plugin).ret == 0
    assert [job["outcome"] for job in lane.jobs().values()] == ["frozen"]
    assert len(tutor.heard) == len(paid.union(tutor.heard)) - kept
    assert lane.run(plugins=plugin).ret == 0


@pytest.mark.skipif(os.name != "posix", reason="SIGINT to a child")
@pytest.mark.parametrize("backend", ["", "asyncio", "trio"])
def test_ctrl_c_ends_a_plain_run_and_keeps_what_was_answered(lane: Lane, tutor: Tutor, backend: str) -> None:
    plugin = lane.await_route(backend) if backend else ""
    said, code = _interrupted(lane, tutor, (30,), "--prompt-concurrency", "4", plugins=plugin)
    assert code == pytest.ExitCode.INTERRUPTED, said
    assert "Traceback" not in said
    assert "INTERNALERROR" not in said
    heard, kept = len(tutor.heard), lane.stored()
    assert heard - 4 <= kept <= heard
    tutor.forget()
    lane.run(plugins=plugin)
    assert len(tutor.heard) == 60 - kept


@pytest.mark.skipif(os.name != "posix", reason="SIGINT to a child")
@pytest.mark.parametrize("carried", ["", "promptopt.propagate"])
def test_after_ctrl_c_no_thread_of_the_users_own_goes_on_asking(
    lane: Lane, tutor: Tutor, monkeypatch: pytest.MonkeyPatch, carried: str
) -> None:
    monkeypatch.setenv("PROMPTOPT_MODEL", lane.model)  # with a model of its own, production would answer
    lane.metric(f"""
        from concurrent.futures import ThreadPoolExecutor

        @pytest.mark.prompt_metric("tickets", concurrency=1)
        def test_routes(example, promptopt):
            with ThreadPoolExecutor(4) as pool:
                asked = [pool.submit({carried}(route), ticket=f"{{number}}") for number in range(200)]
            assert all(one.result() for one in asked)
    """)
    said, code = _interrupted(lane, tutor, (30,))
    assert code == pytest.ExitCode.INTERRUPTED, said
    assert len(tutor.heard) < 200


@pytest.mark.skipif(os.name != "posix", reason="SIGINT to a child")
@pytest.mark.parametrize("concurrency", [1, 4])
def test_ctrl_c_does_not_wait_for_the_end_of_a_pause(lane: Lane, tutor: Tutor, concurrency: int) -> None:
    tutor.refuses_after = 10
    arguments = ("--optimize-prompts", "--prompt-concurrency", str(concurrency))
    said, code = _interrupted(lane, tutor, (11,), *arguments)  # nobody could sit this pause out
    assert code == pytest.ExitCode.INTERRUPTED, said
    assert "Traceback" not in said
    assert lane.stored() == 10
    assert stray_files(lane.path) == []


@pytest.mark.skipif(os.name != "posix", reason="SIGINT to a child")
def test_ctrl_c_while_tests_are_collected_asks_nobody(lane: Lane, tutor: Tutor) -> None:
    lane.write("test_next.py", "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    said, code = _interrupted(lane, tutor, (), "--optimize-prompts")
    assert code == pytest.ExitCode.INTERRUPTED, said
    assert "Traceback" not in said
    assert (tutor.heard, lane.frozen_files()) == ([], {})


PRESS_AT = """

import os
import signal
import sys
from itertools import count

TIMES = count(1)


def press(event, arguments):
    is_ours = event == {event!r} and "__prompts__" in str(arguments[0]) and str(arguments[0]).endswith(".tmp")
    if is_ours and next(TIMES) == {time}:
        os.kill(os.getpid(), signal.SIGINT)


sys.addaudithook(press)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGINT to oneself")
@pytest.mark.parametrize(
    ("event", "time", "files"), [("open", 1, 0), ("open", 2, 0), ("os.rename", 1, 2), ("os.rename", 2, 2)]
)
def test_ctrl_c_while_files_are_written_leaves_all_of_them_or_none(
    project: Any, event: str, time: int, files: int
) -> None:
    desk = Lane(project, "scripted/learner")
    conftest = desk.read("conftest.py")
    desk.write("conftest.py", conftest + PRESS_AT.format(event=event, time=time))
    result = desk.run_apart("--optimize-prompts")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "Traceback" not in words(result)
    assert len(desk.frozen_files()) == files
    assert stray_files(desk.path) == []
    desk.write("conftest.py", conftest)
    desk.forget_asked()
    assert desk.optimize().ret == 0
    assert len(desk.frozen_files()) == 2
    assert desk.asked() == []
    assert desk.run().ret == 0
