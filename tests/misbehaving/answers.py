"""What each behaviour puts on the wire: from a rule and a request to a :class:`Plan`, which the server carries out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from enum import Enum, auto
from typing import Any

from pytest_promptopt.errors import PromptOptError
from pytest_promptopt.lms.offline import reply
from tests.misbehaving.script import Body, Rule, Script


class Way(Enum):
    """How a response gets to the client, or does not."""

    WHOLE = auto()
    CUT = auto()  # the connection is reset before byte ``cut_at``
    DRIP = auto()  # the body comes in pieces
    HANG = auto()  # nothing comes until the client gives up
    DIE = auto()  # the server's process is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One HTTP response, and the way it goes; ``cut_at`` of ``None`` is the middle of the body."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    body: bytes = b""
    way: Way = Way.WHOLE
    cut_at: int | None = None
    pause_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request in the hands of a behaviour."""

    script: Script
    rule: Rule
    number: int
    key: str
    body: Body

    @property
    def text(self) -> str:
        """The answer of a server that behaves."""
        if self.rule.text is not None:
            return self.rule.text
        messages = self.body["messages"]
        contents = [str(message["content"]) for message in messages]
        told = next((told.says for told in self.script.replies if told.fits(contents)), None)
        return told if told is not None else self._of_the_brain(messages)

    def _of_the_brain(self, messages: list[dict[str, str]]) -> str:
        temperature = self.body.get("temperature", 0.0)
        return reply(self.script.brain, messages, temperature=temperature, seed=self.number if temperature else 0)


ALWAYS_WELL = Rule(does="answer")


def plan(script: Script, rule: Rule | None, number: int, key: str, body: Body) -> Plan:
    """What a server by this script sends for its ``number``-th request, which came with ``key``."""
    question = Question(script=script, rule=rule or ALWAYS_WELL, number=number, key=key, body=body)
    try:
        planned = BEHAVIOURS[question.rule.does](question)
    except PromptOptError as refused:  # the simulator cannot make sense of such messages
        return error(400, str(refused))
    return replace(planned, headers={**planned.headers, **_retry_headers(question.rule)})


def refuse_unknown(script: Script) -> None:
    """Raise ``ValueError`` for a rule that asks for what no server does."""
    if any(rule.does == "refuses" and rule.parameter not in REFUSALS for rule in script.rules):
        raise ValueError(f"a rule that refuses names its parameter: {', '.join(REFUSALS)}")
    unknown = {rule.does for rule in script.rules} - BEHAVIOURS.keys()
    if unknown:
        raise ValueError(f"no server does {', '.join(sorted(unknown))}; it may do {', '.join(BEHAVIOURS)}")


def _retry_headers(rule: Rule) -> dict[str, str]:
    """When to come back."""
    headers: dict[str, str] = {}
    if rule.retry_after is not None:
        headers["Retry-After"] = rule.retry_after
    if rule.retry_after_ms is not None:
        headers["retry-after-ms"] = str(rule.retry_after_ms)
    if rule.retry_after_date_seconds is not None:
        moment = datetime.now(UTC) + timedelta(seconds=rule.retry_after_date_seconds)
        headers["Retry-After"] = format_datetime(moment, usegmt=True)
    return headers


def error(status: int, message: str, code: str | None = None, **more: Any) -> Plan:
    """A response that says what went wrong, as OpenAI's does."""
    told = {"message": message, "type": "invalid_request_error" if status < 500 else "server_error", "code": code}
    return Plan(status=status, body=_dumps({"error": {**told, "param": None, **more}}))


def _dumps(value: object) -> bytes:
    return json.dumps(value).encode()


# --- completions --------------------------------------------------------------------------------------------------


def _completion(question: Question, content: str | None, *, finish_reason: str = "stop", **changes: Any) -> Plan:
    """A chat completion; tokens are words. ``changes`` replace fields of its body, ``None`` takes one out."""
    message = {"role": "assistant", "content": content}
    choices = [{"index": 0, "finish_reason": finish_reason, "message": message}]
    prompt_tokens = sum(len(str(each["content"]).split()) for each in question.body["messages"])
    completion_tokens = len((content or "").split())
    body = {
        "id": f"chatcmpl-{question.number}",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": question.body["model"],
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
        **changes,
    }
    return Plan(body=_dumps({name: value for name, value in body.items() if value is not None}))


def _answer(question: Question) -> Plan:
    return _completion(question, question.text)


def _several_choices(question: Question) -> Plan:
    """The first is the answer; the others say something else."""
    whole = json.loads(_answer(question).body)
    other = {"index": 1, "finish_reason": "stop", "message": {"role": "assistant", "content": "another choice"}}
    return Plan(body=_dumps({**whole, "choices": [*whole["choices"], other]}))


def _length(question: Question) -> Plan:
    """Cut off by ``max_tokens``, by default before the first word."""
    return _completion(question, question.rule.text or "", finish_reason="length")


def _filtered(question: Question) -> Plan:
    return _completion(question, "", finish_reason="content_filter")


def _refusal(question: Question) -> Plan:
    whole = json.loads(_completion(question, None).body)
    whole["choices"][0]["message"]["refusal"] = question.rule.message or "I cannot help with that."
    return Plan(body=_dumps(whole))


# --- broken bodies and connections ----------------------------------------------------------------------------------


def _truncated(question: Question) -> Plan:
    """Half a JSON document, with the length that half has."""
    body = _answer(question).body
    return Plan(body=body[: len(body) // 2])


def _html(status: int) -> Callable[[Question], Plan]:
    page = b"<!doctype html><html><head><title>Gateway</title></head><body><h1>Please log in</h1></body></html>"
    return lambda question: Plan(status=status, headers={"Content-Type": "text/html"}, body=page)


def _reset(question: Question) -> Plan:
    return Plan(way=Way.CUT, cut_at=0)


def _cut(question: Question) -> Plan:
    return Plan(body=_answer(question).body, way=Way.CUT, cut_at=question.rule.at)


def _drip(question: Question) -> Plan:
    return Plan(body=_answer(question).body, way=Way.DRIP, pause_seconds=question.rule.pause_seconds)


# --- errors ---------------------------------------------------------------------------------------------------------


def _status(status: int, message: str, code: str | None = None) -> Callable[[Question], Plan]:
    """An error with that status; the rule may say another message and code."""
    return lambda question: error(status, question.rule.message or message, question.rule.code or code)


def _error_with_200(question: Question) -> Plan:
    rule = question.rule
    told = {"message": rule.message or "The server had an error.", "type": "server_error", "code": rule.code}
    return Plan(body=_dumps({"error": told}))


def _wrong_key(question: Question) -> Plan:
    """It repeats the key: whoever shows these words shows it too."""
    message = question.rule.message or f"Incorrect API key provided: {question.key}."
    return error(401, message, question.rule.code or "invalid_api_key")


def _unknown_model(question: Question) -> Plan:
    message = f"The model `{question.body['model']}` does not exist or you do not have access to it."
    return error(404, message, "model_not_found")


def _refuses(question: Question) -> Plan:
    """No such parameter here, in the words that OpenAI has for each."""
    parameter = question.rule.parameter
    message, code = REFUSALS[str(parameter)]
    return error(400, message, code, param=parameter)


REFUSALS: Mapping[str, tuple[str, str | None]] = {
    "temperature": (
        "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) is supported.",
        "unsupported_value",
    ),
    "max_tokens": (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "unsupported_parameter",
    ),
    "response_format": (
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
        None,
    ),
}

BEHAVIOURS: Mapping[str, Callable[[Question], Plan]] = {
    "answer": _answer,
    "several choices": _several_choices,
    "no choices": lambda question: _completion(question, None, choices=[]),
    "empty content": lambda question: _completion(question, ""),
    "null content": lambda question: _completion(question, None),
    "no usage": lambda question: _completion(question, question.text, usage=None),
    "length": _length,
    "filtered": _filtered,
    "refusal": _refusal,
    "truncated": _truncated,
    "html": _html(200),
    "html 502": _html(502),
    "reset": _reset,
    "cut": _cut,
    "drip": _drip,
    "hang": lambda question: Plan(way=Way.HANG),
    "die": lambda question: Plan(way=Way.DIE),
    "429": _status(429, "Rate limit reached for requests.", "rate_limit_exceeded"),
    "quota": _status(429, "You exceeded your current quota, please check your plan.", "insufficient_quota"),
    "500": _status(500, "The server had an error while processing your request."),
    "502": _status(502, "Bad gateway."),
    "503": _status(503, "The engine is currently overloaded, please try again later."),
    "529": _status(529, "Overloaded.", "overloaded_error"),
    "error with 200": _error_with_200,
    "wrong key": _wrong_key,
    "unknown model": _unknown_model,
    "context length": _status(
        400,
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 130042 tokens.",
        "context_length_exceeded",
    ),
    "content policy": _status(
        400, "Your request was rejected as a result of our safety system.", "content_policy_violation"
    ),
    "bad request": _status(400, "The request could not be read."),
    "refuses": _refuses,
}
"""Everything a server can be told to do; ``answer`` is what it does unasked."""

ANSWERS = frozenset({"answer", "several choices", "no usage", "drip"})
"""The behaviours after which a patient client holds a good reply."""
