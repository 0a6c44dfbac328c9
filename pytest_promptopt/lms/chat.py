"""OpenAI's chat protocol as both edges speak it: what a request asks for, what a reply says, what a server refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from pytest_promptopt.errors import LMError, LMErrorKind
from pytest_promptopt.lms.base import Request, Usage
from pytest_promptopt.lms.faults import Origin, Said, error_from_words, malformed, words_in, words_of

CostOf = Callable[[Usage], float | None]
"""What a completion of that usage costs, in US dollars; ``None`` when nobody knows."""


def parameters_of(request: Request, *, takes_schema: bool) -> dict[str, Any]:
    """Everything of a request but its model: messages, temperature, and what else it asks for."""
    parameters: dict[str, Any] = {"messages": request.messages, "temperature": request.temperature}
    if request.max_tokens is not None:
        parameters["max_tokens"] = request.max_tokens
    if request.schema is not None and takes_schema:
        parameters["response_format"] = response_format(request.schema)
    return parameters


@lru_cache(maxsize=64)
def response_format(schema: str) -> Mapping[str, Any]:
    """How structured output is asked for; ``strict`` only where it is true, because servers refuse it otherwise."""
    content = json.loads(schema)
    named: dict[str, Any] = {"name": "reply", "schema": content}
    if is_strict(content):
        named["strict"] = True
    return {"type": "json_schema", "json_schema": named}


def is_strict(schema: object) -> bool:
    """Whether ``schema`` keeps the rules of OpenAI's strict mode.

    Every object names all of its properties as required and allows no others, every value has a type, and nothing is
    said in words that strict mode does not know.
    """
    if not isinstance(schema, Mapping) or not _LOOSE_WORDS.isdisjoint(schema) or not _is_typed(schema):
        return False
    return _is_closed(schema) and all(is_strict(part) for part in _parts(schema))


_LOOSE_WORDS = frozenset({
    "allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties",
    "prefixItems", "uniqueItems", "propertyNames", "contains", "unevaluatedProperties", "default",
})  # fmt: skip
"""Words that a strict schema may not hold."""


def _is_typed(schema: Mapping[str, Any]) -> bool:
    return not {"type", "$ref", "anyOf", "enum", "const"}.isdisjoint(schema)


def _is_closed(schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type")
    is_object = "object" in kinds if isinstance(kinds, list) else kinds == "object"
    if not is_object and "properties" not in schema:
        return True
    names = set(schema.get("properties", {}))
    return schema.get("additionalProperties") is False and names == set(schema.get("required", ()))


def _parts(schema: Mapping[str, Any]) -> Iterator[object]:
    for word in ("properties", "$defs", "definitions"):
        yield from schema.get(word, {}).values()
    yield from schema.get("anyOf", ())
    if "items" in schema:
        yield schema["items"]


class Amendments:
    """What a model's server refused to be sent: left out, or called by its other name, in every later request.

    ``max_tokens`` is never left out, because what a reply may cost hangs on it; it is renamed once.
    """

    def __init__(self, *, is_reasoning: bool = False) -> None:
        self._refused: set[str] = {"temperature", "max_tokens"} if is_reasoning else set()

    def apply(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """``parameters`` as the server takes them; changes the very dictionary."""
        if self._refused:
            if "temperature" in self._refused:
                parameters.pop("temperature", None)
            if "max_tokens" in self._refused and "max_tokens" in parameters:
                parameters["max_completion_tokens"] = parameters.pop("max_tokens")
            if not self._refused.isdisjoint(("response_format", _schema_in(parameters))):
                parameters.pop("response_format", None)
        return parameters

    def note(self, error: LMError, said: Said, sent: Mapping[str, Any]) -> LMError:
        """``error``, marked as amended where the server refused a parameter that was sent and can be done without.

        A parameter that is not among those ``sent`` amends nothing, so that no request is amended for ever.
        """
        if error.status in (400, 422) and error.kind is LMErrorKind.BAD_REQUEST:
            refused = _refused_parameter(said, sent)
            if refused is not None:
                self._refused.add(refused)
                error.is_amended, error.is_lasting = True, False
        return error


_REFUSES = re.compile(
    r"(?:not|n't|un)[ _]?(?:be )?(?:support|permit|allow|recogni[sz]|available|implement)|unsupported|unavailable"
    r"|unknown (?:parameter|field|name|argument)|unexpected keyword|extra_forbidden|extra inputs|deprecated"
    r"|only the default",
    re.IGNORECASE,
)
_BAD_SCHEMA = re.compile(r"invalid schema", re.IGNORECASE)
_NAMES: Mapping[str, re.Pattern[str]] = {
    "temperature": re.compile(r"\btemperature\b", re.IGNORECASE),
    "max_tokens": re.compile(r"\bmax_tokens\b", re.IGNORECASE),
    "response_format": re.compile(r"response[_ ]format|json_schema|structured output|guided", re.IGNORECASE),
}


def _refused_parameter(said: Said, sent: Mapping[str, Any]) -> str | None:
    """Which of the parameters that were sent the server would not take; a schema that is faulty stands for itself."""
    words = f"{said.code} {said.parameter} {said.text}"
    if "response_format" in sent and _BAD_SCHEMA.search(words):
        return _schema_in(sent)
    if not _REFUSES.search(words):
        return None
    names = [name for name in _NAMES if name in sent]
    named = [name for name in names if said.parameter.startswith(name)]
    return next(iter(named or [name for name in names if _NAMES[name].search(words)]), None)


def _schema_in(parameters: Mapping[str, Any]) -> str:
    asked = parameters.get("response_format")
    return json.dumps(asked, sort_keys=True) if asked else ""


def read_completion(content: object, origin: Origin, cost_of: CostOf) -> tuple[str, Usage | None, float | None]:
    """The text of a completion, what it took, and what it costs. Raises ``LMError`` for one without text, saying why.

    An empty text that the model ended by itself is its answer. Of several choices the first counts. An answer that is
    withheld or cannot be used is paid for like any other, which its error says.
    """
    usage = read_usage(content.get("usage")) if isinstance(content, Mapping) else None
    cost_usd = None if usage is None else cost_of(usage)
    try:
        return _read_text(content, origin), usage, cost_usd
    except LMError as error:
        error.cost_usd = cost_usd
        error.is_billed = usage is not None or error.status is None
        raise


def _read_text(content: object, origin: Origin) -> str:
    choice, message = _first_choice(content, origin)
    text = _text(message.get("content"))
    reason = choice.get("finish_reason")
    if reason == "content_filter":
        raise LMError(f"{origin.name}: the answer was withheld by a content filter.", kind=LMErrorKind.CONTENT_POLICY)
    if not text and (refused := _refusal(message)):
        words = words_of(refused, origin)
        raise LMError(f"{origin.name}: the model refused to answer: {words}", kind=LMErrorKind.CONTENT_POLICY)
    usage = content.get("usage") if isinstance(content, Mapping) else None
    if not text and reason == "length":
        raise malformed(origin, _cut_short(usage))
    if text is None:
        raise malformed(origin, "the reply has no text", json.dumps(content))
    return text


def read_usage(usage: object) -> Usage | None:
    """The tokens that were counted; ``None`` where nobody did: litellm says 0 then, which no request takes."""
    if not isinstance(usage, Mapping):
        return None
    prompt_tokens, completion_tokens = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if not prompt_tokens or completion_tokens is None:
        return None
    cached_tokens = _count(usage.get("prompt_tokens_details"), "cached_tokens") or 0
    return Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cached_tokens=cached_tokens)


def _first_choice(content: object, origin: Origin) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The first choice and its message."""
    if not isinstance(content, Mapping):
        raise malformed(origin, "the reply is no JSON object", json.dumps(content))
    choices = content.get("choices")
    if not choices:
        said = words_in(content)
        if said is not None:
            raise error_from_words(origin, said, status=said.status)
        raise malformed(origin, "the reply has no choices", json.dumps(content))
    choice = choices[0] if isinstance(choices, list) else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping):
        raise malformed(origin, "the first choice has no message", json.dumps(content))
    return choice, message


def _text(content: object) -> str | None:
    """The text of a message, which some servers send in parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if texts else None


def _refusal(message: Mapping[str, Any]) -> str:
    """What a model says instead of an answer; litellm puts it in with what is the provider's own."""
    own = message.get("provider_specific_fields")
    refusal = message.get("refusal") or (own.get("refusal") if isinstance(own, Mapping) else None)
    return refusal if isinstance(refusal, str) else ""


def _cut_short(usage: object) -> str:
    details = usage.get("completion_tokens_details") if isinstance(usage, Mapping) else None
    why = "reasoning used all of it" if _count(details, "reasoning_tokens") else "the reply ended before any text"
    return f"max_tokens is too small: {why}"


def _count(counted: object, name: str) -> int | None:
    number = counted.get(name) if isinstance(counted, Mapping) else None
    return number if isinstance(number, int) and number >= 0 else None
