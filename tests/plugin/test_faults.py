"""Faults of providers, over either edge: what each does to a plain run and to a search, told in one table.

The server is a process of its own that misbehaves by script. Nothing in a run is replaced but one thing, by the hook
that gives models: where a test is in a hurry, an error that does not say when to come back says at once, so that nobody
sits pauses out.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import pytest

from pytest_promptopt.errors import LMError, LMErrorKind
from pytest_promptopt.lms.base import Request
from pytest_promptopt.lms.models import Catalog
from pytest_promptopt.lms.registry import Registry
from pytest_promptopt.lms.retries import RETRIES
from tests.misbehaving.client import Seen, Server, misbehaving
from tests.misbehaving.script import Rule, Told
from tests.plugin.projects import GOOD_INSTRUCTION, TELLING, Desk, make_tickets, stray_files, words

KEY = "gateway-3f9c1d7b5a2e8f60"
"""It looks like no key: whoever keeps it out of a message knows its value."""

LEARNER = (
    Told(says=f"```\n{GOOD_INSTRUCTION}\n```", earlier="You improve the instruction"),
    *(Told(says=team, last=word, earlier=word) for team, known in TELLING.items() for word in known),
    Told(says="account"),
)
"""The server's model: it knows a ticket's team when the telling word was shown to it before."""

MODELS = {"aiohttp": "openai/gpt-4o-mini", "litellm": "slow-lane"}

TABLES = """
[tool.pytest-promptopt.copro]
breadth = 2
depth = 1

[tool.pytest-promptopt.models."openai/gpt-4o-mini"]
timeout_seconds = {timeout_seconds}

[tool.pytest-promptopt.models.slow-lane]
model = "openai/gpt-4o-mini"
base_url = "{url}"
edge = "litellm"
timeout_seconds = {timeout_seconds}
"""

HASTE = """
import os
import tomllib
from pathlib import Path

from pytest_promptopt.errors import LMError
from pytest_promptopt.lms.models import Catalog
from pytest_promptopt.lms.registry import Registry


class Hasty:
    def __init__(self, lm):
        self.lm = lm
        self.prepare = lm.prepare
        self.aclose = lm.aclose

    async def acomplete(self, request):
        try:
            return await self.lm.acomplete(request)
        except LMError as error:
            error.retry_after_seconds = error.retry_after_seconds or 0.001
            raise


def make(model):
    tables = tomllib.loads(Path(__file__).with_name("pyproject.toml").read_text())["tool"]["pytest-promptopt"]["models"]
    return Hasty(Registry(Catalog(tables, environ=os.environ)).lm_for(model))
"""
"""What the project's conftest may ask for models: its edges are the real ones."""

TICKETS = make_tickets(26)
HIT = TICKETS[0]["ticket"]
"""The ticket that faults hit. A search seals it: they strike when there is a winner to be frozen."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with misbehaving() as running:
        yield running


@pytest.fixture(scope="module", params=MODELS)
def edge(request: pytest.FixtureRequest, server: Server) -> str:
    """The name of an edge that was used before: a run inside this process forgets what it imports itself."""
    name = str(request.param)
    server.follow(Rule(does="bad request", every=2))
    models = tomllib.loads(TABLES.format(url=server.url, timeout_seconds=60))["tool"]["pytest-promptopt"]["models"]
    environ = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY}
    lm = Registry(Catalog(models, environ=environ), environ=environ).lm_for(MODELS[name])
    asyncio.run(_answer_and_fail(lm))
    return name


async def _answer_and_fail(lm: Any) -> None:
    request = Request(model="openai/gpt-4o-mini", messages=({"role": "user", "content": "hello"},))
    await lm.acomplete(request)
    with pytest.raises(LMError):
        await lm.acomplete(request)
    await lm.aclose()


class Street(Desk):
    """The desk, whose model is the server's, over the edge of that name."""

    def __init__(self, project: Any, server: Server, edge: str, *, rows: int = len(TICKETS)) -> None:
        super().__init__(project, rows=rows)
        self.url = server.url
        self.ini(model=MODELS[edge])
        self.wait(seconds=5.0)

    def wait(self, *, seconds: float) -> None:
        """Let a call that takes longer time out."""
        self.write("pyproject.toml", TABLES.format(url=self.url, timeout_seconds=seconds))

    def hurry(self) -> None:
        """Let nobody pause between attempts."""
        self.write("learner.py", HASTE)

    def teach(self) -> None:
        """Write the good instruction into the source, so that a plain run passes."""
        self.replace("desk.py", '"""Decide which team should answer."""', f'"""{GOOD_INSTRUCTION}"""')

    def freeze(self) -> None:
        """Search, and be sure that a winner was frozen."""
        assert self.optimize("-q").ret == 0
        assert self.frozen_files()

    def start_anew(self) -> None:
        """Forget what was answered and frozen."""
        self.forget_replies()
        shutil.rmtree(self.path / "__prompts__")

    def rows_reported(self) -> dict[str, Any]:
        """The rows of the only metric of the last plain run, by id."""
        return {row["id"]: row for row in self.figure()["rows"]}


@pytest.fixture
def street(project: Any, server: Server, edge: str, monkeypatch: pytest.MonkeyPatch) -> Street:
    """A desk whose server is well, and knows nothing of the tests before."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.follow(replies=LEARNER)
    return Street(project, server, edge)


def asked_for(log: Iterable[Seen], ticket: str = HIT) -> int:
    return sum(ticket in seen.text for seen in log)


def answered(log: Iterable[Seen]) -> set[str]:
    return {seen.content for seen in log if seen.behaviour == "answer"}


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How runs end when one ticket is hit whenever it is asked for.

    Of a plain run: the row's ``status`` and ``score``, exit code and verdict. Of a search: exit code, and whether it
    ``froze`` its winner. ``asked_next`` is how often the next plain run, with a server that is well, asks for anything.
    """

    status: str
    score: float | None
    plain_exit: int
    verdict: str
    search_exit: int
    froze: bool
    asked_next: int


ERRORED = Ending(status="error", score=None, plain_exit=1, verdict="errored", search_exit=1, froze=False, asked_next=1)
UNREADABLE = Ending(status="format", score=0.0, plain_exit=0, verdict="pass", search_exit=0, froze=True, asked_next=0)
ANSWERED = Ending(status="passed", score=1.0, plain_exit=0, verdict="pass", search_exit=0, froze=True, asked_next=0)


@dataclass(frozen=True, slots=True)
class Fault:
    """What the server does, the ``kind`` of error it is, and how often a plain run has ``asked`` before it ends so."""

    rule: Rule
    kind: str
    asked: int
    ending: Ending


FAULTS = {
    "429": Fault(Rule(does="429"), "rate limit", 8, ERRORED),
    "429 in seconds": Fault(Rule(does="429", retry_after="0.001"), "rate limit", 8, ERRORED),
    "500": Fault(Rule(does="500"), "server", 4, ERRORED),
    "502": Fault(Rule(does="502"), "server", 4, ERRORED),
    "503": Fault(Rule(does="503"), "server", 4, ERRORED),
    "529": Fault(Rule(does="529"), "server", 4, ERRORED),
    "html 502": Fault(Rule(does="html 502"), "server", 4, ERRORED),
    "error with 200": Fault(Rule(does="error with 200"), "server", 4, ERRORED),
    "reset": Fault(Rule(does="reset"), "server", 4, ERRORED),
    "cut": Fault(Rule(does="cut"), "server", 4, ERRORED),
    "cut in the head": Fault(Rule(does="cut", at=20), "server", 4, ERRORED),
    "hang": Fault(Rule(does="hang"), "timeout", 3, ERRORED),
    "too slow a body": Fault(Rule(does="drip", pause_seconds=0.1), "timeout", 3, ERRORED),
    "truncated": Fault(Rule(does="truncated"), "malformed", 2, ERRORED),
    "html": Fault(Rule(does="html"), "malformed", 2, ERRORED),
    "no choices": Fault(Rule(does="no choices"), "malformed", 2, ERRORED),
    "null content": Fault(Rule(does="null content"), "malformed", 2, ERRORED),
    "nothing but length": Fault(Rule(does="length"), "malformed", 2, ERRORED),
    # What is about the request comes again with it: nobody asks twice.
    "context length": Fault(Rule(does="context length"), "context window", 1, ERRORED),
    "content policy": Fault(Rule(does="content policy"), "content policy", 1, ERRORED),
    "filtered": Fault(Rule(does="filtered"), "content policy", 1, ERRORED),
    "refusal": Fault(Rule(does="refusal"), "content policy", 1, ERRORED),
    "bad request": Fault(Rule(does="bad request"), "bad request", 1, ERRORED),
    # What is about the key or the model lasts: nobody asks again at all.
    "wrong key": Fault(Rule(does="wrong key"), "auth", 1, ERRORED),
    "no money": Fault(Rule(does="quota"), "auth", 1, ERRORED),
    "unknown model": Fault(Rule(does="unknown model"), "bad request", 1, ERRORED),
    # An answer is an answer, whatever comes with it: it is scored and kept.
    "empty content": Fault(Rule(does="empty content"), "", 1, UNREADABLE),
    "cut short": Fault(Rule(does="length", text="It seems"), "", 1, UNREADABLE),
    "several choices": Fault(Rule(does="several choices"), "", 1, ANSWERED),
    "no usage": Fault(Rule(does="no usage"), "", 1, ANSWERED),
    "slow body": Fault(Rule(does="drip", pause_seconds=0.005), "", 1, ANSWERED),
    "late": Fault(Rule(does="answer", latency_seconds=0.1), "", 1, ANSWERED),
    # What a server will not take is left out from then on.
    "no temperature": Fault(Rule(does="refuses", parameter="temperature"), "", 2, ANSWERED),
}
IMPATIENT = ("hang", "too slow a body")
"""The faults under which a call is given 0.4 seconds."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_plain_run_ends_as_the_table_says(street: Street, server: Server, name: str) -> None:
    fault, ending = FAULTS[name], FAULTS[name].ending
    street.teach()
    street.rows(TICKETS[5::-1])  # the one that is hit comes last
    street.wait(seconds=0.4 if name in IMPATIENT else 5.0)
    street.hurry()
    server.follow(replace(fault.rule, contains=HIT), replies=LEARNER)
    result = street.run("--prompt-concurrency", "1")
    figure, rows = street.figure(), street.rows_reported()
    hit = rows.pop("t-001")
    assert (hit["status"], hit["score"]) == (ending.status, ending.score)
    assert hit["why"].startswith(f"{fault.kind}: " if fault.kind else "")
    assert [row["status"] for row in rows.values()] == ["passed"] * 5
    assert (result.ret, figure["verdict"]["outcome"]) == (ending.plain_exit, ending.verdict)
    log = server.log()
    assert (asked_for(log), len(log)) == (fault.asked, fault.asked + 5)
    assert figure["spending"]["attempts"] == len(log)
    assert KEY not in result.stdout.str() + result.stderr.str()

    server.follow(replies=LEARNER)
    assert street.run().ret == 0
    assert len(server.log()) == ending.asked_next


@pytest.mark.parametrize("name", FAULTS)
def test_a_search_ends_as_the_table_says(street: Street, server: Server, edge: str, name: str) -> None:
    fault, ending = FAULTS[name], FAULTS[name].ending
    street.wait(seconds=0.4 if name in IMPATIENT else 5.0)
    street.hurry()
    server.follow(replace(fault.rule, contains=HIT), replies=LEARNER)
    result = street.optimize()
    log = server.log()
    assert asked_for(log) >= fault.asked
    assert any(GOOD_INSTRUCTION in seen.content for seen in log)  # the winner was there
    assert result.ret == ending.search_exit
    assert re.findall(r", row t-\d+: ([a-z ]+): ", words(result))[:1] == ([fault.kind] if fault.kind else [])
    assert [job["outcome"] for job in street.jobs().values()] == (["frozen"] if ending.froze else [])
    assert bool(street.frozen_files()) == ending.froze
    assert stray_files(street.path) == []
    assert KEY not in result.stdout.str() + result.stderr.str()
    if not ending.froze and edge == "aiohttp":  # what a run keeps is no matter of the edge
        server.follow(replies=LEARNER)
        assert street.optimize().ret == 0
        assert [job["outcome"] for job in street.jobs().values()] == ["frozen"]
        assert answered(server.log()).isdisjoint(answered(log))


def test_what_happens_once_leaves_no_trace_in_a_search(street: Street, server: Server) -> None:
    street.freeze()
    undisturbed, asked = street.frozen_files(), {seen.content for seen in server.log()}
    street.start_anew()
    street.wait(seconds=0.4)
    passing = [fault.rule for fault in FAULTS.values() if fault.asked > 1 and fault.kind]
    once = [replace(rule, contains=row["ticket"], tries=1) for rule, row in zip(passing, TICKETS, strict=False)]
    street.hurry()
    server.follow(*once, replies=LEARNER)
    result = street.optimize()
    assert result.ret == 0, result.stdout.str()
    assert street.frozen_files() == undisturbed
    log = server.log()
    assert {seen.content for seen in log} == answered(log) == asked
    assert {seen.behaviour for seen in log} >= {rule.does for rule in passing}


@pytest.mark.parametrize("parameter", ["temperature", "max_tokens"])
def test_a_parameter_that_is_refused_is_left_out_from_then_on(street: Street, server: Server, parameter: str) -> None:
    street.teach()
    street.replace("desk.py", "@prompt\n", "@prompt(temperature=0.5, max_tokens=50)\n")
    server.follow(Rule(does="refuses", parameter=parameter), replies=LEARNER)
    result = street.run("--prompt-concurrency", "4")
    assert result.ret == 0, result.stdout.str()
    counts = server.counts()
    assert 1 <= counts["refuses"] <= 4  # as many as were under way when the first came back
    assert counts["answer"] == len(TICKETS)
    assert street.figure()["spending"]["attempts"] == counts.total()
    sent = {"temperature", "max_tokens", "max_completion_tokens"} & server.log()[-1].body.keys()
    assert sent == {"temperature": {"max_tokens"}, "max_tokens": {"temperature", "max_completion_tokens"}}[parameter]


# --- storms -----------------------------------------------------------------------------------------------------------


def test_a_storm_of_refusals_is_sat_out(street: Street, server: Server) -> None:
    street.teach()
    server.follow(Rule(does="429", until=20, retry_after="0.02"), replies=LEARNER)
    result = street.run()
    assert result.ret == 0, result.stdout.str()
    assert server.counts() == {"429": 20, "answer": len(TICKETS)}


def test_fewer_are_sent_at_once_when_the_server_takes_fewer(street: Street, server: Server) -> None:
    street.teach()
    rule = Rule(does="429", in_flight_above=4, retry_after="0.02")
    server.follow(rule, replies=LEARNER, latency_seconds=0.01)
    result = street.run("--prompt-concurrency", "16")
    assert result.ret == 0, result.stdout.str()
    counts = server.counts()
    assert counts["answer"] == len(TICKETS)
    assert 0 < counts["429"] < len(TICKETS)  # the first burst, and little after it


# --- what ends a run --------------------------------------------------------------------------------------------------


def test_a_key_that_expires_in_mid_run_is_an_error_and_few_ask_with_it_again(street: Street, server: Server) -> None:
    street.teach()
    server.follow(Rule(does="wrong key", key=KEY, after=15), replies=LEARNER)
    result = street.run("--prompt-concurrency", "4")
    assert result.ret == 1
    rows = street.rows_reported()
    ended = Counter((row["status"], row["score"]) for row in rows.values())
    assert ended == {("passed", 1.0): 15, ("error", None): len(TICKETS) - 15}
    assert all(row["why"].startswith("auth: ") for row in rows.values() if row["status"] == "error")
    assert 1 <= server.counts()["wrong key"] <= 4
    assert "OPENAI_API_KEY" in words(result)
    assert KEY not in result.stdout.str()

    server.follow(replies=LEARNER)
    assert street.run().ret == 0
    assert len(server.log()) == len(TICKETS) - 15


def test_a_provider_that_dies_in_a_search_ends_it_and_the_next_pays_for_the_rest_alone(
    project: Any, edge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with misbehaving(Rule(does="die", numbers=(150,)), replies=LEARNER) as dying:
        monkeypatch.setenv("OPENAI_BASE_URL", dying.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        street = Street(project, dying, edge, rows=120)
        street.hurry()
        result = street.optimize()
        assert result.ret == 1
        assert "nothing answers at this address" in words(result)
        assert street.frozen_files() == {}
        assert street.jobs() == {}
        assert dying.is_gone
        with misbehaving(port=dying.port, replies=LEARNER) as well:
            assert street.optimize().ret == 0
            assert street.jobs()["desk.route"]["outcome"] == "frozen"
            paid_before, paid_now = answered(dying.log()), [seen.content for seen in well.log()]
            assert len(paid_before) == 149
            assert paid_before.isdisjoint(paid_now)
            assert len(set(paid_now)) == len(paid_now)


@pytest.mark.parametrize("search", [(), ("--optimize-prompts",)], ids=["plain", "search"])
def test_a_metric_that_always_raises_is_errored_at_once(street: Street, server: Server, search: tuple[str]) -> None:
    street.rows(make_tickets(300))
    street.replace("test_desk.py", 'example["team"]', 'example["tema"]')
    result = street.run(*search, "--prompt-concurrency", "4")
    assert result.ret == 1
    assert "tema" in words(result)
    assert len(server.log()) <= 20
    assert street.frozen_files() == {}


# --- a flaky network --------------------------------------------------------------------------------------------------

FLAKY = (
    Rule(does="429", share=0.008, retry_after="0.01"),
    Rule(does="500", share=0.006, retry_after="0.01"),
    Rule(does="503", share=0.006, retry_after_ms=1),
    Rule(does="529", share=0.005, retry_after="0.01"),
    Rule(does="reset", share=0.006),
    Rule(does="cut", share=0.004),
    Rule(does="hang", share=0.001),
    Rule(does="truncated", share=0.004),
    Rule(does="html", share=0.004),
    Rule(does="no choices", share=0.002),
    Rule(does="context length", share=0.002),
    Rule(does="content policy", share=0.002),
)
"""Five in a hundred requests."""

KINDS = {
    "429": "rate limit",
    "500": "server",
    "503": "server",
    "529": "server",
    "reset": "server",
    "cut": "server",
    "hang": "timeout",
    "truncated": "malformed",
    "html": "malformed",
    "no choices": "malformed",
    "context length": "context window",
    "content policy": "content policy",
}


def _most_attempts(kind: str) -> int:
    rule = RETRIES.get(LMErrorKind(kind))
    return rule.max_attempts if rule else 1


def test_a_flaky_network_loses_no_row_scores_none_and_is_asked_as_often_as_the_rules_say(
    project: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    street = Street(project, server, "aiohttp", rows=2000)
    street.wait(seconds=2.0)
    street.teach()
    server.follow(*FLAKY, replies=LEARNER)
    result = street.run("--prompt-budget", "none")
    log = server.log()
    faults = sum(seen.behaviour != "answer" for seen in log)
    assert 80 <= faults <= 120

    tries = {text: [seen.behaviour for seen in seens] for text, seens in _by_text(log).items()}
    lost = {text: KINDS[behaviours[-1]] for text, behaviours in tries.items() if behaviours[-1] != "answer"}
    assert lost  # some faults are never asked again
    for behaviours in tries.values():
        kinds = Counter(KINDS[behaviour] for behaviour in behaviours if behaviour != "answer")
        assert behaviours.count("answer") <= 1
        assert all(count <= _most_attempts(kind) for kind, count in kinds.items())
        if behaviours[-1] != "answer":
            assert kinds[KINDS[behaviours[-1]]] == _most_attempts(KINDS[behaviours[-1]])

    text_of = {row["id"]: row["ticket"] for row in make_tickets(2000)}
    rows = street.rows_reported()
    assert rows.keys() == text_of.keys()
    errors = {row["id"]: row["why"].partition(":")[0] for row in rows.values() if row["status"] == "error"}
    assert errors == {row: kind for row, ticket in text_of.items() for text, kind in lost.items() if ticket in text}
    assert all(row["score"] == 1.0 for row in rows.values() if row["id"] not in errors)
    assert (result.ret, street.figure()["verdict"]["outcome"]) == (1, "errored")
    assert street.figure()["spending"]["attempts"] == len(log)

    server.follow(replies=LEARNER)
    assert street.run("--prompt-budget", "none").ret == 0
    assert {seen.text for seen in server.log()} == lost.keys()
    assert len(server.log()) == len(lost)


def _by_text(log: Iterable[Seen]) -> dict[str, list[Seen]]:
    """The requests for each question, in the order in which they came."""
    ordered = sorted(log, key=lambda seen: (seen.text, seen.number))
    return {text: list(seens) for text, seens in groupby(ordered, key=lambda seen: seen.text)}
