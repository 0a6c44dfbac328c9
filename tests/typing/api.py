"""What type checkers see of the public names; checked by mypy, never run."""

from __future__ import annotations

import dataclasses
from collections.abc import Coroutine
from typing import Any, Literal, assert_type

from pytest_promptopt import (
    ChatPrompt,
    Example,
    Prediction,
    Prompt,
    Score,
    TextPrompt,
    configure,
    load_dataset,
    prompt,
    text_prompt,
    using_model,
)
from pytest_promptopt.testing import ScriptedLM


@dataclasses.dataclass
class Ticket:
    team: str
    urgency: int


@prompt
def route(ticket: str) -> Literal["billing", "bug"]:
    """Decide which team should answer."""
    raise NotImplementedError


@prompt(reasoning=True, temperature=0.5)
def read(ticket: str, *, language: str = "en") -> Ticket:
    """Read this ticket."""
    raise NotImplementedError


@prompt
async def reply(ticket: str) -> str:
    """Answer politely."""
    raise NotImplementedError


THANKS = text_prompt("support.thanks", "Thank {name}.")
FROM_FILE = text_prompt("support.file", file="reply.j2", template="jinja2", temperature=0.5, optimize=False)
CHAT = text_prompt("support.chat", [{"role": "system", "content": "Be kind to {name}."}])
text_prompt("support.both", "a", file="b")  # type: ignore[call-overload]  # the one or the other
text_prompt("support.language", "a", template="mustache")  # type: ignore[call-overload]  # one that is known


async def use_texts() -> None:
    adopted: TextPrompt[str] = FROM_FILE
    assert_type(THANKS.format(name="Ann"), str)
    assert_type(adopted.render(name="Ann"), str)
    assert_type(CHAT.format(name="Ann"), list[dict[str, Any]])
    chat: ChatPrompt = CHAT
    assert_type(next(iter(chat)), dict[str, Any])
    assert_type(THANKS + "!", str)
    assert_type(THANKS(name="Ann"), str)
    assert_type(await CHAT.acall(name="Ann"), str)
    assert_type(await CHAT.apredict(name="Ann"), Prediction[str])
    assert_type(THANKS.messages(name="Ann"), list[dict[str, Any]])


async def use() -> None:
    assert_type(route("a"), Literal["billing", "bug"])
    assert_type(read(ticket="a", language="de"), Ticket)
    assert_type(await assert_type(reply("a"), Coroutine[Any, Any, str]), str)
    assert_type(route.parse("bug"), Literal["billing", "bug"])
    assert_type(route.messages("a"), list[dict[str, str]])
    route(1)  # type: ignore[arg-type]  # an input is checked like an argument
    route(text="a")  # type: ignore[call-arg]  # and so is its name
    prompted: Prompt[..., Any] = read
    predicted: Prediction[Ticket] = read.predict("a")
    assert_type(predicted.value, Ticket)
    assert_type(load_dataset("rows.jsonl"), list[Example])
    assert_type(Score(0.5, feedback=prompted.name).value, float)
    with using_model("offline/keyword"):
        configure(model="offline/keyword")
    ScriptedLM(["a"], default="b")
