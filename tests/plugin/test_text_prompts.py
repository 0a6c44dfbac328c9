"""Texts that people have already: adopted, searched, frozen, gated; sent by this package's client or by their own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.plugin.projects import GOOD_INSTRUCTION, Desk, words

SOURCE = "Decide which team should answer.\n\n{ticket}\n"
GOOD = f"{GOOD_INSTRUCTION}\n\n{{ticket}}\n"
SNAPSHOT = "__prompts__/support.route@scripted-learner.toml"

TEXT_PROMPTS = f"""
from pytest_promptopt import text_prompt

ROUTE = text_prompt("support.route", {SOURCE!r})
"""

METRICS = """
import pytest

import client
from desk import ROUTE
from pytest_promptopt import load_dataset


@pytest.fixture(scope="session")
def tickets():
    return load_dataset("tickets.jsonl")


@pytest.mark.prompt_metric("tickets", threshold=0.8)
def test_routes(example):
    assert {use} == example["team"]
"""
OURS = 'ROUTE(ticket=example["ticket"])'
THEIRS = 'client.ask(ROUTE.format(ticket=example["ticket"]))'

CLIENT = '''
"""A client of the application's own: it answers as the learner would, and knows nothing of prompts."""

import json
from pathlib import Path

from learner import TEAM_OF

SENT = Path(__file__).with_name("sent.jsonl")


def ask(text):
    """``text`` ends with the ticket; chat messages are joined."""
    if not isinstance(text, str):
        text = "\\n\\n".join(message["content"] for message in text)
    assert type(text) is str
    with SENT.open("a") as file:
        file.write(json.dumps(text) + "\\n")
    *told, ticket = text.strip().split("\\n\\n")
    for word, team in TEAM_OF.items():
        if word in ticket:
            return team if any(word in each for each in told) else "account"
    return "account"
'''

ANSWER = """
def answer(request):
    is_proposal = request.messages[0]["content"].startswith("You improve the instruction")
    note(request, is_proposal)
    if is_proposal:
        own = trouble(request, is_proposal)
        return own if own is not None else f"```\\n{GOOD}\\n```"
    return client.ask(list(request.messages))
"""


class Texts(Desk):
    """The support desk with its prompt as a text."""

    def __init__(self, project: Any, *, prompts: str = TEXT_PROMPTS, use: str = OURS, good: str = GOOD) -> None:
        super().__init__(project, rows=60)
        self.write("client.py", CLIENT)
        self.write("desk.py", prompts)
        self.write("test_desk.py", METRICS.replace("{use}", use))
        self.replace("learner.py", "def make(", f"GOOD = {good!r}\n{ANSWER}\n\ndef make(")
        self.replace("learner.py", "def answer(request):", "import client\n\n\ndef answer(request):")

    def sent(self) -> list[str]:
        """Everything that went through the client, in the order it got there."""
        path = self.path / "sent.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def forget_sent(self) -> None:
        """Start counting anew."""
        (self.path / "sent.jsonl").unlink(missing_ok=True)
        self.forget_asked()


def proposing(*texts: str) -> str:
    """A proposer that writes ``texts`` in turn."""
    fenced = [f"```\n{text}\n```" for text in texts]
    return f"""
TEXTS = {fenced!r}


def trouble(request, is_proposal):
    return TEXTS[request.ordinal % len(TEXTS)]
"""


@pytest.fixture
def desk(project: Any) -> Texts:
    return Texts(project)


# --- from adopted to frozen to gated ----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["copro", "auto"])
def test_an_adopted_text_is_searched_frozen_and_gated_with_its_placeholder_in_place(desk: Texts, strategy: str) -> None:
    first = desk.run()
    assert first.ret == pytest.ExitCode.TESTS_FAILED
    tickets = {json.loads(line)["ticket"] for line in desk.read("tickets.jsonl").splitlines()}
    assert set(desk.sent()) == {SOURCE.format(ticket=ticket) for ticket in tickets}  # not one byte else

    searched = desk.optimize("-v", "--prompt-optimizer", strategy)
    assert searched.ret == 0, searched.stdout.str()
    assert "demo set" not in words(searched)
    searched.stdout.fnmatch_lines(["desk.py::support.route    measured by test_routes*", "*frozen*support.route@*"])
    assert "your own client" not in words(searched)
    (job,) = desk.jobs().values()
    assert (job["prompt"], job["outcome"]) == ("support.route", "frozen")
    frozen = desk.read(SNAPSHOT)
    assert "{ticket}" in frozen
    assert "[[demos]]" not in frozen

    desk.forget_sent()
    gated = desk.run("--prompt-strict", "all")
    assert gated.ret == 0, gated.stdout.str()
    assert desk.figure()["prompts"][0]["standing"] == "frozen"
    assert "support.route" in desk.read("__prompts__/test_desk.test_routes@scripted-learner.toml")
    assert desk.sent() == []  # the search has asked it all


def test_a_second_search_spends_nothing_and_changes_no_byte(desk: Texts) -> None:
    assert desk.optimize().ret == 0
    frozen = desk.frozen_files()
    desk.forget_sent()
    assert desk.optimize().ret == 0
    assert desk.frozen_files() == frozen
    assert (desk.sent(), desk.asked()) == ([], [])
    assert desk.jobs()["support.route"]["outcome"] == "unchanged"


def test_a_changed_text_is_stale_and_the_report_calls_it_a_text(desk: Texts) -> None:
    assert desk.optimize().ret == 0
    desk.replace("desk.py", "Decide which", "Please decide which")
    result = desk.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*changed*desk.py:3, its text changed since it was frozen: the source runs*"])
    assert "docstring" not in words(result)


def test_an_edited_text_is_used_and_judged_and_one_without_its_placeholder_ends_the_run(desk: Texts) -> None:
    assert desk.optimize().ret == 0
    desk.replace(SNAPSHOT, "Decide which team should answer.", "Decide it.")
    assert desk.run().ret == 0
    assert desk.figure()["prompts"][0]["standing"] == "edited"
    desk.replace(SNAPSHOT, "{ticket}", "the ticket")
    for arguments in ((), ("--optimize-prompts",)):
        result = desk.run(*arguments)
        assert result.ret != 0
        said = words(result)
        assert "the frozen text of support.route cannot be used, it loses {ticket}" in said
        assert "support.route@scripted-learner.toml" in said


# --- what may be a candidate ------------------------------------------------------------------------------------------


def test_a_frozen_text_that_is_gone_is_named_as_the_cause_with_the_way_back(desk: Texts) -> None:
    assert desk.optimize("-q").ret == 0
    (desk.path / SNAPSHOT).unlink()
    said = words(desk.run())
    assert f"{SNAPSHOT} is not there: the source runs if it was: git checkout -- {SNAPSHOT}" in said
    assert "was it renamed?" not in said


def test_a_prompt_that_the_baseline_names_and_nobody_calls_is_named(desk: Texts) -> None:
    assert desk.optimize("-q").ret == 0
    desk.replace("desk.py", "support.route", "support.triage")
    said = words(desk.run())
    assert "its baseline was taken with support.route, which no row called; was it renamed?" in said


def test_proposals_that_lose_a_placeholder_or_bring_code_are_thrown_away_and_named(desk: Texts) -> None:
    desk.write("pyproject.toml", "[tool.pytest-promptopt.copro]\nbreadth = 4\ndepth = 1\n")
    stolen = f"{GOOD_INSTRUCTION}\n\n{{ticket}} {{ticket.__class__}}"
    desk.write("trouble.py", proposing(GOOD_INSTRUCTION, stolen, GOOD))
    result = desk.optimize("-v")
    assert result.ret == 0, result.stdout.str()
    said = words(result)
    assert "3 instructions proposed, 2 rejected (loses {ticket}, brings {ticket.__class__}" in said
    assert desk.jobs()["support.route"]["outcome"] == "frozen"
    assert not any("__class__" in text or "{ticket}" in text for text in desk.sent())


def test_a_careless_strategy_of_somebody_else_cannot_run_a_text_without_its_placeholder(desk: Texts) -> None:
    desk.write(
        "careless.py",
        f"""
        from dataclasses import dataclass

        from pytest_promptopt.optimizers.evaluating import score
        from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo


        @dataclass(frozen=True, kw_only=True)
        class Careless:
            def search(self, task, rng):
                lost = CompiledPrompt(instruction={GOOD_INSTRUCTION!r})
                shown = CompiledPrompt(
                    instruction={GOOD!r}, demos=(Demo(inputs={{"ticket": "a"}}, output="billing"),)
                )
                tried = [task.source.replace("support.route", each) for each in (lost, shown)]
                yield from score(task, tried)
                return tried[0]

            def expected_calls(self, sizes):
                return 0, 0
        """,
    )
    desk.write(
        "conftest.py",
        desk.read("conftest.py")
        + "\n\ndef pytest_promptopt_optimizers():\n    return {'careless': 'careless:Careless'}\n",
    )
    result = desk.optimize("--prompt-optimizer", "careless")
    said = words(result)
    assert "support.route loses {ticket}" in said
    assert "support.route has demos, for which an adopted text has no place" in said
    assert "the metric raised" not in said
    assert desk.jobs()["support.route"]["outcome"] == "kept"
    assert desk.frozen_files() == {}
    assert {text.partition("\n")[0] for text in desk.sent()} == {"Decide which team should answer."}


@pytest.mark.parametrize("strategy", ["labeled-few-shot", "bootstrap-few-shot", "bootstrap-random-search"])
def test_strategies_of_demos_alone_keep_an_adopted_text_and_ask_nothing_more(desk: Texts, strategy: str) -> None:
    result = desk.optimize("--prompt-optimizer", strategy, "--prompt-proposer", "scripted/teacher")
    assert desk.jobs()["support.route"]["outcome"] == "kept", result.stdout.str()
    assert desk.frozen_files() == {}
    assert {asked["model"] for asked in desk.asked()} == {"scripted/learner"}


def test_the_default_strategy_searches_a_program_of_texts_and_typed_prompts_together(desk: Texts) -> None:
    desk.write(
        "desk.py",
        TEXT_PROMPTS
        + '''

from typing import Literal

from pytest_promptopt import prompt


@prompt
def urgency(ticket: str) -> Literal["billing", "bug", "account"]:
    """Say how urgent this is."""
''',
    )
    desk.replace("test_desk.py", "from desk import ROUTE", "from desk import ROUTE, urgency")
    desk.replace("test_desk.py", "    assert ROUTE", '    urgency(ticket=example["ticket"])\n    assert ROUTE')
    result = desk.optimize(
        "--prompt-optimizer", "auto", "--prompt-set", "auto.num_proposals=2", "--prompt-set", "auto.generations=1"
    )
    assert result.ret == 0, result.stdout.str()
    assert desk.jobs()["support.route"]["outcome"] == "frozen"
    assert "[[demos]]" not in desk.read(SNAPSHOT)


# --- a client of their own --------------------------------------------------------------------------------------------


def test_a_text_that_somebody_elses_client_sends_is_searched_counted_and_said_so(project: Any) -> None:
    desk = Texts(project, use=THEIRS)
    result = desk.optimize("-v")
    assert result.ret == 0, result.stdout.str()
    said = words(result)
    assert "39 calls" in said.partition("round 1")[0]
    assert (
        said.count("note replies to support.route come through your own client: not recorded, not counted in money")
        == 1
    )
    assert desk.jobs()["support.route"]["outcome"] == "frozen"
    assert {asked["is_proposal"] for asked in desk.asked()} == {True}
    desk.forget_sent()
    assert desk.run("--prompt-strict", "all").ret == 0
    assert all(text.startswith(GOOD_INSTRUCTION) for text in desk.sent())


def test_a_budget_bounds_what_a_search_lets_somebody_elses_client_send(project: Any) -> None:
    desk = Texts(project, use=THEIRS)
    desk.write("pyproject.toml", "[tool.pytest-promptopt.copro]\nbreadth = 10\ndepth = 3\n")
    variants = [f"{SOURCE}\n\nVariant {number}.".replace("\n{ticket}\n", "{ticket}") for number in range(10)]
    desk.write("trouble.py", proposing(*variants))
    result = desk.optimize("--prompt-budget", "150")
    assert result.ret == pytest.ExitCode.TESTS_FAILED, result.stdout.str()  # what stays is below the threshold
    assert 100 <= len(desk.sent()) + len(desk.asked()) <= 150
    assert desk.jobs()["support.route"]["is_cut"]


def test_an_own_client_needs_no_model_in_a_plain_run(project: Any) -> None:
    desk = Texts(project, use=THEIRS)
    desk.ini(model="")
    result = desk.run("-v")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    figure = desk.figure()
    assert [(prompt["name"], prompt["standing"], prompt["model"]) for prompt in figure["prompts"]] == [
        ("support.route", "source", "no-model")
    ]
    assert 0.2 < figure["verdict"]["score"] < 0.5
    assert desk.run("--prompt-bless").ret == pytest.ExitCode.TESTS_FAILED  # the threshold holds
    desk.replace("test_desk.py", ", threshold=0.8", "")
    assert desk.run("--prompt-bless").ret == 0
    assert desk.run().ret == 0


# --- templates and messages -------------------------------------------------------------------------------------------


def test_a_jinja_file_keeps_its_statements_through_a_search(project: Any) -> None:
    body = "{% if ticket %}\n\n{{ ticket | trim }}{% endif %}"
    desk = Texts(
        project,
        prompts='from pytest_promptopt import text_prompt\n\nROUTE = text_prompt("support.route", file="route.j2")\n',
        use='client.ask(ROUTE.render(ticket=example["ticket"]))',
        good=f"{GOOD_INSTRUCTION}{body}",
    )
    (desk.path / "route.j2").write_text(f"Decide which team should answer.{body}", encoding="utf-8")
    desk.write("pyproject.toml", "[tool.pytest-promptopt.copro]\nbreadth = 3\ndepth = 1\n")
    desk.write("trouble.py", proposing(f"{GOOD_INSTRUCTION}\n\n{{{{ ticket }}}}", f"{GOOD_INSTRUCTION}{body}"))
    result = desk.optimize("-v")
    assert result.ret == 0, result.stdout.str()
    assert "1 rejected (loses {% if ticket %})" in words(result)
    assert body in desk.read(SNAPSHOT)
    assert desk.run("--prompt-strict", "all").ret == 0


@pytest.mark.parametrize(
    "use", ['ROUTE(ticket=example["ticket"])', 'client.ask(ROUTE.format(ticket=example["ticket"]))']
)
def test_of_chat_messages_the_system_text_is_searched_and_the_rest_stays(project: Any, use: str) -> None:
    desk = Texts(
        project,
        prompts="""
        from pytest_promptopt import text_prompt

        MESSAGES = [
            {"role": "system", "content": "Decide which team should answer."},
            {"role": "user", "content": "Ticket: {ticket}"},
        ]
        ROUTE = text_prompt("support.route", MESSAGES)
        """,
        use=use,
        good=GOOD_INSTRUCTION,
    )
    result = desk.optimize("--prompt", "support.route")
    assert result.ret == 0, result.stdout.str()
    assert "Ticket" not in desk.read(SNAPSHOT)
    desk.forget_sent()
    assert desk.run("--prompt-strict", "all", "--prompt-lm", "live").ret == 0
    assert desk.sent()
    assert all(text.startswith(f"{GOOD_INSTRUCTION}\n\nTicket: ") for text in desk.sent())


def test_a_project_of_strings_files_and_messages_is_gated_as_it_was_and_one_of_them_is_frozen(project: Any) -> None:
    desk = Texts(
        project,
        prompts="""
        from pytest_promptopt import text_prompt

        ROUTE = text_prompt("support.route", "Decide which team should answer.\\n\\n{ticket}")
        GREETING = text_prompt("support.greeting", file="greeting.j2")
        CHAT = text_prompt(
            "support.chat",
            [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "{ticket}"}],
        )
        """,
        good=f"{GOOD_INSTRUCTION}\n\n{{ticket}}",
    )
    desk.write("greeting.j2", "Dear {{ name | default('customer') }},")
    desk.replace("test_desk.py", "from desk import ROUTE", "from desk import CHAT, GREETING, ROUTE")
    desk.write(
        "test_desk.py",
        desk.read("test_desk.py")
        + """
        @pytest.mark.prompt_metric("tickets", threshold=1.0)
        def test_greets(example):
            assert GREETING.render(name="Ann") == "Dear Ann,"
            assert GREETING.render() == "Dear customer,"


        @pytest.mark.prompt_metric("tickets", threshold=0.2)
        def test_chats(example):
            assert [message["role"] for message in CHAT.format(ticket="x")] == ["system", "user"]
            assert CHAT(ticket=example["ticket"]) == example["team"]
        """.replace("\n        ", "\n"),
    )
    first = desk.run("-v")
    first.assert_outcomes(passed=2, failed=1)
    assert {metric: [prompt["name"] for prompt in figure["prompts"]] for metric, figure in desk.figures().items()} == {
        "test_routes": ["support.route"],
        "test_greets": ["support.greeting"],
        "test_chats": ["support.chat"],
    }
    result = desk.optimize("--prompt", "route")
    assert result.ret == 0, result.stdout.str()
    assert [path for path in desk.frozen_files() if "support." in path] == [SNAPSHOT]
    desk.run("--prompt-bless").assert_outcomes(passed=3)
    desk.run().assert_outcomes(passed=3)
    assert "Dear {{ name | default('customer') }}," in desk.read("greeting.j2")


def test_an_offline_model_keeps_the_placeholders_of_what_it_improves(desk: Texts) -> None:
    desk.ini(model="offline/keyword")
    text = "Decide which team should answer. Answer with exactly one of: billing, bug, account.\n\n{ticket}"
    desk.write(
        "desk.py", f'from pytest_promptopt import text_prompt\n\nROUTE = text_prompt("support.route", {text!r})\n'
    )
    desk.write("pyproject.toml", "[tool.pytest-promptopt.copro]\nbreadth = 4\ndepth = 1\n")
    result = desk.optimize("-v")
    assert "3 instructions proposed" in words(result)
    assert "loses" not in words(result)


def test_prompt_selects_a_text_by_its_name(desk: Texts) -> None:
    desk.write("desk.py", TEXT_PROMPTS + '\nOTHER = text_prompt("support.other", "{ticket}")\n')
    desk.optimize("--prompt", "support.route")
    assert [*desk.jobs()] == ["support.route"]
    result = desk.optimize("--prompt", "support.nothing")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_equal_texts_are_prompts_of_their_own(desk: Texts) -> None:
    desk.write("desk.py", TEXT_PROMPTS + f'\nOTHER = text_prompt("support.other", {SOURCE!r})\n')
    desk.replace("test_desk.py", "from desk import ROUTE", "from desk import OTHER, ROUTE")
    again = METRICS[METRICS.index("@pytest.mark") :].replace("test_routes", "test_other").replace("{use}", OURS)
    desk.write("test_desk.py", f"{desk.read('test_desk.py')}\n\n{again.replace('ROUTE', 'OTHER')}")
    desk.write("trouble.py", proposing("Nothing that helps.\n\n{ticket}"))
    result = desk.optimize()
    assert {name: job["outcome"] for name, job in desk.jobs().items()} == {
        "support.route": "kept",
        "support.other": "kept",
    }, result.stdout.str()


def test_a_text_that_no_metric_uses_is_skipped_and_says_so(desk: Texts) -> None:
    desk.write("desk.py", TEXT_PROMPTS + '\nOTHER = text_prompt("support.other", "x")\n')
    desk.optimize("-rs").stdout.fnmatch_lines(["*SKIPPED*no selected metric calls this prompt*"])
    assert [*desk.jobs()] == ["support.route"]


def test_filling_a_text_in_in_another_language_ends_the_search_and_says_what_to_write(project: Any) -> None:
    desk = Texts(
        project,
        prompts='from pytest_promptopt import text_prompt\n\nROUTE = text_prompt("support.route", "Which team? {0}")\n',
        use='client.ask(ROUTE.format(example["ticket"]))',
    )
    assert "score 0.333 is below threshold=0.8" in words(desk.run())
    result = desk.optimize()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert 'text_prompt("support.route", …, template="format")' in words(result)


def test_a_snapshot_is_no_orphan_while_a_module_that_names_it_was_not_imported(desk: Texts) -> None:
    assert desk.optimize().ret == 0
    desk.replace("test_desk.py", "from desk import ROUTE", "from other import OTHER as ROUTE")
    desk.write("other.py", TEXT_PROMPTS.replace("support.route", "support.other").replace("ROUTE", "OTHER"))
    assert SNAPSHOT not in words(desk.run_apart())
    (desk.path / "desk.py").unlink()
    assert f"orphan {SNAPSHOT}" in words(desk.run_apart())
