"""A project with forty prompts of every kind is listed whole: each with its file and line, and nothing beside them."""

from __future__ import annotations

import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest

from pytest_promptopt.prompts.discovery.search import discover
from tests.forty.forty import FORTY
from tests.loopback import completion, serving

PROJECT = Path(__file__).parent.parent / "forty"


@pytest.fixture
def bureau(project):
    """The project in a folder of its own, with an ordinary test."""
    shutil.copytree(PROJECT / "bureau", project.path / "bureau", ignore=shutil.ignore_patterns("__pycache__"))
    project.write(
        "test_billing.py",
        """
        from bureau.billing import email

        def test_an_email_has_a_name():
            assert email("Ms Lark", "R-7").startswith("Dear Ms Lark")
        """,
    )
    return project


def test_the_list_of_forty_is_that_of_the_files():
    assert len(FORTY) == 40
    for existing in FORTY:
        line = (PROJECT / existing.file).read_text(encoding="utf-8").splitlines()[existing.line - 1]
        name = existing.name.rpartition("[")[2].strip('"]')
        assert name in line


def test_each_of_forty_prompts_is_found_where_it_stands_and_nothing_else_is(bureau):
    found = discover(bureau.path).unmanaged
    assert {(one.name, one.file, one.line, one.kind) for one in found} == {existing[:4] for existing in FORTY}
    assert len(found) == 40


def test_all_forty_are_known_to_be_sent_and_by_whom(bureau):
    found = {(one.file, one.line): one for one in discover(bureau.path).unmanaged}
    for existing in FORTY:
        sending = found[existing.file, existing.line].sending
        assert sending is not None
        assert sending.sdk == "openai"
        assert sending.file == existing.sender.partition(":")[0].replace(".", "/") + ".py"


def test_every_adopting_line_has_a_name_of_its_own(bureau):
    names = [one.adoption.partition('text_prompt("')[2].partition('"')[0] for one in discover(bureau.path).unmanaged]
    assert all(names)
    assert len(set(names)) == 40


def test_the_list_names_all_forty_with_file_and_line(bureau):
    result = bureau.run("--prompt-list", "-v")
    assert result.ret == 0
    lines = result.stdout.lines
    assert "looks like a prompt, not managed (40)" in lines
    for existing in FORTY:
        place = existing.file if existing.kind == "file" else f"{existing.file}:{existing.line}"
        assert any(line.split()[:1] == [place] for line in lines), place


def test_the_first_dozen_is_shown_and_the_rest_counted(bureau):
    lines = bureau.run("--prompt-list").stdout.lines
    assert "  ... 28 more with -v" in lines
    assert sum(line.startswith("  bureau/") for line in lines) == 12


@pytest.fixture
def calls(bureau, monkeypatch):
    """Calls a sender by its address; gives the messages that went over the wire."""
    monkeypatch.syspath_prepend(bureau.path)
    with serving() as server:
        monkeypatch.setenv("BUREAU_BASE_URL", server.url)

        def call(existing):
            module, _, name = existing.sender.partition(":")
            owner, _, method = name.rpartition(".")
            holder = import_module(module)
            holder = getattr(holder, owner)() if owner else holder
            server.will(completion("Done."))
            assert getattr(holder, method)(**existing.inputs) == "Done."
            return server.heard[-1].body["messages"]

        yield call
    for name in [name for name in sys.modules if name.partition(".")[0] == "bureau"]:
        del sys.modules[name]


def test_each_of_forty_is_sent_by_its_sender_with_its_inputs_filled_in(calls):
    sent = [calls(existing) for existing in FORTY]
    assert len({str(messages) for messages in sent}) == len(FORTY)
    for existing, messages in zip(FORTY, sent, strict=True):
        text = "\n".join(message["content"] for message in messages)
        assert not re.search(r"\{\w+\}|\{\{|\{%", text), existing
        assert all(str(value) in text for value in existing.inputs.values() if isinstance(value, str)), existing
