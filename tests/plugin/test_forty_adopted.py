"""Forty prompts that people had already: adopted without a changed byte on the wire, gated, one searched and frozen."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp  # noqa: F401 - a run inside this process forgets, and imports again, what it is the first to import
import pytest

from pytest_promptopt.prompts import registry
from pytest_promptopt.prompts.base import AnyPrompt
from pytest_promptopt.prompts.compiled import CompiledPrompt
from pytest_promptopt.prompts.discovery.search import discover
from pytest_promptopt.prompts.frozen import read_frozen
from pytest_promptopt.prompts.template import Language, Template, find_fault
from pytest_promptopt.snapshots.compiled import dump_frozen, freeze
from tests.forty.adopting import BY_HAND, adopted, module_of
from tests.forty.forty import FORTY, Existing
from tests.forty.sending import send
from tests.loopback import Loopback, completion, serving
from tests.misbehaving.client import Server, misbehaving
from tests.misbehaving.script import Told
from tests.plugin.projects import frozen_files

ROOT = Path(__file__).parents[2]
MODEL = "openai/gpt-4.1-mini"
"""What the bureau's own client asks for, as the snapshot's name has it."""

MARK = " (frozen)"
TRIAGE = "bureau.triage"
TRIAGE_SNAPSHOT = "bureau/__prompts__/bureau.triage@openai-gpt-4.1-mini.toml"

Bodies = Mapping[str, bytes]
"""By sender, what went over the wire."""


class Bureau:
    """The project in the folder ``path``; a copy of it, where there is none yet."""

    def __init__(self, path: Path, *, copy_of: Path = ROOT / "tests/forty") -> None:
        self.path = path
        if not (path / "bureau").exists():
            shutil.copytree(copy_of / "bureau", path / "bureau", ignore=shutil.ignore_patterns("__pycache__"))

    def files(self) -> dict[str, bytes]:
        """The project's own files, without what runs write."""
        paths = [path for path in sorted(self.path.glob("bureau/**/*")) if path.is_file()]
        written = {"__pycache__", "__prompts__"}
        return {
            path.relative_to(self.path).as_posix(): path.read_bytes() for path in paths if not {*path.parts} & written
        }

    def python(self, *arguments: str, **environ: str) -> str:
        """What a fresh process in this folder prints; it ends well."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROMPTOPT_", "PYTEST_"))}
        result = subprocess.run(
            [sys.executable, "-B", *arguments],
            cwd=self.path,
            env={**kept, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "120", **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def listed(self) -> list[str]:
        """The lines of ``--prompt-list -v``."""
        (self.path / "pytest.ini").write_text("[pytest]\n")
        (self.path / "test_email.py").write_text("from bureau.billing import email\n")
        return self.python("-m", "pytest", "-p", "promptopt", "--prompt-list", "-v").splitlines()

    def send_all(self, server: Loopback, **environ: str) -> Bodies:
        """What a fresh process sends when each sender is called once. It is no test: nothing of pytest is there."""
        server.heard.clear()
        server.will(*[completion("Done.")] * len(FORTY))
        self.python("-m", "tests.forty.sending", BUREAU_BASE_URL=server.url, **environ)
        return {existing.sender: heard.content for existing, heard in zip(FORTY, server.heard, strict=True)}

    def adopt(self, existing: Existing, suggestion: str, *, into: str = "") -> None:
        """Write the adopting line into the module that sends it, or into a copy of the module ``into``."""
        module = self.path / module_of(existing)
        source = adopted(module.read_text(encoding="utf-8"), existing, suggestion)
        (module.with_name(f"{into}.py") if into else module).write_text(source, encoding="utf-8")


def name_in(suggestion: str) -> str:
    """The prompt's name in the line that adopts it."""
    return suggestion.partition('text_prompt("')[2].partition('"')[0]


@pytest.fixture(autouse=True)
def _nobody_elses_bureau() -> Iterator[None]:
    """Let each test import the copy that it means."""
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "bureau"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Bureau:
    return Bureau(tmp_path_factory.mktemp("untouched"))


@pytest.fixture(scope="module")
def sent_before(untouched: Bureau, server: Loopback) -> Bodies:
    return untouched.send_all(server)


@pytest.fixture(scope="module")
def suggestions(untouched: Bureau) -> dict[str, str]:
    """The line that the list shows under each of the forty, by sender."""
    lines = untouched.listed()
    shown = {line.split()[0]: after.split("adopt: ")[1] for line, after in pairwise(lines) if "adopt: " in after}
    place = {each.sender: each.file if each.kind == "file" else f"{each.file}:{each.line}" for each in FORTY}
    return {sender: shown[place] for sender, place in place.items()}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Bureau:
    """The project, and beside its modules copies of them that adopt one prompt each."""
    return Bureau(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="module")
def adopting(tmp_path_factory: pytest.TempPathFactory, suggestions: Mapping[str, str]) -> Bureau:
    """The project with all forty adopted, one after the other."""
    bureau = Bureau(tmp_path_factory.mktemp("adopting"))
    for existing in FORTY:
        bureau.adopt(existing, suggestions[existing.sender])
    return bureau


# --- adopted ----------------------------------------------------------------------------------------------------------


def test_thirty_of_the_forty_need_no_more_than_the_line_that_the_list_shows(suggestions: Mapping[str, str]) -> None:
    is_whole = {sender: "…" not in line for sender, line in suggestions.items()}
    assert {sender for sender, whole in is_whole.items() if not whole} == BY_HAND.keys()
    assert sum(is_whole.values()) == 30


@pytest.mark.parametrize("existing", FORTY, ids=lambda existing: existing.sender)
def test_each_adopted_alone_is_sent_without_a_changed_byte(
    existing: Existing,
    workshop: Bureau,
    suggestions: Mapping[str, str],
    sent_before: Bodies,
    server: Loopback,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suggestion = suggestions[existing.sender]
    package, _, own = existing.sender.partition(":")[0].rpartition(".")
    alone = f"{own}_{name_in(suggestion).replace('.', '_')}"
    workshop.adopt(existing, suggestion, into=alone)
    monkeypatch.syspath_prepend(workshop.path)
    monkeypatch.setenv("BUREAU_BASE_URL", server.url)
    server.will(completion("Done."))
    send(existing, f"{package}.{alone}")
    assert [prompt.name for prompt in registry.registered_prompts()] == [name_in(suggestion)]
    assert server.heard[-1].content == sent_before[existing.sender]


def test_all_forty_adopted_are_sent_by_a_fresh_process_without_a_changed_byte(
    adopting: Bureau, sent_before: Bodies, server: Loopback
) -> None:
    assert adopting.send_all(server) == sent_before
    assert adopting.send_all(server, PROMPTOPT_MODEL=MODEL) == sent_before
    assert len(set(sent_before.values())) == 40


def test_each_adoption_takes_one_text_off_the_list_and_leaves_the_others_theirs(
    suggestions: Mapping[str, str], tmp_path: Path
) -> None:
    bureau = Bureau(tmp_path)
    for number, existing in enumerate(FORTY, start=1):
        bureau.adopt(existing, suggestions[existing.sender])
        found = discover(tmp_path)
        left = FORTY[number:]
        assert [prompt.name for prompt in found.managed].count(name_in(suggestions[existing.sender])) == 1
        assert (len(found.managed), len(found.unmanaged)) == (number, len(left)), existing


def test_adopting_touches_the_modules_that_send_and_no_template(adopting: Bureau, untouched: Bureau) -> None:
    before, after = untouched.files(), adopting.files()
    changed = {name for name in before.keys() | after if before.get(name) != after.get(name)}
    assert changed == {module_of(existing) for existing in FORTY}
    assert all(name.endswith(".py") for name in changed)


def test_the_list_of_the_adopted_project_names_all_forty_and_finds_none_besides(
    adopting: Bureau, suggestions: Mapping[str, str]
) -> None:
    lines = adopting.listed()
    assert "no text was found that looks like a prompt and is not managed" in lines
    managed = {line.split()[0] for line in lines if re.search(r" bureau/\S+\.py:\d+ ", line)}
    assert managed == {name_in(suggestion) for suggestion in suggestions.values()}
    assert len(managed) == 40


# --- frozen, each of them ---------------------------------------------------------------------------------------------


def test_whatever_is_frozen_for_any_of_the_forty_is_what_its_sender_sends(
    adopting: Bureau, sent_before: Bodies, server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = Bureau(tmp_path, copy_of=adopting.path)
    monkeypatch.syspath_prepend(frozen.path)
    for existing in FORTY:
        import_module(existing.sender.partition(":")[0])
    prompts = registry.registered_prompts()
    assert len(prompts) == 40
    for prompt in prompts:
        write_snapshot(prompt, marked(prompt.source.instruction))
    sent = frozen.send_all(server, PROMPTOPT_MODEL=MODEL)
    assert {sender: body.count(MARK.encode()) for sender, body in sent.items()} == {
        sender: 2 if sender == "bureau.support:reply" else 1 for sender in sent
    }
    assert {sender: body.replace(MARK.encode(), b"") for sender, body in sent.items()} == sent_before


def marked(text: str) -> str:
    """``text`` with a mark after its first word that is no comment's."""
    place = text.index(" ", text.find("#}") + 3)
    return f"{text[:place]}{MARK}{text[place:]}"


def write_snapshot(prompt: AnyPrompt, text: str) -> None:
    """Freeze ``text``, which must be fit to take the source's place."""
    assert prompt.signature.template is not None
    assert find_fault(prompt.signature.template, text) == ""
    frozen = freeze(
        prompt=prompt.name,
        model=MODEL,
        signature_digest=prompt.signature.digest,
        source_digest=prompt.signature.source_digest,
        compiled=CompiledPrompt(instruction=text),
        provenance={"optimizer": "copro"},
    )
    path = prompt.home.snapshot_path(MODEL)
    path.parent.mkdir(exist_ok=True)
    path.write_text(dump_frozen(frozen), encoding="utf-8")


# --- gated ------------------------------------------------------------------------------------------------------------

ANSWERS = (
    Told(says="We are sorry to hear that.", last="politely"),
    Told(says="It rained in Bath.", last="Keep names"),
    Told(says="You pay for a feeder.", earlier="no accounting terms"),
    Told(says="The receivable is due."),
)
"""What the server says as long as a text holds what counts; the last one, when it does not."""

METRICS = """
import pytest

from bureau.billing import EXPLAIN_INVOICE, explain
from bureau.news.digest import SUMMARY, summary
from bureau.support import REPLY, reply


@pytest.fixture(scope="session")
def numbers():
    return [{"number": number} for number in range(12)]


@pytest.mark.prompt_metric("numbers")
def test_a_string(example):
    assert "sorry" in REPLY_USE


@pytest.mark.prompt_metric("numbers")
def test_a_jinja_file(example):
    assert "Bath" in SUMMARY_USE


@pytest.mark.prompt_metric("numbers")
def test_a_message_list(example):
    assert "receivable" not in EXPLAIN_USE
"""

THEIRS = {
    "REPLY_USE": "reply(f'Feeder {example.number} is silent.')",
    "SUMMARY_USE": "summary(f'Rain {example.number} in Bath.', sentences=1)",
    "EXPLAIN_USE": "explain(f'{example.number} x feeder')",
}
"""Through the bureau's own senders."""

OURS = {
    "REPLY_USE": "REPLY(ticket=f'Feeder {example.number} is silent.')",
    "SUMMARY_USE": "SUMMARY(article=f'Rain {example.number} in Bath.', sentences=1)",
    "EXPLAIN_USE": "EXPLAIN_INVOICE(invoice=f'{example.number} x feeder')",
}
"""Through the adopted texts themselves."""

HARM = {
    "test_a_string": ("bureau/support.py", " politely"),
    "test_a_jinja_file": ("bureau/news/templates/summary.j2", "Keep names and numbers as they are."),
    "test_a_message_list": ("bureau/billing.py", " Use no accounting terms."),
}
"""For each metric the file, and the words of its text that must not go."""


@pytest.fixture(scope="module")
def model() -> Iterator[Server]:
    """An endpoint that answers by what a text holds, and logs what it was asked."""
    with misbehaving() as server:
        yield server


@pytest.fixture
def adopted_project(project: Any, adopting: Bureau, model: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The adopted bureau, ready for metrics: its own client and ours find the same server."""
    Bureau(project.path, copy_of=adopting.path)
    (project.path / "tox.ini").unlink()
    for name, value in {"BUREAU_BASE_URL": model.url, "OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "none"}.items():
        monkeypatch.setenv(name, value)
    return project


@pytest.mark.parametrize(
    ("uses", "model_line", "asked_again"), [(THEIRS, "", 36), (OURS, f"promptopt_model = {MODEL}", 0)]
)
def test_adopted_texts_of_three_kinds_are_gated_and_an_edited_one_is_judged_against_its_baseline(
    adopted_project: Any, model: Server, uses: Mapping[str, str], model_line: str, asked_again: int
) -> None:
    project = adopted_project
    metrics = METRICS
    for name, use in uses.items():
        metrics = metrics.replace(name, use)
    project.write("test_bureau.py", metrics)
    project.write("pytest.ini", f"[pytest]\n{model_line}\n")
    model.follow(replies=ANSWERS)

    first = project.run()
    first.assert_outcomes(passed=3)
    assert len(model.log()) == 36
    assert frozen_files(project.path) == {}
    assert project.run("--prompt-bless").ret == 0
    written = [path for path in frozen_files(project.path) if path.endswith(".toml")]
    assert [path.partition("@")[0] for path in written] == [
        f"__prompts__/test_bureau.{metric}" for metric in sorted(HARM)
    ]

    model.follow(replies=ANSWERS)
    project.run().assert_outcomes(passed=3)
    assert len(model.log()) == asked_again
    assert set(verdicts(project, "outcome").values()) == {"pass"}

    rewrite(project.path / "bureau/support.py", "politely and in their own", "politely in their")
    project.run().assert_outcomes(passed=3)
    for metric, (file, old) in HARM.items():
        before = rewrite(project.path / file, old, "")
        project.run().assert_outcomes(passed=2, failed=1)
        assert verdicts(project, "outcome") == {**dict.fromkeys(HARM, "pass"), metric: "fail"}
        assert verdicts(project, "baseline_score") == dict.fromkeys(HARM, 1.0)
        assert verdicts(project, "difference") == {**dict.fromkeys(HARM, 0.0), metric: -1.0}
        (project.path / file).write_text(before, encoding="utf-8")


def verdicts(project: Any, field: str) -> dict[str, Any]:
    """One field of each metric's verdict."""
    return {name: figure["verdict"][field] for name, figure in project.figures().items()}


def rewrite(path: Path, old: str, new: str) -> str:
    """Edit a file; gives what it held."""
    before = path.read_text(encoding="utf-8")
    assert before.count(old) == 1
    path.write_text(before.replace(old, new), encoding="utf-8")
    return before


# --- searched ---------------------------------------------------------------------------------------------------------

SEARCH = f"""
[pytest]
promptopt_model = {MODEL}
"""

TRIAGE_METRIC = """
import pytest

from bureau.health import TRIAGE
from pytest_promptopt import load_dataset


@pytest.fixture(scope="session")
def complaints():
    return load_dataset("complaints.jsonl")


@pytest.mark.prompt_metric("complaints")
def test_triages(example):
    assert TRIAGE(complaint=example["complaint"]) == example["urgency"]
"""

SIGNS = {
    "urgent": ("bleeding", "suffocation", "poisoning"),
    "soon": ("coughing", "itching", "earache"),
    "routine": ("prescription", "vaccination", "certificate"),
}


def complaints(count: int) -> list[dict[str, str]]:
    """``count`` complaints, no two alike, each with one word that tells how urgent it is."""
    signs = [(urgency, sign) for place in range(3) for urgency, own in SIGNS.items() for sign in own[place : place + 1]]
    told = [(*signs[number % len(signs)], number) for number in range(count)]
    return [{"complaint": f"Room {number + 100}: {sign}.", "urgency": urgency} for urgency, sign, number in told]


def test_one_of_the_forty_is_searched_and_frozen_and_the_others_stay_as_they_are(
    adopted_project: Any, adopting: Bureau, model: Server, sent_before: Bodies, server: Loopback
) -> None:
    project, bureau = adopted_project, Bureau(adopted_project.path)
    project.write("pytest.ini", SEARCH)
    project.write("test_triage.py", TRIAGE_METRIC)
    project.write("complaints.jsonl", "".join(json.dumps(row) + "\n" for row in complaints(60)))
    model.follow()  # the simulator answers, and writes the proposals

    result = project.run("--optimize-prompts", "--prompt", TRIAGE)
    assert result.ret == 0
    assert [path for path in frozen_files(project.path) if path.startswith("bureau")] == [TRIAGE_SNAPSHOT]
    frozen = (project.path / TRIAGE_SNAPSHOT).read_text(encoding="utf-8")
    text = read_frozen(frozen, path=project.path / TRIAGE_SNAPSHOT).compiled.instruction
    source = (adopting.path / "bureau/prompts/triage.txt").read_text(encoding="utf-8")
    assert text != source
    assert find_fault(Template(language=Language.FORMAT, text=source), text) == ""
    assert bureau.files() == adopting.files()

    model.follow()
    project.run("--prompt-strict", "all").assert_outcomes(passed=1)
    assert [prompt["standing"] for prompt in project.figure()["prompts"]] == ["frozen"]
    assert model.log() == []  # the search has asked it all

    sent = dict(bureau.send_all(server, PROMPTOPT_MODEL=MODEL))
    (triage,) = (existing for existing in FORTY if existing.file.endswith("triage.txt"))
    (message,) = json.loads(sent.pop(triage.sender))["messages"]
    assert message == {"role": "user", "content": text.format(**triage.inputs)}
    assert sent == {sender: body for sender, body in sent_before.items() if sender != triage.sender}
