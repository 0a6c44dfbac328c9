"""Adopted texts: they behave as what they were, byte for byte, until something is frozen."""

from __future__ import annotations

import asyncio
import copy
import functools
import importlib
import importlib.util
import json
import os
import runpy
import subprocess
import sys
import threading
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import jinja2
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_promptopt import PromptOptWarning, TextPrompt, prompt, text_prompt
from pytest_promptopt.errors import (
    BudgetExhausted,
    DetachedCallError,
    ModelError,
    SignatureError,
    SnapshotError,
    UsageError,
)
from pytest_promptopt.lms.ceiling import Ceiling
from pytest_promptopt.lms.client import Client, Scope
from pytest_promptopt.lms.scripted import ScriptedLM
from pytest_promptopt.optimizers.base import Outcome, Row, Task, TunablePrompt
from pytest_promptopt.optimizers.driver import Allowance
from pytest_promptopt.optimizers.proposals import ask_for_instruction, find_failures, sift
from pytest_promptopt.prompts import registry
from pytest_promptopt.prompts.active import Evaluation, candidates_in_flight, evaluating, propagate, provide_runtime
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo
from pytest_promptopt.prompts.runtime import Runtime, Standing
from pytest_promptopt.prompts.template import Language, choose_languages
from pytest_promptopt.prompts.trace import PromptCall
from pytest_promptopt.snapshots.compiled import dump_frozen, freeze
from tests.loopback import completion, serving

LAW = settings(max_examples=150, deadline=None, derandomize=True)
MODEL = "scripted/desk"
TEXTS = st.text(max_size=30) | st.lists(
    st.sampled_from(
        ["{", "}", "{{", "}}", "{a}", "{b!r:>3}", "{}", "{0}", "{a.x}", "{{ a }}", "{% if b %}", "{% endif %}"]
    )
    | st.sampled_from(["{#", "#}", "%s", "%(a)s", "%", " ", "\n", "\r\n", "\ud800", "Be kind."]),
    max_size=8,
).map("".join)


@contextmanager
def running(model: str | None = MODEL, **facts: Any) -> Iterator[list[Any]]:
    """A run whose model answers "a reply"; gives the requests that reach it."""
    asked: list[Any] = []

    def answer(request: Any) -> str:
        asked.append(request)
        return "a reply"

    lm = ScriptedLM(answer)
    client = Client(lm_for=lambda _: lm, store=None, ceiling=Ceiling())
    runtime = Runtime(client=client, command_line_model=model, **facts)
    before = provide_runtime(lambda: runtime)
    try:
        yield asked
    finally:
        provide_runtime(before)
        client.close()


@contextmanager
def row(candidate: Mapping[str, str] | None = None, spend: Callable[[], None] | None = None) -> Iterator[Evaluation]:
    """A row under evaluation; candidates by their text."""
    compiled = {name: CompiledPrompt(instruction=text) for name, text in (candidate or {}).items()}
    with evaluating(Evaluation(scope=Scope(spend=spend), candidate=compiled)) as evaluation:
        yield evaluation


def apart_each_time(check: Callable[..., None]) -> Callable[..., None]:
    """Let every example of a law adopt its text under the same name."""

    @functools.wraps(check)
    def checked(**values: Any) -> None:
        with registry.apart():
            check(**values)

    return checked


def outcome(function: Callable[[], Any]) -> Any:
    """What a function gives, or how it fails."""
    try:
        return function()
    except Exception as error:
        return type(error), str(error)


# --- not one byte -----------------------------------------------------------------------------------------------------


@LAW
@given(text=TEXTS, values=st.dictionaries(st.sampled_from(["a", "b", "self"]), TEXTS | st.integers()))
@example(text="{self}", values={"self": 1})
@apart_each_time
def test_an_adopted_text_gives_what_the_text_gives_errors_included(text: str, values: dict[str, Any]) -> None:
    adopted = text_prompt("support.reply", text)
    assert str(adopted) == f"{adopted}" == text
    assert outcome(lambda: adopted.format(**values)) == outcome(lambda: text.format(**values))
    assert outcome(lambda: adopted.format(7, **values)) == outcome(lambda: text.format(7, **values))
    assert outcome(lambda: adopted.format_map(values)) == outcome(lambda: text.format_map(values))
    assert outcome(lambda: adopted % values) == outcome(lambda: text % values)
    assert outcome(lambda: adopted % (1,)) == outcome(lambda: text % (1,))


@LAW
@given(text=TEXTS, values=st.dictionaries(st.sampled_from(["a", "b"]), TEXTS | st.integers()))
@apart_each_time
def test_an_adopted_template_renders_what_jinja_renders_errors_included(text: str, values: dict[str, Any]) -> None:
    adopted = text_prompt("support.reply", text, template="jinja2")
    assert outcome(lambda: adopted.render(**values)) == outcome(lambda: jinja2.Template(text).render(**values))
    assert outcome(lambda: adopted.render(values)) == outcome(lambda: jinja2.Template(text).render(values))


@LAW
@given(text=TEXTS, other=st.text(max_size=3))
@apart_each_time
def test_an_adopted_text_is_the_string_to_every_operator_and_method(text: str, other: str) -> None:
    adopted = text_prompt("support.reply", text)
    assert (adopted == text, adopted != text, adopted == other) == (True, False, text == other)
    assert hash(adopted) == hash(text)
    assert (len(adopted), bool(adopted), other in adopted) == (len(text), bool(text), other in text)
    assert (adopted + other, other + adopted, f"{adopted:>40}") == (text + other, other + text, f"{text:>40}")
    assert (adopted[:3], outcome(lambda: adopted[5])) == (text[:3], outcome(lambda: text[5]))
    assert (adopted.upper(), adopted.strip(), adopted.splitlines()) == (text.upper(), text.strip(), text.splitlines())
    assert adopted.replace("{", other) == text.replace("{", other)
    assert adopted.startswith("{") == text.startswith("{")
    assert "%s!" % adopted == "%s!" % text  # noqa: UP031 - the point of it
    assert jinja2.Template("{{ it }}").render(it=adopted) == jinja2.Template("{{ it }}").render(it=text)


MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "developer", "user", "assistant"]),
            "content": TEXTS | st.just([{"type": "text", "text": "{a}"}]),
        },
        optional={"name": st.text(max_size=3)},
    ),
    max_size=4,
)


def filled_in(messages: list[Any], language: str, own: list[str], fill: Callable[[str], str]) -> list[Any]:
    """The messages, those filled in that are written in ``language``; all of them where none is."""
    languages = iter(own)
    return [
        {**each, "content": fill(each["content"])}
        if isinstance(each["content"], str) and (next(languages) == language or language not in own)
        else each
        for each in messages
    ]


@LAW
@given(messages=MESSAGES, template=st.sampled_from(["format", "jinja2", "plain", None]))
@apart_each_time
def test_adopted_messages_are_the_list_and_are_filled_in_one_by_one(messages: list[Any], template: Any) -> None:
    texts = [message for message in messages if isinstance(message["content"], str)]
    if not texts:
        with pytest.raises(SignatureError, match="none of its messages has a text"):
            text_prompt("support.chat", messages)
        return
    adopted = text_prompt("support.chat", messages, template=template)
    assert [*adopted] == messages
    assert (adopted == messages, len(adopted), adopted[-1], adopted[:1]) == (
        True,
        len(messages),
        messages[-1],
        messages[:1],
    )
    more = [{"role": "user"}]
    assert adopted + more == messages + more
    assert hash(adopted) == hash(text_prompt("support.other", messages))

    own = [template] * len(texts) if template else choose_languages([each["content"] for each in texts])
    for language, use, fill in (
        ("format", adopted.format, lambda text: text.format(a=1)),
        ("jinja2", adopted.render, lambda text: jinja2.Template(text).render(a=1)),
    ):
        filled = outcome(functools.partial(use, a=1))
        if isinstance(filled, tuple) and "does not fill in" in filled[1]:
            assert any("{a}" in each["content"] for each in texts)
        else:
            assert filled == outcome(functools.partial(filled_in, messages, language, own, fill))
    commands = [each["content"] for each in texts if each["role"] in ("system", "developer")]
    assert adopted.source.instruction == (commands or [each["content"] for each in texts])[0]


def test_what_is_handed_out_of_messages_changes_nothing_in_them() -> None:
    given_messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": [{"text": "hi"}]}]
    adopted = text_prompt("support.chat", given_messages)
    given_messages[1]["content"] = "changed"
    adopted[0]["content"] = "changed"
    for message in adopted:
        message["role"] = "changed"
    adopted[1]["content"][0]["text"] = "changed"
    assert [*adopted] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": [{"text": "hi"}]}]
    with pytest.raises(AttributeError, match=r"'append'; list\(prompt\) is yours"):
        adopted.append({"role": "user", "content": "more"})


@pytest.mark.parametrize(
    "use", [json.dumps, lambda text: "".join([text]), lambda text: text.nonsense, lambda text: text._x]
)
def test_code_that_would_read_past_the_methods_fails_aloud(use: Callable[[Any], Any]) -> None:
    with pytest.raises((TypeError, AttributeError)):
        use(text_prompt("support.reply", "Be kind."))


@pytest.mark.parametrize("use", [iter, list, "".join, sorted, lambda text: [*text]])
def test_a_text_cannot_be_taken_for_a_list_and_the_refusal_names_the_way_out(use: Callable[[Any], Any]) -> None:
    adopted = text_prompt("support.reply", "Be kind.")
    assert not isinstance(adopted, Iterable)
    with pytest.raises(TypeError) as refused:
        use(adopted)
    assert use == "".join or "str(prompt)" in str(refused.value)
    with pytest.raises(TypeError, match=r"str\(prompt\)"):
        json.dumps({"content": adopted})
    assert isinstance(text_prompt("support.chat", [{"role": "system", "content": "Be kind."}]), Iterable)


SDK_CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "a message": lambda client, text: client.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "system", "content": text}]
    ),
    "instructions": lambda client, text: client.responses.create(model="gpt-4o-mini", instructions=text, input="hi"),
    "input": lambda client, text: client.responses.create(model="gpt-4o-mini", input=text),
}


@pytest.mark.parametrize("call", SDK_CALLS.values(), ids=SDK_CALLS.keys())
def test_openais_client_refuses_the_prompt_aloud_and_sends_the_same_bytes_of_its_text(call: Any) -> None:
    import openai

    text = "You are a bot."
    adopted = text_prompt("support.system", text)
    with serving() as server, openai.OpenAI(api_key="k", base_url=server.url, max_retries=0) as client:
        with pytest.raises(TypeError, match=r"str\(prompt\)"):
            call(client, adopted)
        assert server.heard == []
        for sent in (text, str(adopted)):
            server.will(completion("Done."))
            call(client, sent)
    assert server.heard[0].content == server.heard[1].content


def test_openais_client_sends_adopted_messages_as_the_list() -> None:
    import openai

    messages = [{"role": "system", "content": "You are a bot."}, {"role": "user", "content": "hi"}]
    adopted: Any = text_prompt("support.chat", messages)
    with serving() as server, openai.OpenAI(api_key="k", base_url=server.url, max_retries=0) as client:
        for sent in (messages, adopted):
            server.will(completion("Done."))
            client.chat.completions.create(model="gpt-4o-mini", messages=sent)
    assert server.heard[0].content == server.heard[1].content


LITELLM_CALLS = """
import sys
import litellm
from pytest_promptopt import text_prompt

adopted = text_prompt("support.system", "You are a bot.")
for content in (adopted, str(adopted), "You are a bot."):
    messages = [{"role": "system", "content": content}, {"role": "user", "content": "hi"}]
    try:
        litellm.completion("openai/gpt-4o-mini", messages, api_key="k", api_base=sys.argv[1], max_retries=0)
    except Exception as error:
        print("refused:", error)
"""


def test_litellm_refuses_the_prompt_aloud_and_sends_the_same_bytes_of_its_text() -> None:
    command = [sys.executable, "-c", LITELLM_CALLS]  # apart: it leaves an event loop open in the process that asks
    with serving() as server:
        server.will(completion("Done."), completion("Done."))
        result = subprocess.run([*command, server.url], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.count("refused:") == 1
    assert "str(prompt)" in result.stdout
    of_text, of_string = (heard.content for heard in server.heard)
    assert of_text == of_string


def test_a_copy_of_a_prompt_is_the_prompt_and_its_repr_is_its_name() -> None:
    adopted = text_prompt("support.reply", "Be kind.")
    assert copy.deepcopy({"a": adopted})["a"] is copy.copy(adopted) is adopted
    assert repr(adopted) == "<prompt support.reply>"


def test_an_environment_renders_with_its_filters_and_includes() -> None:
    loader = jinja2.DictLoader({"rules": "Be {{ mood }}."})
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined)
    environment.filters["shout"] = lambda text: text.upper() + "!"
    adopted = text_prompt("support.reply", "{% include 'rules' %} {{ ticket | shout }}", environment=environment)
    assert adopted.render(ticket="help", mood="kind") == "Be kind. HELP!"
    with pytest.raises(jinja2.UndefinedError):
        adopted.render(mood="kind")


# --- files and names --------------------------------------------------------------------------------------------------


def load(path: Path, name: str = "adopted_module") -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_file_stands_beside_the_module_that_adopts_it(tmp_path: Path) -> None:
    (tmp_path / "reply.j2").write_text("Dear {{ name }},\n{ticket}\n", encoding="utf-8")
    module = tmp_path / "prompts.py"
    module.write_text(
        "from pytest_promptopt import text_prompt\n\nREPLY = text_prompt('support.reply', file='reply.j2')\n"
    )
    adopted = load(module).REPLY
    assert str(adopted) == "Dear {{ name }},\n{ticket}\n"
    assert adopted.template.language == "jinja2"
    assert (adopted.home.file, adopted.home.line) == (module, 3)
    assert adopted.home.snapshot_path("m") == tmp_path / "__prompts__/support.reply@m.toml"


def test_the_ends_of_lines_of_a_file_are_those_that_python_reads(tmp_path: Path) -> None:
    (tmp_path / "reply.txt").write_bytes("Grüß dich,\r\n{ticket}\r".encode())
    module = tmp_path / "prompts.py"
    module.write_text(
        "from pytest_promptopt import text_prompt\nREPLY = text_prompt('support.reply', file='reply.txt')\n"
    )
    assert str(load(module).REPLY) == (tmp_path / "reply.txt").read_text(encoding="utf-8") == "Grüß dich,\n{ticket}\n"


@pytest.mark.parametrize("has_init", [True, False])
def test_a_file_is_found_in_a_zipped_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_init: bool) -> None:
    archive = tmp_path / "application.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped_desk/__init__.py" if has_init else "zipped_desk/", "")
        text = "from pytest_promptopt import text_prompt\nREPLY = text_prompt('support.reply', file='texts/reply.j2')\n"
        file.writestr("zipped_desk/prompts.py", text)
        file.writestr("zipped_desk/texts/reply.j2", "Answer {{ ticket }}")
    monkeypatch.syspath_prepend(archive)
    try:
        assert str(importlib.import_module("zipped_desk.prompts").REPLY) == "Answer {{ ticket }}"
    finally:
        for name in [name for name in sys.modules if name.startswith("zipped_desk")]:
            del sys.modules[name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either its text or file="),
        ({"text": "a", "file": "b"}, "give either its text or file="),
        ({"file": "missing.txt"}, r"missing\.txt cannot be read; file= is relative to"),
        ({"text": 3}, "adopt a string, or chat messages like"),
        ({"text": ["a"]}, "adopt a string, or chat messages like"),
        ({"text": [{"role": "user", "content": None}]}, "none of its messages has a text"),
        ({"text": [{"role": "user", "content": "a", "x": object()}]}, "hold what JSON cannot"),
        ({"text": "a", "template": "jinja"}, """template='jinja' is none of "format", "jinja2", "plain\""""),
        ({"name": " ", "text": "a"}, "an adopted text needs a name"),
    ],
)
def test_what_cannot_be_adopted_is_refused_with_a_way_out(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        text_prompt(**{"name": "support.reply", **arguments})


TWINS = {
    "two lines": "text_prompt('support.a', 'a')\ntext_prompt('support.a', 'b')\n",
    "a loop": "for text in ('a', 'b'):\n    text_prompt('support.a', text)\n",
    "both kinds": "@prompt(name='support.a')\ndef one(x: str) -> str: 'One.'\ntext_prompt('support.a', 'a')\n",
    "typed": "for kind in (str, int):\n    @prompt(name='support.a')\n    def one(x: str) -> kind: 'One.'\n",
}


@pytest.mark.parametrize("code", TWINS.values(), ids=TWINS.keys())
@pytest.mark.parametrize("is_script", [False, True], ids=["module", "script"])
def test_two_prompts_of_one_module_cannot_share_a_name(tmp_path: Path, code: str, is_script: bool) -> None:
    module = tmp_path / "prompts.py"
    module.write_text(f"from pytest_promptopt import prompt, text_prompt\n{code}")
    place = "in (the lines 2 and [34]|line [235], which runs more than once)"
    with pytest.raises(SignatureError, match=rf"prompts\.py gives two prompts the name support\.a, {place}"):
        runpy.run_path(str(module), run_name="__main__") if is_script else load(module)


@pytest.mark.parametrize(
    "second", ["A = text_prompt('support.a', 'a')", "for text in 'aa': A = text_prompt('support.a', text)"]
)
def test_the_same_text_under_the_same_name_is_no_twin(tmp_path: Path, second: str) -> None:
    module = tmp_path / "prompts.py"
    module.write_text(f"from pytest_promptopt import text_prompt\nA = text_prompt('support.a', 'a')\n{second}\n")
    assert load(module).A == "a"


def test_a_module_that_is_imported_again_replaces_its_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "reloaded_desk.py"
    path.write_text("from pytest_promptopt import text_prompt\nA = text_prompt('support.a', 'a')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = importlib.import_module("reloaded_desk")
    try:
        path.write_text("from pytest_promptopt import text_prompt\nA = text_prompt('support.a', 'bee')\n")
        assert importlib.reload(module).A == "bee"
        path.write_text("from pytest_promptopt import text_prompt\nA = text_prompt('support.a', 'other')\n")
        assert load(path, "tests.reloaded_desk").A == "other"  # the same file under another name
        assert [*map(str, registry.registered_prompts())] == ["other"]
    finally:
        del sys.modules["reloaded_desk"]


def test_a_cell_of_a_notebook_may_be_run_again_with_another_text() -> None:
    notebook: dict[str, Any] = {"__name__": "__main__", "__spec__": None}
    for text in ("a", "b"):
        exec(f"from pytest_promptopt import text_prompt\nA = text_prompt('support.a', {text!r})", notebook)
    assert notebook["A"] == "b"


# --- through our client -----------------------------------------------------------------------------------------------


def test_calling_it_sends_the_filled_in_text_as_the_user() -> None:
    adopted = text_prompt("support.reply", "Answer {ticket}", temperature=0.5, max_tokens=7)
    with running() as asked:
        assert adopted(ticket="help") == "a reply"
        prediction = adopted.predict(ticket="help")
        assert asyncio.run(adopted.acall(ticket="help")) == "a reply"
        assert asyncio.run(adopted.apredict(ticket="help")).value == "a reply"
    assert (prediction.value, prediction.text, prediction.model) == ("a reply", "a reply", MODEL)
    assert [request.messages for request in asked] == [({"role": "user", "content": "Answer help"},)] * 4
    assert (asked[0].temperature, asked[0].max_tokens) == (0.5, 7)
    assert adopted.messages(ticket="help") == [{"role": "user", "content": "Answer help"}]


def test_calling_messages_sends_all_of_them() -> None:
    messages = [{"role": "system", "content": "Be {mood}."}, {"role": "user", "content": "{ticket}"}]
    adopted = text_prompt("support.chat", messages)
    with running() as asked:
        adopted(mood="kind", ticket="help")
    assert (
        [*asked[0].messages]
        == adopted.format(mood="kind", ticket="help")
        == adopted.messages(mood="kind", ticket="help")
    )


def test_contents_of_several_parts_are_sent_as_they_are_and_percent_signs_stay() -> None:
    parts = [{"type": "text", "text": "%(ticket)s"}]
    messages = [{"role": "user", "content": parts}, {"role": "system", "content": "100% kind"}]
    adopted = text_prompt("support.chat", [*messages, {"role": "user", "content": "%(ticket)s"}])
    with running() as asked:
        adopted(ticket="help")
    assert [*asked[0].messages] == [*messages, {"role": "user", "content": "help"}]
    assert adopted.source.instruction == "100% kind"


@pytest.mark.parametrize(
    ("text", "inputs", "sent"),
    [
        ("{{ ticket }}", {"ticket": "help"}, "help"),
        ("%(ticket)s, 100%% kind", {"ticket": "help"}, "help, 100% kind"),
        ("100% kind", {}, "100% kind"),
    ],
)
def test_a_call_fills_in_what_the_text_is_written_in(text: str, inputs: dict[str, str], sent: str) -> None:
    assert text_prompt("support.reply", text).messages(**inputs)[0]["content"] == sent


def test_inputs_that_no_text_takes_are_a_type_error_as_in_any_call() -> None:
    with pytest.raises(TypeError, match=r"support\.reply\(\) takes no inputs: its text has no placeholders"):
        text_prompt("support.reply", "Be kind.").messages(ticket="help")


JSON_RULE = 'Route tickets. Reply as {"team": "billing"}.'


@pytest.mark.parametrize(
    ("text", "args", "inputs", "said"),
    [
        (f"{JSON_RULE}\n{{ticket}}", (), {"ticket": "x"}, 'fill in {ticket}: the brace of {"team": "billing"} makes'),
        ("Answer {} in {}", ("a", "b"), {}, "does not fill in {}: {} has no name"),
        ("Be {kind", (), {"kind": 1}, "takes no inputs: its text has no placeholders"),
        ("{ticket} and {team: x}", (), {"ticket": "x"}, "has no input for {team: x}; a brace that is meant as a brace"),
        ("{ticket}", (), {}, "has no input for {ticket}"),
        ("%(ticket)s", (), {"name": "x"}, "has no input for %(ticket)s"),
        ("Be kind.", (), {"ticket": "x"}, "takes no inputs: its text has no placeholders"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_words_that_are_true(
    text: str, args: tuple[Any, ...], inputs: dict[str, Any], said: str
) -> None:
    adopted = text_prompt("support.reply", text)
    with running() as asked:
        for use in (adopted.messages, adopted):
            with pytest.raises(TypeError, match=r"^support\.reply\(\) ") as refused:
                use(*args, **inputs)
            assert said in str(refused.value)
    assert asked == []


def test_each_message_is_filled_in_in_its_own_language() -> None:
    messages = [{"role": "system", "content": JSON_RULE}, {"role": "user", "content": "{ticket}"}]
    adopted = text_prompt("support.chat", messages)
    filled = [messages[0], {"role": "user", "content": "help"}]
    assert adopted.messages(ticket="help") == adopted.format(ticket="help") == filled
    assert adopted.template.language is Language.PLAIN
    assert adopted.signature.find_fault(CompiledPrompt(instruction='Reply as {"team": "bug"}.')) == ""
    with running(), row({"support.chat": 'Reply as {"team": "bug"}.'}):
        assert adopted.format(ticket="help")[0]["content"] == 'Reply as {"team": "bug"}.'


def test_messages_without_fields_are_written_as_the_others_are() -> None:
    messages = [{"role": "system", "content": 'Reply as {{"team": "x"}}.'}, {"role": "user", "content": "{ticket}"}]
    adopted = text_prompt("support.chat", messages)
    assert adopted.messages(ticket="help")[0]["content"] == 'Reply as {"team": "x"}.'
    jinja = text_prompt(
        "support.jinja", [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "{{ x }}"}]
    )
    assert jinja.template.language is Language.JINJA2
    assert jinja.render(x=1) == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "1"}]


def test_a_plain_message_with_a_field_that_nothing_fills_in_is_refused() -> None:
    messages = [{"role": "system", "content": f"{JSON_RULE} {{ticket}}"}, {"role": "user", "content": "{ticket}"}]
    adopted = text_prompt("support.chat", messages)
    for use in (adopted.messages, adopted.format):
        with pytest.raises(TypeError, match=r"does not fill in \{ticket\}: the brace of "):
            use(ticket="help")


def test_a_lone_percent_sign_never_shows_a_reader_all_inputs() -> None:
    adopted = text_prompt("support.reply", "100% sure: %(ticket)s, 50%% %s")
    assert adopted.messages(ticket="help")[0]["content"] == "100% sure: help, 50% %s"


def test_an_asynchronous_environment_renders_inside_an_event_loop() -> None:
    environment = jinja2.Environment(enable_async=True)

    async def name() -> str:
        return "Ann"

    adopted = text_prompt("support.reply", "Dear {{ name() }}", environment=environment)
    chat = text_prompt("support.chat", [{"role": "user", "content": "Dear {{ name() }}"}], environment=environment)
    ordinary = text_prompt("support.bye", "Bye {{ name }}")

    async def use_all() -> None:
        assert await adopted.arender(name=name) == "Dear Ann"
        assert await chat.arender({"name": name}) == [{"role": "user", "content": "Dear Ann"}]
        assert await ordinary.arender(name="Ann") == "Bye Ann"
        await adopted.acall(name=name)
        await chat.apredict(name=name)

    with running() as asked, row() as evaluation:
        asyncio.run(use_all())
    assert [request.messages[0]["content"] for request in asked] == ["Dear Ann"] * 2
    assert [call.is_sent_by_us for call in evaluation.calls] == [False] * 3 + [True] * 2


# --- under evaluation -------------------------------------------------------------------------------------------------


def test_a_candidate_takes_the_place_of_the_text_everywhere_and_of_one_message_alone() -> None:
    adopted = text_prompt("support.reply", "Answer {ticket}")
    messages = [{"role": "user", "content": "{ticket}"}, {"role": "system", "content": "Be kind."}]
    chat = text_prompt("support.chat", messages)
    with running() as asked, row({"support.reply": "Now: {ticket}", "support.chat": "Be brief."}):
        adopted(ticket="help")
        assert asked[0].messages[0]["content"] == adopted.format(ticket="help") == "Now: help"
        assert str(adopted) == adopted == adopted + "" == "Now: {ticket}"
        assert [*chat] == [messages[0], {"role": "system", "content": "Be brief."}]
    assert adopted == "Answer {ticket}"


@pytest.mark.parametrize("model", [MODEL, None])
def test_every_use_leaves_a_trace_and_costs_a_logical_call_and_no_look_does(model: str | None) -> None:
    adopted = text_prompt("support.reply", "Answer {ticket}")
    spent: list[int] = []
    looks = [len, bool, hash, lambda it: "x" in it, lambda it: it == "x", repr, lambda it: it.startswith("A")]
    uses = [
        str,
        lambda it: it[:],
        lambda it: it[0],
        lambda it: it + "",
        lambda it: "" + it,
        lambda it: it.upper(),
        lambda it: f"{it}",
    ]
    with running(model=model), row({"support.reply": "Now: {ticket}"}, spend=lambda: spent.append(1)) as evaluation:
        for look in looks:
            look(adopted)
        assert (spent, evaluation.calls) == ([], [])
        for use in uses:
            use(adopted)
        adopted.format(ticket="help")
        adopted.messages(ticket="help")
    assert len(spent) == len(evaluation.calls) == len(uses) + 2
    call = evaluation.calls[-2]
    assert call == PromptCall(
        prompt="support.reply",
        inputs={"ticket": "help"},
        output=None,
        reasoning=None,
        reply="",
        is_parsed=False,
        digest=CompiledPrompt(instruction="Now: {ticket}").digest,
        model=model or "",
        file=str(adopted.home.file),
        is_sent_by_us=False,
    )


def test_a_call_of_ours_leaves_one_trace_with_its_reply_and_is_spent_once() -> None:
    adopted = text_prompt("support.reply", "Answer {ticket}")
    spent: list[int] = []
    with running(), row(spend=lambda: spent.append(1)) as evaluation:
        adopted(ticket="help")
    (call,) = evaluation.calls
    assert (call.reply, call.inputs, call.is_sent_by_us, call.is_parsed) == ("a reply", {"ticket": "help"}, True, False)
    assert (len(spent), evaluation.scope.fresh) == (1, 1)


def test_messages_that_hold_nothing_of_the_instruction_may_be_read_for_nothing() -> None:
    chat = text_prompt("support.chat", [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}])
    with running(), row() as evaluation:
        _ = chat[1], chat[-1], chat[1:]
        assert evaluation.calls == []
        _ = chat[0], chat[:1], chat[-2]
        assert len(evaluation.calls) == 3


def test_a_spent_budget_stops_the_text_from_being_handed_out() -> None:
    adopted = text_prompt("support.reply", "Answer {ticket}")
    allowance = Allowance(2)
    with running(), row(spend=allowance.spend) as evaluation:
        adopted.format(ticket="a")
        adopted(ticket="b")
        for use in (lambda: adopted.format(ticket="c"), lambda: adopted(ticket="c"), lambda: str(adopted)):
            with pytest.raises(BudgetExhausted):
                use()
    assert len(evaluation.calls) == 2


class Odd:
    def __str__(self) -> str:
        return "odd"


class Bare:
    def __getitem__(self, name: str) -> str:
        return "bare"


def test_inputs_that_json_cannot_hold_are_traced_as_text_and_break_nothing() -> None:
    adopted = text_prompt("support.reply", "{ticket} {0}")
    with running(), row() as evaluation:
        assert adopted.format(1, ticket=Odd()) == "odd 1"
        assert text_prompt("support.thanks", "{name}").format_map(defaultdict(Odd)) == "odd"
        assert text_prompt("support.bye", "{name}").format_map(Bare()) == "bare"  # type: ignore[arg-type]
    assert [call.inputs for call in evaluation.calls] == [{"0": 1, "ticket": "odd"}, {"name": "odd"}, {}]


def test_a_thread_that_carries_no_candidate_is_an_error_and_propagate_mends_it() -> None:
    adopted = text_prompt("support.reply", "Answer {ticket}")
    seen: list[Any] = []

    def look() -> None:
        seen.append(outcome(lambda: adopted.format(ticket="x")))

    with running(), candidates_in_flight(), row({"support.reply": "Now: {ticket}"}):
        for target in (look, propagate(look)):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert seen[0][0] is DetachedCallError
    assert seen[1] == "Now: x"


@pytest.mark.parametrize(
    ("text", "use", "way"),
    [
        ("Be kind.", lambda it: it.format(), "format"),
        ("{ticket}", lambda it: it.render(), "render"),
        ("{{ ticket }}", lambda it: it.format(), "format"),
        ("{ticket}", lambda it: it % (), "%"),
    ],
)
def test_a_candidate_is_filled_in_only_in_the_language_in_which_it_was_verified(
    text: str, use: Callable[[Any], Any], way: str
) -> None:
    adopted = text_prompt("support.reply", text)
    refusal = pytest.raises(UsageError, match=rf"support.reply is filled in by {way}, but .* template=")
    with running(), row({"support.reply": text}), refusal:
        use(adopted)


# --- snapshots --------------------------------------------------------------------------------------------------------


def frozen_as(adopted: TextPrompt[Any], text: str, demos: tuple[Demo, ...] = ()) -> str:
    return dump_frozen(
        freeze(
            prompt=adopted.name,
            model=MODEL,
            signature_digest=adopted.signature.digest,
            source_digest=adopted.signature.source_digest,
            compiled=CompiledPrompt(instruction=text, demos=demos),
            provenance={},
        )
    )


@pytest.fixture
def module(tmp_path: Path) -> Callable[..., TextPrompt[Any]]:
    """Adopts a text in a module of its own, which may have snapshots."""

    def make(text: Any = "Answer {ticket}", frozen: str | None = None, **settings: Any) -> TextPrompt[Any]:
        path = tmp_path / "prompts.py"
        path.write_text(
            f"from pytest_promptopt import text_prompt\nIT = text_prompt('support.reply', {text!r}, **{settings!r})\n"
        )
        adopted: TextPrompt[Any] = load(path).IT
        if frozen is not None:
            (tmp_path / "__prompts__").mkdir(exist_ok=True)
            adopted.home.snapshot_path(MODEL).write_text(frozen_as(adopted, frozen), encoding="utf-8")
        return adopted

    return make


def test_a_frozen_text_serves_for_its_model_and_the_source_where_none_is_named(module: Any) -> None:
    adopted = module(frozen="Kindly answer {ticket}")
    with running():
        assert adopted.snapshot.standing is Standing.FROZEN
        assert adopted.format(ticket="x") == "Kindly answer x"
        assert adopted == "Kindly answer {ticket}"
    with running(model="scripted/other"):
        assert adopted.format(ticket="x") == "Answer x"
    with running(model=None):
        assert adopted.format(ticket="x") == "Answer x"
        assert adopted.messages(ticket="x")[0]["content"] == "Answer x"


def test_where_snapshots_are_required_a_text_wants_a_model_that_names_one() -> None:
    adopted = text_prompt("support.reply", "Answer {ticket}")
    with running(model=None, is_production=True, requires_snapshots=True), pytest.raises(ModelError):
        adopted.format(ticket="x")
    with running(model=None, is_production=True):
        assert adopted.format(ticket="x") == "Answer x"


@pytest.mark.parametrize(
    ("before", "after", "standing"),
    [
        ({}, {}, Standing.FROZEN),
        ({"text": "Answer {ticket}"}, {"text": "Answer\n  {ticket}\n"}, Standing.FROZEN),
        ({"text": "Answer {ticket}"}, {"text": "Reply to {ticket}"}, Standing.STALE),
        ({"text": "Answer {ticket}"}, {"text": "Answer {ticket!r}"}, Standing.STALE),
        ({}, {"temperature": 0.5}, Standing.STALE),
        ({}, {"max_tokens": 5}, Standing.STALE),
        ({}, {"template": "plain"}, Standing.STALE),
        ({}, {"model": MODEL}, Standing.FROZEN),
    ],
)
def test_a_snapshot_is_stale_when_the_text_or_its_settings_change(
    module: Any, before: dict[str, Any], after: dict[str, Any], standing: Standing
) -> None:
    module(frozen="Kindly answer {ticket}", **before)
    adopted = module(**after)
    with running():
        assert adopted.snapshot.standing is standing


def test_a_snapshot_is_stale_when_a_fixed_message_changes(module: Any) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "{ticket}"}]
    module(text=messages, frozen="Be brief.")
    with running():
        assert module(text=messages)[0]["content"] == "Be brief."
        for changed in ({**messages[1], "content": "Ticket: {ticket}"}, {**messages[1], "role": "assistant"}):
            assert module(text=[messages[0], changed]).snapshot.standing is Standing.STALE


def test_an_edited_text_is_used_once_its_placeholders_are_verified(module: Any) -> None:
    adopted = module(frozen="Kindly answer {ticket}")
    path = adopted.home.snapshot_path(MODEL)
    frozen = path.read_text(encoding="utf-8")
    path.write_text(frozen.replace("Kindly", "Gladly"), encoding="utf-8")
    with running():
        assert adopted.snapshot.standing is Standing.EDITED
        assert adopted.format(ticket="x") == "Gladly answer x"
    path.write_text(frozen.replace("{ticket}", "it"), encoding="utf-8")
    with running(), pytest.raises(SnapshotError) as lost:
        adopted.format(ticket="x")
    assert f"{path}: the frozen text of support.reply cannot be used, it loses {{ticket}}" in str(lost.value)
    assert lost.value.path == path


def test_a_frozen_text_with_demos_is_refused(module: Any) -> None:
    adopted = module(frozen="Kindly answer {ticket}")
    demos = (Demo(inputs={"ticket": "a"}, output="b"),)
    adopted.home.snapshot_path(MODEL).write_text(frozen_as(adopted, "Kindly answer {ticket}", demos))
    with running(), pytest.raises(SnapshotError, match="it has demos"):
        str(adopted)


def test_an_application_without_a_model_runs_its_texts_silently_and_imports_nothing_for_them(tmp_path: Path) -> None:
    (tmp_path / "ask.j2").write_text("Dear {{ name }},")
    script = tmp_path / "application.py"
    script.write_text("""
import sys, warnings
warnings.simplefilter("error")
from pytest_promptopt import text_prompt
ask = text_prompt("desk.ask", file="ask.j2")
reply = text_prompt("desk.reply", "Answer {ticket}")
assert (str(ask), reply.format(ticket="x"), reply == "Answer {ticket}") == ("Dear {{ name }},", "Answer x", True)
assert not {"jinja2", "pytest", "litellm", "aiohttp", "pydantic"} & {*sys.modules}, sys.modules
assert ask.render(name="Ann") == "Dear Ann,"
""")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROMPTOPT_")}
    result = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["application.py", "ask.j2"]


@pytest.mark.parametrize("model", ["offline/keyword", None])
def test_in_production_a_missing_snapshot_warns_once_at_the_line_that_uses_the_text(model: str | None) -> None:
    adopted = text_prompt("support.unfrozen", "Answer {ticket}")
    held = text_prompt("support.held", "Answer {ticket}", optimize=False)
    with running(model=model, is_production=True), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for prompt in (adopted, held):
            prompt.format(ticket="x")
            _ = prompt + "!"
    line = sys._getframe().f_lineno
    assert [(one.filename, one.lineno) for one in warned] == ([(__file__, line - 2)] if model else [])


# --- what a search is told --------------------------------------------------------------------------------------------


def tunable(adopted: TextPrompt[Any]) -> TunablePrompt:
    return TunablePrompt(name=adopted.name, signature=adopted.signature, source=adopted.source)


def test_the_proposer_is_shown_what_to_keep_and_its_faults_are_named() -> None:
    chosen = tunable(text_prompt("support.reply", "Answer {ticket!r} in {{braces}}"))
    ours, theirs = (
        PromptCall(
            prompt="support.reply",
            inputs={"ticket": "help me"},
            output=None,
            reasoning=None,
            reply="go away" * ours,
            is_parsed=False,
            is_sent_by_us=ours,
        )
        for ours in (True, False)
    )
    failures = find_failures(
        "support.reply",
        [(name, Outcome(score=0.0, feedback="rude", calls=(call,))) for name, call in (("a", ours), ("b", theirs))],
    )
    request = ask_for_instruction(chosen, chosen.source.instruction, failures=failures)[-1]["content"]
    assert "each at least once: {ticket!r}\n" in request
    assert "- ticket: text" in request
    assert "Literal braces are written twice" in request
    assert request.count("the model answered: go away") == 1
    assert request.count("the test said: rude") == 2
    replies = ["Kindly answer {ticket!r}", "Kindly answer", "{ticket!r} {ticket.__class__}", "{ticket!r} {"]
    sifted = sift(replies, chosen, [], max_words=50)
    assert sifted.instructions == ("Kindly answer {ticket!r}",)
    reasons = [rejection.reason for rejection in sifted.rejected]
    assert reasons[:2] == ["loses {ticket!r}", "brings {ticket.__class__}, which the source does not have"]
    assert reasons[2].startswith("is no format template: ")


def test_the_driver_runs_no_row_of_a_candidate_without_its_placeholders_and_says_why() -> None:
    from tests import optimizer_world

    adopted = tunable(text_prompt("support.reply", "Name the topic of {text}. It may be rain."))
    world = optimizer_world.make_task(prompts=("route",))
    task = Task(
        prompts=(*world.prompts, adopted),
        source=Candidate({**world.source, adopted.name: adopted.source}),
        trainset=world.trainset,
        valset=world.valset,
        weights=world.weights,
    )
    lost = task.source.replace(
        adopted.name, CompiledPrompt(instruction="Name rain, music, food, books, trains, money.")
    )
    shown = task.source.replace(
        adopted.name, CompiledPrompt(instruction=adopted.source.instruction, demos=adopted_demos(task.trainset[0]))
    )

    class Careless:
        def search(self, task: Task, rng: Random) -> Any:
            from pytest_promptopt.optimizers.base import Evaluate, Trace

            for candidate in (lost, shown):
                (told,) = yield Evaluate(pairs=((candidate, task.valset[0]),))
                assert (told.score, told.is_rejected) == (None, True)
                (told,) = yield Trace(pairs=((candidate, task.trainset[0]),), attempt=1)
                assert told.is_rejected
            return lost

        def expected_calls(self, sizes: Any) -> tuple[int, int]:
            return 0, 0

    searched = optimizer_world.run(Careless(), task)
    assert searched.found.candidate == task.source
    assert searched.found.calls == 0
    assert [rejection.reason for rejection in searched.found.rejected] == [
        "support.reply loses {text}",
        "support.reply has demos, for which an adopted text has no place",
    ]
    assert not any(rejection.has_run for rejection in searched.found.rejected)


def adopted_demos(row: Row) -> tuple[Demo, ...]:
    return (Demo(inputs={"text": "a"}, output="b", row=row.id),)


# --- loops that stand still -------------------------------------------------------------------------------------------


@prompt
def route(ticket: str) -> str:
    """Decide which team should answer."""
    raise NotImplementedError


async def call_both(adopted: TextPrompt[str], typed: Any) -> None:
    for _ in range(2):
        adopted(ticket="a")
        adopted.predict(ticket="a")
        typed(ticket="a")


@pytest.mark.parametrize("run", [asyncio.run, None], ids=["asyncio", "trio"])
def test_a_synchronous_call_inside_a_loop_warns_once_for_each_prompt_at_the_callers_line(run: Any) -> None:
    adopted = text_prompt("support.reply", "Answer {ticket}")
    typed = prompt(name="support.route")(route.__wrapped__)
    with running(), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        trio.run(call_both, adopted, typed) if run is None else run(call_both(adopted, typed))
    first, second = warned
    assert first.category is second.category is PromptOptWarning
    line = call_both.__code__.co_firstlineno
    assert (first.filename, first.lineno, second.lineno) == (__file__, line + 2, line + 4)
    assert "support.reply was called inside a running event loop" in str(first.message)
    assert "async def" in str(first.message)
    assert "await reply.acall(" in str(first.message)
    assert "`async def route`" in str(second.message)


def test_nothing_warns_where_no_loop_runs_or_where_it_is_awaited() -> None:
    adopted = text_prompt("support.reply", "Answer {ticket}")

    async def awaiting() -> None:
        await adopted.acall(ticket="a")
        await adopted.apredict(ticket="a")
        adopted.format(ticket="a")
        await asyncio.to_thread(adopted, ticket="a")

    with running(), ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error")
        adopted(ticket="a")
        asyncio.run(awaiting())
