"""No key in any file or on any screen; what customers wrote only where the docs say; the store for nobody else's eyes.

Every run is a process of its own in a house of its own: project, home and temporary folder. Afterwards each file in it
is searched, whoever wrote it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

from tests.misbehaving.client import Server, misbehaving
from tests.misbehaving.script import Rule, Told

ROOT = Path(__file__).parents[2]
KEY = "umbrella-stand-5d0c2a9e71b4"
"""It looks like no key: whoever keeps it out of a message knows its value."""

TICKET, NAME, REPLY, DRAFT = "Zephyrine", "Quilp", "Mabry", "Hollyhock"
"""Words that nobody else says: in what customers wrote, in labels, in wrong replies, and in an unmanaged prompt."""

MODELS = {"aiohttp": "openai/gpt-4o-mini", "litellm": "deepseek/desk-chat"}
ROWS = [
    {"id": f"c-{number:02}", "ticket": f"Here writes {TICKET}, number {number:02}.", "name": f"{NAME}{number:02}"}
    for number in range(26)
]
TAUGHT = "Say who writes. The name ends in the number."
LEARNER = (
    Told(says=f"```\n{TAUGHT}\n```", earlier="You improve the instruction"),
    *(Told(says=row["name"], last=f"number {row['id'][2:]}", earlier="ends in the number") for row in ROWS),
    *(Told(says=row["name"], last=f"number {row['id'][2:]}", earlier=NAME) for row in ROWS),
    *(Told(says=row["name"], last=f"number {row['id'][2:]}") for row in ROWS[::3]),
    Told(says=REPLY),
)
"""The server's model: it knows each third customer, and all of them once it was told, or shown one."""

PROJECT = {
    "desk.py": '''
        from pytest_promptopt import prompt


        @prompt
        def who(ticket: str) -> str:
            """Say who writes."""
        ''',
    "test_desk.py": """
        import pytest

        from desk import who
        from pytest_promptopt import load_dataset


        @pytest.fixture(scope="session")
        def tickets():
            return load_dataset("tickets.jsonl")


        @pytest.mark.prompt_metric("tickets", threshold=0.2, labels={"who": "name"})
        def test_knows_who_writes(example):
            assert who(ticket=example["ticket"]) == example["name"]
        """,
    "conftest.py": """
        import json


        def pytest_promptopt_metric_finished(config, report):
            store = config.rootpath / ".promptopt"
            modes = {path.name: oct(path.stat().st_mode & 0o777) for path in [store, *store.iterdir()]}
            (config.rootpath / "modes.json").write_text(json.dumps(modes))
        """,
    "assistant.py": f"""
        from openai import OpenAI

        RULES = '''You answer the letters of {DRAFT} and of all other customers, in one paragraph: {{letter}}'''


        def answer(letter):
            messages = [{{"role": "user", "content": RULES.format(letter=letter)}}]
            return OpenAI().chat.completions.create(model="gpt-4o-mini", messages=messages)
        """,
}
SETTINGS = """
[tool.pytest.ini_options]
promptopt_model = "desk"
promptopt_optimizer = "copro"

[tool.pytest-promptopt.copro]
breadth = 2
depth = 1

[tool.pytest-promptopt.models.desk]
model = "{model}"
base_url = "{url}"
key_variable = "DESK_KEY"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One run: its exit status, and everything it said."""

    status: int
    said: str


class House:
    """A project with a model behind the network, and a home and a temporary folder that only its runs write to."""

    def __init__(self, path: Path, server: Server, edge: str) -> None:
        self.path = path
        self.project = path / "project"
        for name in ("project", "home", "tmp"):
            (path / name).mkdir(parents=True)
        for name, text in PROJECT.items():
            (self.project / name).write_text(dedent(text).lstrip("\n"))
        (self.project / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        (self.project / "pyproject.toml").write_text(SETTINGS.format(model=MODELS[edge], url=server.url))

    def run(self, *arguments: str, umask: int = 0o022) -> Ran:
        """Run pytest, its own cache and reports included."""
        command = [sys.executable, "-m", "pytest", "-p", "promptopt", *arguments]
        done = subprocess.run(
            command, cwd=self.project, env=self._environment(), capture_output=True, text=True, umask=umask, timeout=120
        )
        return Ran(status=done.returncode, said=done.stdout + done.stderr)

    def _environment(self) -> dict[str, str]:
        places = {"HOME": str(self.path / "home"), "TMPDIR": str(self.path / "tmp")}
        python = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        return {**places, **python, "DESK_KEY": KEY, "COLUMNS": "120"}

    def holders(self, text: str) -> set[str]:
        """The files that hold ``text``, by path."""
        sought = text.encode()
        files = [path for path in self.path.rglob("*") if path.is_file()]
        return {path.relative_to(self.path).as_posix() for path in files if sought in path.read_bytes()}

    def modes_in_store(self) -> dict[str, str]:
        """The permissions of all that the store's folder holds, by path."""
        store = self.project / ".promptopt"
        return {path.relative_to(store).as_posix(): oct(path.stat().st_mode & 0o777) for path in store.rglob("*")}


# --- two stories, told once -------------------------------------------------------------------------------------------

STORE = "project/.promptopt/replies.sqlite3"
LOG = "project/.promptopt/events.jsonl"
SNAPSHOT = "desk.who@desk.toml"
RECORDINGS = "project/__prompts__/test_desk.test_knows_who_writes@desk.jsonl"
HELD_BEFORE = {"project/tickets.jsonl", "project/assistant.py"}
LOUD = ("-v", "--showlocals", "-rA")
WORDS = (TICKET, NAME, REPLY, DRAFT)
UNPROVABLE = ("-o", "promptopt_freeze_alpha=0.0000001")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A run of a story, and where each of the words stood after it, besides the store and where it came from.

    ``modes`` are those of everything in the store's folder, by path.
    """

    ran: Ran
    found: dict[str, set[str]]
    store_holds: frozenset[str]
    key_is_in: frozenset[str]
    modes: dict[str, str]

    @property
    def spoken(self) -> set[str]:
        """The words that came to the screen."""
        return {word for word in WORDS if word in self.ran.said}


class Story:
    """Runs one after another in one house. Each leaves its own ``junit.xml``."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.steps: dict[str, Step] = {}

    def tell(self, name: str, *arguments: str) -> None:
        """Run, and look through every file."""
        report = self.house.project / "junit.xml"
        report.unlink(missing_ok=True)
        ran = self.house.run("--junitxml=junit.xml", *arguments)
        holders = {word: self.house.holders(word) for word in WORDS}
        self.steps[name] = Step(
            ran=ran,
            found={word: found for word in WORDS if (found := holders[word] - HELD_BEFORE - {STORE})},
            store_holds=frozenset(word for word in WORDS if STORE in holders[word]),
            key_is_in=frozenset(self.house.holders(KEY)),
            modes=self.house.modes_in_store(),
        )

    def forget(self, *, threshold: str = "0.2") -> None:
        """Freeze nothing any more, and ask for another score."""
        shutil.rmtree(self.house.project / "__prompts__", ignore_errors=True)
        tests = self.house.project / "test_desk.py"
        tests.write_text(re.sub(r"threshold=[\d.]+", f"threshold={threshold}", tests.read_text()))


def told(path: Path, server: Server, edge: str) -> dict[str, Step]:
    """Everything that a user does; each word is asked for, answered, judged, frozen and complained about."""
    story = Story(House(path, server, edge))
    server.follow(replies=LEARNER)
    story.tell("plain", *LOUD)
    story.tell("list", "--prompt-list", *LOUD)
    story.tell("bless", "--prompt-bless", *LOUD)
    story.forget()
    story.tell("search", "--optimize-prompts", *LOUD)
    story.tell("gate", *LOUD)
    story.forget(threshold="0.9")
    story.tell("failing", *LOUD)
    story.forget()
    story.tell("demos", "--optimize-prompts", "--prompt-optimizer", "labeled-few-shot", *LOUD)
    story.forget()
    story.tell("kept", "--optimize-prompts", "--prompt-optimizer", "labeled-few-shot", *UNPROVABLE)
    story.forget()
    shutil.rmtree(story.house.project / ".promptopt")  # what is in there is told above
    story.steps |= troubled(story.house, server)
    return story.steps


def troubled(house: House, server: Server) -> dict[str, Step]:
    """A provider that repeats the key in whatever it refuses; ``DEBUG`` lets every library log what it likes."""
    story = Story(house)
    repeats = f"upstream refused {KEY}, again: Bearer {KEY}"
    rules = {
        "wrong key": Rule(does="wrong key"),
        "server error": Rule(does="500", retry_after="0.001", message=repeats),
        "bad request": Rule(does="bad request", message=repeats),
        "rate limit": Rule(does="429", retry_after="300", message=repeats),
    }
    for name, rule in rules.items():
        server.follow(rule)
        story.tell(name, "--prompt-lm", "live", "--log-level=DEBUG", *LOUD)
    server.follow(rules["wrong key"])
    story.tell("search with a wrong key", "--optimize-prompts", "--prompt-lm", "live", *LOUD)
    return story.steps


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with misbehaving() as running:
        yield running


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory, server: Server) -> dict[str, Step]:
    """The whole story, over aiohttp."""
    return told(tmp_path_factory.mktemp("story") / "house", server, "aiohttp")


@pytest.fixture(scope="module")
def troubles(tmp_path_factory: pytest.TempPathFactory, server: Server) -> dict[str, Step]:
    """Its troubles, over litellm."""
    return troubled(House(tmp_path_factory.mktemp("troubles") / "house", server, "litellm"), server)


def test_every_run_of_the_story_ended_as_it_was_meant_to(
    steps: Mapping[str, Step], troubles: Mapping[str, Step]
) -> None:
    ended = {name: step.ran.status for name, step in steps.items()}
    errored = dict.fromkeys(troubles, 1)
    green = ("plain", "list", "bless", "search", "gate", "demos", "kept")
    assert ended == {**dict.fromkeys(green, 0), "failing": 1, **errored}
    assert {name: step.ran.status for name, step in troubles.items()} == errored
    for told_of in (steps, troubles):
        assert "Incorrect API key provided: …. (set DESK_KEY" in " ".join(told_of["wrong key"].ran.said.split())
        assert "upstream refused …, again: " in " ".join(told_of["server error"].ran.said.split())


# --- the key ----------------------------------------------------------------------------------------------------------


def test_the_key_is_in_no_file_and_on_no_screen(steps: Mapping[str, Step], troubles: Mapping[str, Step]) -> None:
    for name, step in [*steps.items(), *troubles.items()]:
        assert KEY not in step.ran.said, name
        assert step.key_is_in == frozenset(), name


# --- what customers wrote ---------------------------------------------------------------------------------------------


def test_the_store_has_replies_and_no_request(steps: Mapping[str, Step]) -> None:
    assert steps["plain"].store_holds == {NAME, REPLY}  # right replies say the name, the others something else


@pytest.mark.parametrize("name", ["plain", "list", "bless"])
def test_runs_that_pass_leave_customers_words_in_the_store_alone_and_say_none(
    steps: Mapping[str, Step], name: str
) -> None:
    assert steps[name].found == {}
    assert steps[name].spoken == set()


@pytest.mark.parametrize("name", ["search", "gate"])
def test_the_replies_of_what_is_frozen_are_recorded_and_no_request(steps: Mapping[str, Step], name: str) -> None:
    assert steps[name].found == {NAME: {RECORDINGS}}
    assert steps[name].spoken == set()


def test_the_rows_that_failed_are_shown_and_stand_in_the_report_that_was_asked_for(steps: Mapping[str, Step]) -> None:
    assert steps["failing"].found == {word: {"project/junit.xml"} for word in (TICKET, NAME, REPLY)}
    assert steps["failing"].spoken == {TICKET, NAME, REPLY}


def test_demonstrations_stand_in_the_snapshot_and_their_answers_on_the_screen(steps: Mapping[str, Step]) -> None:
    demos = {f"project/__prompts__/{SNAPSHOT}", LOG}
    assert steps["demos"].found == {TICKET: demos, NAME: {*demos, RECORDINGS}}
    assert steps["demos"].spoken == {NAME}


def test_those_of_a_winner_that_is_kept_stand_in_the_stores_folder_alone(steps: Mapping[str, Step]) -> None:
    (folder,) = {path.split("/")[1] for path in steps["kept"].modes if path.startswith("kept/")}
    assert steps["kept"].found == {
        word: {f"project/.promptopt/kept/{folder}/{SNAPSHOT}", LOG} for word in (TICKET, NAME)
    }
    assert steps["kept"].spoken == set()


def test_what_searches_leave_beside_the_store_is_for_nobody_elses_eyes(steps: Mapping[str, Step]) -> None:
    modes = steps["kept"].modes
    kept = {path: mode for path, mode in modes.items() if path.startswith("kept")}
    assert len(kept) == 3
    assert {path: "0o600" if path.endswith(".toml") else "0o700" for path in kept} == kept
    assert modes["events.jsonl"] == "0o600"


def test_what_a_provider_refuses_is_not_written_down(steps: Mapping[str, Step], troubles: Mapping[str, Step]) -> None:
    for told_of in (steps, troubles):
        assert all(told_of[name].found == {} for name in troubles)


def test_what_a_list_read_is_remembered_without_a_text(tmp_path: Path, server: Server) -> None:
    house = House(tmp_path / "house", server, "aiohttp")
    listed = house.run("--prompt-list")
    assert "RULES, 15 words, {letter}" in listed.said
    assert "RULES" in (house.project / ".promptopt/discovery.json").read_text()
    assert house.holders(DRAFT) == {"project/assistant.py"}


# --- the store --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_else_may_read_the_store_while_it_is_in_use(tmp_path: Path, server: Server, umask: int) -> None:
    server.follow(replies=LEARNER)
    house = House(tmp_path / "house", server, "aiohttp")
    assert house.run("--prompt-list", umask=umask).status == 0
    assert house.run(umask=umask).status == 0
    modes = json.loads((house.project / "modes.json").read_text())
    assert modes.pop(".promptopt") == "0o700"
    modes.pop(".gitignore")  # it says "*", and nobody else gets into the folder
    assert modes == dict.fromkeys(
        ("replies.sqlite3", "replies.sqlite3-wal", "replies.sqlite3-shm", "discovery.json"), "0o600"
    )
