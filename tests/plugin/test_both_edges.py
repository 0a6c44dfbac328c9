"""The example project over the network, through either edge: the same requests go out, the same files are frozen.

The server is a process of its own that behaves, and thinks as ``offline/keyword`` does. Replies come in another order
than requests went out. Proposals are drawn at temperature 0, because two draws of one request look alike on the wire.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_promptopt.lms.base import Usage
from pytest_promptopt.lms.models import Price
from pytest_promptopt.lms.offline import reply
from tests.misbehaving.client import Seen, Server, misbehaving
from tests.misbehaving.script import Rule, Told
from tests.plugin.projects import GOOD_INSTRUCTION, TELLING, Desk, frozen_files, stray_files, words

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "example_project"
KEY = "sk-over-the-counter-9d41"
MODELS = {"aiohttp": "openai/gpt-4o-mini", "litellm": "deepseek/desk-chat"}
PRICE = Price(input_usd=0.5, output_usd=2.0)
SPREAD_SECONDS = 0.004

CONFTEST = """
import json
import os
import sys

from pytest_promptopt.reports.records import to_json


def refuse_network(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise PermissionError(f"this test refuses the network: {event}")


if os.environ.get("NETWORK") == "refused":
    sys.addaudithook(refuse_network)


def pytest_promptopt_job_finished(config, report):
    with open(config.rootpath / "jobs.jsonl", "a") as file:
        file.write(json.dumps(to_json(report)) + "\\n")
"""


class Shop:
    """A copy of the example project that has frozen nothing, with a model of its own by the name of ``desk``."""

    def __init__(self, path: Path, model: str, *, url: str = "", price: Price | None = None) -> None:
        self.path = path
        ignored = shutil.ignore_patterns("__prompts__", ".promptopt", "__pycache__", ".pytest_cache")
        shutil.copytree(EXAMPLE, path, ignore=ignored)
        (path / "conftest.py").write_text(CONFTEST)
        lines = ["", "[tool.pytest-promptopt.auto]", "init_temperature = 0", ""]
        lines += ["[tool.pytest-promptopt.models.desk]", f'model = "{model}"']
        lines += [f'base_url = "{url}"', 'key_variable = "DESK_KEY"'] if url else []
        lines += [f"price = {{ input = {price.input_usd}, output = {price.output_usd} }}"] if price else []
        settings = path / "pyproject.toml"
        text = settings.read_text().replace('promptopt_model = "offline/keyword"', 'promptopt_model = "desk"')
        settings.write_text(text + "\n".join(lines) + "\n")

    def lower_thresholds(self) -> None:
        """Let the bare docstrings do."""
        tests = self.path / "tests/test_support.py"
        tests.write_text(re.sub(r"threshold=0\.\d+", "threshold=0.1", tests.read_text()))

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run pytest in a process of its own, any warning an error; it knows the key and little else."""
        (self.path / "jobs.jsonl").unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-p", "promptopt", "-p", "no:cacheprovider", "-W", "error"]
        return subprocess.run(
            [*command, *arguments],
            cwd=self.path,
            env={**environment(), **variables},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def optimize(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Search."""
        return self.run("--optimize-prompts", *arguments)

    def jobs(self) -> list[dict[str, Any]]:
        """What each job of the last run reported; the first of a group has what all of it spent."""
        return [json.loads(line) for line in (self.path / "jobs.jsonl").read_text().splitlines()]

    def frozen_files(self) -> dict[str, bytes]:
        """Everything below any ``__prompts__``, by path."""
        return frozen_files(self.path)


def environment() -> dict[str, str]:
    """As on a laptop, wherever this runs."""
    ours = ("PROMPTOPT_", "PYTEST_", "CI", "GITHUB_ACTIONS", "BUILD", "OPENAI_", "DEEPSEEK_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT), "DESK_KEY": KEY, "COLUMNS": "120"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A search over one edge, the same again, a plain run when the server is gone, and one in a ``fresh`` checkout.

    ``log`` is what the server saw of the first search, ``late`` of all that came after.
    """

    shop: Shop
    model: str
    search: subprocess.CompletedProcess[str]
    jobs: list[dict[str, Any]]
    log: list[Seen]
    files: Mapping[str, bytes]
    again: subprocess.CompletedProcess[str]
    late: list[Seen]
    files_at_the_end: Mapping[str, bytes]
    plain: subprocess.CompletedProcess[str]
    fresh: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Story]:
    """The story over each edge."""
    folder = tmp_path_factory.mktemp("edges")
    return {edge: tell(folder / edge, model) for edge, model in MODELS.items()}


def tell(path: Path, model: str) -> Story:
    with misbehaving(spread_seconds=SPREAD_SECONDS) as server:
        shop = Shop(path, model, url=server.url, price=PRICE)
        search = shop.optimize("--prompt-budget", "none")
        jobs, log, files = shop.jobs(), server.log(), shop.frozen_files()
        again = shop.optimize("--prompt-budget", "none")
        late = server.log()[len(log) :]
    plain = shop.run("--prompt-lm", "replay")
    shutil.rmtree(shop.path / ".promptopt")
    fresh = shop.run(CI="true", NETWORK="refused", DESK_KEY="")
    return Story(
        shop=shop,
        model=model,
        search=search,
        jobs=jobs,
        log=log,
        files=files,
        again=again,
        late=late,
        files_at_the_end=shop.frozen_files(),
        plain=plain,
        fresh=fresh,
    )


@pytest.fixture(params=MODELS)
def story(request: pytest.FixtureRequest, stories: Mapping[str, Story]) -> Story:
    """The story over one edge."""
    return stories[request.param]


def sent(log: Iterable[Seen]) -> Counter[str]:
    """What was asked, how often each, without the name of the model that was asked."""
    return Counter(
        json.dumps({name: value for name, value in seen.body.items() if name != "model"}, sort_keys=True)
        for seen in log
    )


def cost_usd(log: Iterable[Seen], price: Price = PRICE) -> float:
    """What the server's answers cost. It counts words as tokens, and answers as the simulator does."""
    return sum(price.cost_usd(_usage(seen.body["messages"])) for seen in log if seen.behaviour == "answer")


def _usage(messages: list[dict[str, str]]) -> Usage:
    return Usage(
        prompt_tokens=sum(len(message["content"].split()) for message in messages),
        completion_tokens=len(reply("offline/keyword", messages).split()),
    )


# --- one search over each edge ----------------------------------------------------------------------------------------


def test_both_edges_find_and_freeze_what_the_simulator_in_the_process_does(
    stories: Mapping[str, Story], tmp_path: Path
) -> None:
    simulated = Shop(tmp_path / "simulated", "offline/keyword")
    assert simulated.optimize().returncode == 0
    files = simulated.frozen_files()
    recorded = {edge: set(story.files) - set(files) for edge, story in stories.items()}
    beside_baselines = {name.replace(".toml", ".jsonl") for name in files if name.startswith("tests/")}
    assert recorded == dict.fromkeys(MODELS, beside_baselines)
    for story in stories.values():
        assert {name: story.files[name] for name in files} == files
    assert set(files) == {  # the alias names them
        "support/__prompts__/prompts.priority@desk.toml",
        "support/__prompts__/prompts.route@desk.toml",
        "tests/__prompts__/test_support.test_routes_tickets@desk.toml",
        "tests/__prompts__/test_support.test_sets_priority@desk.toml",
        "tests/__prompts__/test_support.test_triages_tickets@desk.toml",
    }


def test_both_edges_send_the_same_messages_and_parameters(stories: Mapping[str, Story]) -> None:
    directly, through_litellm = sent(stories["aiohttp"].log), sent(stories["litellm"].log)
    assert directly == through_litellm
    assert directly.total() > 1_000
    assert all(
        seen.body.keys() == {"model", "messages", "temperature"} for story in stories.values() for seen in story.log
    )
    assert max(seen.in_flight for story in stories.values() for seen in story.log) > 1  # several under way at once


def test_a_search_asks_the_model_behind_the_name_with_its_key_and_freezes(story: Story) -> None:
    assert story.search.returncode == 0, story.search.stdout
    assert {job["outcome"] for job in story.jobs} == {"frozen"}
    assert {seen.body["model"] for seen in story.log} == {story.model.partition("/")[2]}
    assert {seen.key for seen in story.log} == {KEY}
    assert f"prompts: desk ({story.model}) at http://127.0.0.1" in story.search.stdout
    assert story.search.stderr == ""


def test_no_request_goes_out_twice(story: Story) -> None:
    assert set(sent(story.log).values()) == {1}


def test_a_second_search_asks_nothing_and_changes_no_byte(story: Story) -> None:
    assert story.again.returncode == 0
    assert "0 calls, everything from the store" in story.again.stdout
    assert story.late == []
    assert story.files_at_the_end == story.files
    assert stray_files(story.shop.path) == []


def test_a_plain_run_passes_from_what_was_kept_when_the_server_is_gone(story: Story) -> None:
    assert story.plain.returncode == 0, story.plain.stdout
    assert "0 called" in story.plain.stdout


def test_the_gate_passes_in_a_fresh_checkout_in_ci_with_the_network_refused(story: Story) -> None:
    assert story.fresh.returncode == 0, story.fresh.stdout
    assert "replay (CI is set), no call can be made" in story.fresh.stdout
    assert "0 called, $0.00" in story.fresh.stdout


def test_what_is_recorded_holds_no_key(story: Story) -> None:
    assert not any(KEY.encode() in content for content in story.files.values())


# --- money and calls --------------------------------------------------------------------------------------------------


def test_a_search_says_what_its_answers_cost(story: Story) -> None:
    spent = cost_usd(story.log)
    assert sum(job["spending"]["cost_usd"] for job in story.jobs) == pytest.approx(spent, rel=1e-9)
    assert sum(job["spending"]["attempts"] for job in story.jobs) == len(story.log)
    assert f"{len(story.log)}  ${spent:.3f}/1.00" in story.search.stdout


def test_a_second_search_costs_nothing(story: Story) -> None:
    assert re.search(r"^ +0 +\$0\.00", story.again.stdout, re.MULTILINE)


ROUTES = ("-k", "routes", "--prompt", "route", "--prompt-concurrency", "32")
COPRO = (
    "--prompt-optimizer",
    "copro",
    *(f"--prompt-set=copro.{each}" for each in ("breadth=2", "depth=1", "init_temperature=0")),
)
"""A short search: 105 calls for the source, 50 for one proposal, 158 to confirm it."""

DEMOS = ("--prompt-optimizer", "labeled-few-shot")
"""Its prompts are several times as long as the source, which nobody expects of a confirmation before it begins."""

MONEY = "0.02"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A run, and what the server saw of it; ``job`` is what a search reported."""

    result: subprocess.CompletedProcess[str]
    job: dict[str, Any]
    log: list[Seen]

    @property
    def said(self) -> str:
        """What it said, on one line."""
        return " ".join(self.result.stdout.split())


def run_at(server: Server, shop: Shop, *arguments: str) -> Ran:
    before = len(server.log())
    result = shop.run(*ROUTES, *arguments)
    job = shop.jobs()[0] if "--optimize-prompts" in arguments else {}
    return Ran(result=result, job=job, log=server.log()[before:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpriced:
    """Runs with a model whose price nobody knows and a server that is overloaded now and then.

    A ceiling on calls ended ``search``, which left ``files`` and which ``resumed`` went on with, and ``plain``, which
    ``rest`` went on with.
    """

    search: Ran
    files: Mapping[str, bytes]
    resumed: Ran
    plain: Ran
    rest: Ran


@pytest.fixture(scope="module", params=["openai/desk-chat", MODELS["litellm"]], ids=tuple(MODELS))
def unpriced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Unpriced:
    """The runs over one edge."""
    folder = tmp_path_factory.mktemp("unpriced")
    again_at_once = Rule(does="503", every=9, tries=2, retry_after="0.001")  # or retries may meet every ninth for ever
    with misbehaving(again_at_once, spread_seconds=SPREAD_SECONDS) as server:
        searched, tested = (Shop(folder / name, request.param, url=server.url) for name in ("searched", "tested"))
        search = run_at(server, searched, "--optimize-prompts", *COPRO, "--prompt-budget", "320")
        return Unpriced(
            search=search,
            files=searched.frozen_files(),
            resumed=run_at(server, searched, "--optimize-prompts", *COPRO),
            plain=run_at(server, tested, "--prompt-budget", "150"),
            rest=run_at(server, tested),
        )


def test_a_search_passes_its_budget_by_no_request_and_freezes_nothing_unproven(unpriced: Unpriced) -> None:
    search = unpriced.search
    assert len(search.log) == search.job["spending"]["attempts"] == 320
    assert (search.job["outcome"], search.job["reason"]) == ("kept", "a ceiling was reached before it was confirmed")
    assert "The ceiling of 320 LM calls is reached (--prompt-budget 320). Raise it to go on." in search.said
    assert unpriced.files == {}
    assert (search.result.returncode, "BELOW THRESHOLD" in search.said) == (1, True)  # what stands; nothing errored


def test_a_search_that_its_budget_ended_is_resumed_for_what_is_missing(unpriced: Unpriced) -> None:
    answered = sent(seen for seen in [*unpriced.search.log, *unpriced.resumed.log] if seen.behaviour == "answer")
    assert set(answered.values()) == {1}
    assert answered.total() == 313
    assert unpriced.resumed.job["outcome"] == "frozen"


def test_a_plain_run_passes_its_budget_by_no_request_and_the_next_pays_for_the_rest(unpriced: Unpriced) -> None:
    assert len(unpriced.plain.log) == 150
    assert "The ceiling of 150 LM calls is reached (--prompt-budget 150)" in unpriced.plain.said
    assert unpriced.plain.result.returncode == 1
    answered = sent(seen for seen in [*unpriced.plain.log, *unpriced.rest.log] if seen.behaviour == "answer")
    assert set(answered.values()) == {1}
    assert answered.total() == 184


def test_a_cost_that_nobody_knows_is_unknown_and_never_nothing(unpriced: Unpriced) -> None:
    for run in (unpriced.search, unpriced.rest):
        assert "cost unknown" in run.said
        assert "$0.0" not in run.said


@pytest.mark.parametrize("edge", MODELS)
def test_a_search_keeps_to_its_ceiling_on_money_and_freezes_nothing_unproven(edge: str, tmp_path: Path) -> None:
    with misbehaving(spread_seconds=SPREAD_SECONDS) as server:
        shop = Shop(tmp_path / "shop", MODELS[edge], url=server.url, price=PRICE)
        shop.lower_thresholds()
        search = run_at(server, shop, "--optimize-prompts", *DEMOS, "--prompt-max-cost", MONEY)
    spent = cost_usd(search.log)
    assert 0.5 * float(MONEY) < spent <= float(MONEY)
    assert search.job["spending"]["cost_usd"] == pytest.approx(spent, rel=1e-9)
    assert f"${spent:.3f}/{MONEY}" in search.said
    assert (search.job["outcome"], search.job["reason"]) == ("kept", "a ceiling was reached before it was confirmed")
    assert f"(--prompt-max-cost {MONEY})" in search.said
    assert search.result.returncode == 0  # what stands is good enough
    assert shop.frozen_files() == {}


# --- names of one's own -----------------------------------------------------------------------------------------------

LEARNER = (
    Told(says=f"```\n{GOOD_INSTRUCTION}\n```", earlier="You improve the instruction"),
    *(Told(says=team, last=word, earlier=word) for team, known in TELLING.items() for word in known),
    Told(says="account"),
)
ALIASES = """
[tool.pytest-promptopt.copro]
breadth = 2
depth = 1

[tool.pytest-promptopt.models]
large = {{ model = "openai/large-1", base_url = "{url}", key_variable = "DESK_KEY" }}
small = {{ model = "openai/small-1", base_url = "{url}", key_variable = "DESK_KEY" }}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One that knows a ticket's team when it was shown the telling word."""
    with misbehaving(replies=LEARNER) as running:
        yield running


class NamedDesk(Desk):
    """The desk, with two names for models of the server."""

    def __init__(self, project: Any, server: Server) -> None:
        super().__init__(project, rows=26)
        self.write("conftest.py", "")
        self.write("pyproject.toml", ALIASES.format(url=server.url))
        self.ini(model="small")


@pytest.fixture
def desk(project: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> NamedDesk:
    """A desk whose server has seen nothing yet."""
    monkeypatch.setenv("DESK_KEY", KEY)
    server.follow(replies=LEARNER)
    return NamedDesk(project, server)


def asked(server: Server) -> set[str]:
    """The models that were asked for."""
    return {str(seen.body["model"]) for seen in server.log()}


def test_two_names_in_one_run_are_two_models_with_a_snapshot_each(desk: NamedDesk, server: Server) -> None:
    matrix = ("--prompt-model", "large", "--prompt-model", "small")
    assert desk.run_apart("--optimize-prompts", *matrix).ret == 0
    assert asked(server) == {"large-1", "small-1"}
    assert {name for name in desk.frozen_files() if "desk.route" in name} == {
        "__prompts__/desk.route@large.toml",
        "__prompts__/desk.route@small.toml",
    }
    table = desk.run_apart(*matrix)
    assert table.ret == 0
    table.stdout.fnmatch_lines(["metric*large*small", "test_routes*1.00*pass*1.00*pass*"])


def test_a_name_in_the_ini_file_and_one_at_a_prompt_are_each_asked(desk: NamedDesk, server: Server) -> None:
    desk.replace("desk.py", "@prompt\n", '@prompt(model="large")\n')
    desk.write(
        "judges.py",
        '''
        from pytest_promptopt import prompt


        @prompt
        def judge(ticket: str) -> str:
            """Say what is wrong."""
        ''',
    )
    desk.replace("test_desk.py", "from desk import route", "from desk import route\nfrom judges import judge")
    desk.replace("test_desk.py", "    assert route", '    judge(ticket=example["ticket"])\n    assert route')
    desk.run_apart()
    by_model = Counter(str(seen.body["model"]) for seen in server.log())
    assert by_model == {"large-1": 26, "small-1": 26}


def test_a_name_may_be_the_proposers(desk: NamedDesk, server: Server) -> None:
    assert desk.run_apart("--optimize-prompts", "--prompt-proposer", "large").ret == 0
    proposals = [seen for seen in server.log() if "You improve the instruction" in seen.body["messages"][0]["content"]]
    assert {seen.body["model"] for seen in proposals} == {"large-1"}
    assert {seen.body["model"] for seen in server.log() if seen not in proposals} == {"small-1"}
    assert 'proposer = "large"' in desk.read("__prompts__/desk.route@small.toml")


def test_a_name_behind_which_another_model_is_put_replays_nothing_old(desk: NamedDesk, server: Server) -> None:
    desk.run_apart()
    desk.replace("pyproject.toml", "openai/small-1", "openai/small-2")
    desk.run_apart()
    assert Counter(str(seen.body["model"]) for seen in server.log()) == {"small-1": 26, "small-2": 26}


@pytest.mark.parametrize("option", ["--prompt-model", "--prompt-proposer"])
def test_a_search_with_a_name_that_nobody_knows_is_misuse_and_lists_those_known(desk: NamedDesk, option: str) -> None:
    result = desk.optimize(option, "smal")
    assert result.ret == 4
    assert "Nobody knows the model 'smal'. Models of this project: large, small." in words(result)


def test_a_plain_run_with_a_name_that_nobody_knows_fails_and_lists_those_known(desk: NamedDesk) -> None:
    result = desk.run("--prompt-model", "smal")
    assert result.ret == 1
    assert "Nobody knows the model 'smal'. Models of this project: large, small." in words(result)
    assert "Not scored" in words(result)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('modle = "openai/small-1"', "modle is not known"),
        ('model = "small-1"', "model names 'small-1'"),
        ('model = "openai/small-1"\nprice = 0.4', "price = 0.4"),
        ('model = "openai/small-1"\nbase_url = "gateway"', "base_url = 'gateway'"),
        ('model = "openai/small-1"\nkey_variable = "sk-pasted-here"', "key_variable = …"),
        ('model = "openai/small-1"\nrequests_per_minute = 0', "requests_per_minute = 0"),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("--optimize-prompts",)], ids=["plain", "search"])
def test_a_table_that_cannot_be_meant_is_misuse_and_its_key_is_named(
    desk: NamedDesk, line: str, fault: str, arguments: tuple[str, ...]
) -> None:
    desk.write("pyproject.toml", f"[tool.pytest-promptopt.models.small]\n{line}\n")
    result = desk.run(*arguments)
    assert result.ret == 4
    assert f"[tool.pytest-promptopt.models.small] {fault}" in words(result)
    assert "sk-pasted-here" not in words(result)
