"""A support desk to optimize: natural-looking tickets, one prompt, one metric, and a model that learns from its prompt.

The model knows nothing by itself: it answers ``account`` unless the words that tell a ticket's team stand in the
instruction or in a demo. Every question that reaches it is written into ``asked.jsonl``, so tests count what was asked
across processes, killed ones included.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from random import Random
from textwrap import dedent
from typing import Any

import pytest

TELLING = {
    "billing": ("refund", "invoice", "receipt", "discount", "charged"),
    "bug": ("crashes", "freezes", "blank", "error", "stuck"),
    "account": ("password", "username", "login", "profile", "nickname"),
}
_SENTENCES = {
    "refund": "I would like a refund for {thing}",
    "invoice": "the invoice for {thing} never came",
    "receipt": "please send me the receipt for {thing}",
    "discount": "the discount was missing when I paid for {thing}",
    "charged": "I was charged twice for {thing}",
    "crashes": "{thing} crashes whenever I open it",
    "freezes": "{thing} freezes after a minute",
    "blank": "all I see is a blank page instead of {thing}",
    "error": "{thing} shows an error I cannot read",
    "stuck": "{thing} is stuck at ninety percent",
    "password": "I forgot the password that belongs to {thing}",
    "username": "may I change the username on {thing}",
    "login": "my login stopped working for {thing}",
    "profile": "the picture in my profile is wrong on {thing}",
    "nickname": "my nickname is spelled badly on {thing}",
}
_THINGS = ("the feeder", "the app", "my order", "the camera", "the yearly plan", "the map", "the editor", "the report")
_OPENINGS = ("Hello,", "Hi there,", "Good morning,", "Dear team,", "Hey,", "Once more:", "Sorry to bother you,")
_CLOSINGS = (
    "Thanks a lot!",
    "Can you help?",
    "Best, Ann",
    "It is rather urgent.",
    "No hurry.",
    "Regards, Tom",
    "Cheers",
)

GOOD_INSTRUCTION = "Decide which team should answer. " + " ".join(
    f"Choose {team} for: {', '.join(words)}." for team, words in TELLING.items()
)

LEARNER = f'''
"""A model that learns from what it is shown, and writes every question down."""

import json
import os
import shutil
from pathlib import Path

from pytest_promptopt.lms.scripted import ScriptedLM
from trouble import trouble

TEAM_OF = {json.dumps({word: team for team, words in TELLING.items() for word in words})}
TAUGHT = {GOOD_INSTRUCTION!r}
ASKED = Path(__file__).with_name("asked.jsonl")


def note(request, is_proposal):
    line = {{
        "is_proposal": is_proposal,
        "model": request.model,
        "repeat": request.repeat,
        "system": request.messages[0]["content"],
        "text": request.messages[-1]["content"],
        "messages": list(request.messages),
    }}
    handle = os.open(ASKED, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(handle, (json.dumps(line) + "\\n").encode())
    finally:
        os.close(handle)


def answer(request):
    is_proposal = request.messages[0]["content"].startswith("You improve the instruction")
    note(request, is_proposal)
    own = trouble(request, is_proposal)
    if own is not None:
        return own
    if is_proposal:
        return f"```\\n{{TAUGHT}}\\n```"
    *shown, ticket = (message["content"] for message in request.messages)
    for word, team in TEAM_OF.items():
        if word in ticket:
            return team if any(word in text for text in shown) else "account"
    return "account"


def make(model):
    return ScriptedLM(answer) if model.startswith("scripted/") else None
'''

CONFTEST = """
import learner


def pytest_promptopt_make_lm(model):
    return learner.make(model)


def pytest_promptopt_job_finished(config, report):
    from pytest_promptopt.reports.records import to_json
    import json

    with open(config.rootpath / "jobs.jsonl", "a") as file:
        file.write(json.dumps(to_json(report)) + "\\n")


def pytest_promptopt_metric_finished(config, report):
    from pytest_promptopt.reports.records import to_json
    import json

    with open(config.rootpath / "figures.jsonl", "a") as file:
        file.write(json.dumps(to_json(report)) + "\\n")
"""

PROMPTS = '''
from typing import Literal

from pytest_promptopt import prompt


@prompt
def route(ticket: str) -> Literal["billing", "bug", "account"]:
    """Decide which team should answer."""
'''

METRICS = """
import pytest

from desk import route
from pytest_promptopt import load_dataset


@pytest.fixture(scope="session")
def tickets():
    return load_dataset("tickets.jsonl")


@pytest.mark.prompt_metric("tickets", threshold=0.8)
def test_routes(example):
    assert route(ticket=example["ticket"]) == example["team"]
"""

PYPROJECT = """
[tool.pytest-promptopt.copro]
breadth = 2
depth = 1
"""
"""One proposal in one round: what a search needs at least, and all that most tests need."""

NO_TROUBLE = "def trouble(request, is_proposal):\n    return None\n"

SNAPSHOT = "__prompts__/desk.route@scripted-learner.toml"
BASELINE = "__prompts__/test_desk.test_routes@scripted-learner.toml"


def make_tickets(count: int, seed: int = 0) -> list[dict[str, str]]:
    """``count`` tickets, no two alike, the teams in turn; every ticket has exactly one telling word."""
    rng = Random(seed)
    teams = list(TELLING)
    seen: set[str] = set()
    rows: list[dict[str, str]] = []
    while len(rows) < count:
        team = teams[len(rows) % len(teams)]
        word = TELLING[team][len(rows) // len(teams) % len(TELLING[team])]
        thing, opening, closing = rng.choice(_THINGS), rng.choice(_OPENINGS), rng.choice(_CLOSINGS)
        ticket = f"{opening} {_SENTENCES[word].format(thing=thing)} {closing}"
        if ticket not in seen:
            seen.add(ticket)
            rows.append({"id": f"t-{len(rows) + 1:03}", "ticket": ticket, "team": team})
    return rows


class Desk:
    """A project with a prompt that its model cannot follow until somebody tells it the telling words."""

    def __init__(self, project: Any, *, rows: int = 60) -> None:
        self.project = project
        self.path: Path = project.path
        (self.path / "tox.ini").unlink(missing_ok=True)  # ours is pytest.ini, and pytest would mention the other
        self.write("conftest.py", CONFTEST)
        self.write("learner.py", LEARNER)
        self.write("trouble.py", NO_TROUBLE)
        self.write("desk.py", PROMPTS)
        self.write("test_desk.py", METRICS)
        self.write("pyproject.toml", PYPROJECT)
        self.rows(make_tickets(rows))
        self.ini()

    @classmethod
    def anew(cls, project: Any, *, rows: int = 60) -> Desk:
        """A project in the place of the one that an earlier example left in this test's folder."""
        for name in (".promptopt", "__prompts__"):
            shutil.rmtree(project.path / name, ignore_errors=True)
        (project.path / "asked.jsonl").unlink(missing_ok=True)
        return cls(project, rows=rows)

    def ini(self, *lines: str, model: str = "scripted/learner") -> None:
        """Write the ini file; an empty ``model`` names none."""
        named = [f"promptopt_model = {model}"] if model else []
        self.write("pytest.ini", "\n".join(["[pytest]", *named, "promptopt_optimizer = copro", *lines]) + "\n")

    def rows(self, rows: list[dict[str, Any]]) -> None:
        """Write the dataset."""
        self.write("tickets.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def write(self, name: str, text: str) -> Path:
        """Write one file, dedented."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n"), encoding="utf-8")
        return path

    def read(self, name: str) -> str:
        """The text of one file."""
        return (self.path / name).read_text(encoding="utf-8")

    def replace(self, name: str, old: str, new: str) -> None:
        """Change one file; ``old`` must be in it."""
        text = self.read(name)
        assert old in text, f"{name} does not hold {old!r}"
        (self.path / name).write_text(text.replace(old, new), encoding="utf-8")

    def make_remote(self) -> None:
        """Let the model count as one outside this process: recorded, replayed, and not asked in CI unless told to."""
        self.replace("learner.py", "return ScriptedLM(answer)", "return Remote(answer)")
        self.replace("learner.py", "def make(", "class Remote(ScriptedLM):\n    is_offline = False\n\n\ndef make(")

    def run(self, *arguments: str, plugins: str = "") -> pytest.RunResult:
        """Run pytest in this process."""
        self._forget()
        result: pytest.RunResult = self.project.run(*arguments, plugins=plugins)
        return result

    def run_apart(self, *arguments: str, plugins: str = "") -> pytest.RunResult:
        """Run pytest in a process of its own."""
        self._forget()
        result: pytest.RunResult = self.project.run_apart(*arguments, plugins=plugins)
        return result

    def optimize(self, *arguments: str, plugins: str = "") -> pytest.RunResult:
        """Search in this process."""
        return self.run("--optimize-prompts", *arguments, plugins=plugins)

    def freeze(self) -> None:
        """Search, and be sure that the winner was frozen."""
        result = self.optimize("-q")
        assert result.ret == 0, result.stdout.str()
        assert (self.path / SNAPSHOT).is_file(), result.stdout.str()

    def _forget(self) -> None:
        (self.path / "jobs.jsonl").unlink(missing_ok=True)

    def jobs(self) -> dict[str, dict[str, Any]]:
        """What each job of the last run reported, by prompt (with its model where there are several)."""
        jobs = _lines(self.path / "jobs.jsonl")
        models = {job["model"] for job in jobs}
        return {job["prompt"] if len(models) == 1 else f"{job['prompt']} on {job['model']}": job for job in jobs}

    def figure(self) -> dict[str, Any]:
        """What the only metric of the last plain run reported."""
        figure: dict[str, Any] = self.project.figure()
        return figure

    def figures(self) -> dict[str, dict[str, Any]]:
        """What each metric of the last plain run reported, by its name."""
        figures: dict[str, dict[str, Any]] = self.project.figures()
        return figures

    def asked(self) -> list[dict[str, Any]]:
        """Every question that ever reached the model, in the order it got there."""
        return _lines(self.path / "asked.jsonl")

    def forget_asked(self) -> None:
        """Start counting anew."""
        (self.path / "asked.jsonl").unlink(missing_ok=True)

    def forget_replies(self) -> None:
        """Throw the local reply store away."""
        shutil.rmtree(self.path / ".promptopt")

    def frozen_files(self) -> dict[str, bytes]:
        """Everything below any ``__prompts__``, by path."""
        return frozen_files(self.path)


def frozen_files(folder: Path) -> dict[str, bytes]:
    """Everything below any ``__prompts__`` in ``folder``, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("__prompts__/*"))
        if path.is_file()
    }


def stray_files(folder: Path) -> list[str]:
    """Temporary files that a run left behind."""
    return [path.name for path in folder.rglob("*.tmp")]


def words(result: pytest.RunResult) -> str:
    """Everything a run said, on one line: where lines break is nobody's promise."""
    return " ".join((result.stdout.str() + os.linesep + result.stderr.str()).split())


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
