"""``text_prompt``: a text that people have already becomes a prompt, and nothing that is sent changes by one byte.

It behaves as the text it adopts through its methods, and is no ``str`` by inheritance: C code such as ``json.dumps``
and ``"".join`` reads the buffer of a ``str`` subclass past all methods, and would send the source whatever candidate
is under evaluation. Those refuse a :class:`TextPrompt` aloud. Nor can a text be iterated: clients take whatever can for
a list, and would send its letters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, cast, overload

from pytest_promptopt.errors import SignatureError, UsageError
from pytest_promptopt.lms.base import Message, Reply, Request
from pytest_promptopt.prompts import registry
from pytest_promptopt.prompts.active import current_evaluation
from pytest_promptopt.prompts.base import AnyPrompt, Prediction, predicted
from pytest_promptopt.prompts.compiled import CompiledPrompt, Json, content_digest
from pytest_promptopt.prompts.gaps import find_gap, find_unread_field
from pytest_promptopt.prompts.rendering import to_json
from pytest_promptopt.prompts.runtime import PromptHome, Runtime, current_runtime
from pytest_promptopt.prompts.signature import Signature, text_signature
from pytest_promptopt.prompts.template import (
    JINJA_SUFFIXES,
    Language,
    Template,
    choose_language,
    choose_languages,
    compile_jinja,
)

if TYPE_CHECKING:
    from types import FrameType

    import jinja2

ChatMessages: TypeAlias = list[dict[str, Any]]
Piece: TypeAlias = tuple[Template, str]
"""A text to fill in, and what says how: the template in whose place it stands."""

V = TypeVar("V", str, ChatMessages)

INSTRUCTION_ROLES = ("system", "developer")
_READING_LIST_METHODS = frozenset({"copy", "count", "index"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """Chat messages, of which the content at ``place`` is the instruction; the others stay as they are.

    ``templates`` has one for each message that has a text, by its place, in the language of that message.
    """

    messages: tuple[Mapping[str, Any], ...]
    place: int
    templates: Mapping[int, Template]

    @property
    def fixed(self) -> Json:
        """All that no search may change."""
        return [
            to_json({name: value for name, value in message.items() if name != "content" or place != self.place})
            for place, message in enumerate(self.messages)
        ]

    def pieces(self, instruction: str) -> list[Piece]:
        """The texts of the messages, with ``instruction`` in its place."""
        return [
            (template, instruction if place == self.place else template.text)
            for place, template in self.templates.items()
        ]

    def with_texts(self, texts: Sequence[str]) -> ChatMessages:
        """The messages with ``texts``, one for each of :meth:`pieces`, as their contents."""
        messages = [_copied(message) for message in self.messages]
        for place, text in zip(self.templates, texts, strict=True):
            messages[place]["content"] = text
        return messages


def _copied(message: Mapping[str, Any]) -> dict[str, Any]:
    """``message`` for somebody who may change it."""
    return {name: value if isinstance(value, str) else deepcopy(value) for name, value in message.items()}


class TextPrompt(AnyPrompt, Generic[V]):
    """An adopted text: it behaves as the string, or the list of chat messages, ``V``, that it was.

    ``format``, ``render``, ``str()``, ``%``, ``+`` and every other method of the string give what is in force: the
    candidate under evaluation, else the frozen text, else the source. Calling it fills the text in, sends it through
    this package's client and gives the reply's text; ``predict`` gives a :class:`Prediction`, ``acall``, ``apredict``
    and ``arender`` are awaited, ``messages`` gives what would be sent. Only chat messages can be iterated.
    """

    def __init__(
        self,
        *,
        home: PromptHome,
        signature: Signature,
        chat: Chat | None,
        model: str | None,
        optimize: bool,
        loading: registry.Loading | None = None,
    ) -> None:
        assert signature.template is not None
        self.loading = loading
        self.template: Template = signature.template
        self._chat = chat
        super().__init__(home=home, signature=signature, model=model, is_optimized=optimize)

    def format(self, /, *args: Any, **kwargs: Any) -> V:
        """What ``str.format`` makes of the text, or of every content of the messages."""
        return self._fill(Language.FORMAT, lambda text: text.format(*args, **kwargs), args, kwargs)

    def format_map(self, mapping: Mapping[str, Any], /) -> V:
        """What ``str.format_map`` makes of the text, or of every content of the messages."""
        inputs = mapping if isinstance(mapping, Mapping) else {}  # whatever has items will do to fill a text in
        return self._fill(Language.FORMAT, lambda text: text.format_map(mapping), (), inputs)

    def render(self, /, *args: Any, **kwargs: Any) -> V:
        """What Jinja renders the text, or every content of the messages, to."""
        environment = self.template.environment

        def render(text: str) -> str:
            return compile_jinja(text, environment).render(*args, **kwargs)

        return self._fill(Language.JINJA2, render, (), _named(args, kwargs))

    async def arender(self, /, *args: Any, **kwargs: Any) -> V:
        """Like :meth:`render`, awaited: what an environment with ``enable_async`` renders inside an event loop."""
        environment = self.template.environment
        if environment is None or not environment.is_async:
            return self.render(*args, **kwargs)
        compiled, model = self._read()
        self._require_language(Language.JINJA2, "render", compiled)
        texts = [
            await compile_jinja(text, environment).render_async(*args, **kwargs) for _, text in self._pieces(compiled)
        ]
        self._note_use(compiled, model, (), _named(args, kwargs))
        return self._whole(texts)

    def messages(self, /, *args: Any, **kwargs: Any) -> ChatMessages:
        """The chat messages of such a call, with the text in force filled in in its own language. Calls nothing."""
        compiled, model = self._read()
        filled = self._as_messages(compiled, args, kwargs)
        self._note_use(compiled, model, args, kwargs)
        return filled

    def __call__(self, /, *args: Any, **kwargs: Any) -> str:
        """The text of the reply. Raises ``LMError`` when there is none."""
        return self._answer(args, kwargs)[1].text

    def predict(self, /, *args: Any, **kwargs: Any) -> Prediction[str]:
        """Like calling it, but a :class:`Prediction`."""
        request, reply = self._answer(args, kwargs)
        return predicted(reply.text, request, reply)

    async def acall(self, /, *args: Any, **kwargs: Any) -> str:
        """Like calling it, awaited."""
        return (await self._aanswer(args, kwargs))[1].text

    async def apredict(self, /, *args: Any, **kwargs: Any) -> Prediction[str]:
        """Like :meth:`predict`, awaited."""
        request, reply = await self._aanswer(args, kwargs)
        return predicted(reply.text, request, reply)

    def __str__(self) -> str:
        return str(self._use())

    def __format__(self, spec: str) -> str:
        return format(self._use(), spec)

    def __add__(self, other: Any) -> V:
        return cast("V", self._use() + other)

    def __radd__(self, other: Any) -> V:
        return cast("V", other + self._use())

    def __mod__(self, values: Any) -> str:
        compiled, model = self._read()
        self._require_language(Language.PLAIN, "%", compiled)
        filled: str = self._value(compiled) % values
        self._note_use(compiled, model, (), values if isinstance(values, Mapping) else {})
        return filled

    def __len__(self) -> int:
        return len(self._look())

    def __contains__(self, part: Any) -> bool:
        return part in self._look()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TextPrompt):
            return self is other or bool(self._look() == other._look())
        return bool(self._look() == other)

    def __hash__(self) -> int:
        value = self._look()
        return hash(value if isinstance(value, str) else content_digest(to_json(value)))

    def __getitem__(self, place: Any) -> Any:
        if self._chat is None:
            return self._use()[place]
        places = range(len(self._chat.messages))[place]
        reads_instruction = self._chat.place in (places if isinstance(places, range) else (places,))
        return (self._use() if reads_instruction else self._look())[place]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Any other method of the string, or one of the list that changes nothing, on what is in force."""
        is_list = self.__dict__.get("_chat") is not None
        is_known = name in _READING_LIST_METHODS if is_list else hasattr(str, name) and not name.startswith("_")
        if not is_known:
            raise AttributeError(
                f"a text prompt has no attribute {name!r}{'; list(prompt) is yours to change' * is_list}"
            )

        def method(*args: Any, **kwargs: Any) -> Any:
            compiled, model = self._read()
            result = getattr(self._value(compiled), name)(*args, **kwargs)
            if not isinstance(result, int):  # startswith, count and their like look, and send nothing
                self._note_use(compiled, model, (), {})
            return result

        return method

    def __copy__(self) -> TextPrompt[V]:
        return self  # as strings do

    def __deepcopy__(self, memo: object) -> TextPrompt[V]:
        return self

    @property
    def _awaitable_words(self) -> str:
        return f"in an `async def`, await {self.name.rpartition('.')[2]}.acall(…)"

    def _read(self) -> tuple[CompiledPrompt, str]:
        """What is in force here, and the model it is for, which may be an empty string."""
        self._require_attached()
        return self._compiled_for_others(current_runtime())

    def _look(self) -> V:
        """What is in force, for a look at it that sends nothing."""
        return self._value(self._read()[0])

    def _use(self) -> V:
        """What is in force, for somebody who will send it."""
        compiled, model = self._read()
        self._note_use(compiled, model, (), {})
        return self._value(compiled)

    def _pieces(self, compiled: CompiledPrompt) -> list[Piece]:
        """The texts in force with what says how to fill each in: one, or one for each message that has a text."""
        if self._chat is None:
            return [(self.template, compiled.instruction)]
        return self._chat.pieces(compiled.instruction)

    def _whole(self, texts: Sequence[str]) -> V:
        """What ``texts``, one for each of the pieces, make: the text, or the list of messages."""
        return cast("V", texts[0] if self._chat is None else self._chat.with_texts(texts))

    def _value(self, compiled: CompiledPrompt) -> V:
        return self._whole([text for _, text in self._pieces(compiled)])

    def _fill(
        self, language: Language, fill: Callable[[str], str], args: Sequence[Any], inputs: Mapping[str, Any]
    ) -> V:
        """Every text filled in; of messages those in ``language``, where one of them is."""
        compiled, model = self._read()
        self._require_language(language, "render" if language is Language.JINJA2 else "format", compiled)
        pieces = self._pieces(compiled)
        if not any(template.language is language for template, _ in pieces):
            texts = [fill(text) for _, text in pieces]
        else:
            self._refuse_unread(pieces, args, inputs)
            texts = [fill(text) if template.language is language else text for template, text in pieces]
        self._note_use(compiled, model, args, inputs)
        return self._whole(texts)

    def _refuse_unread(self, pieces: Sequence[Piece], args: Sequence[Any], inputs: Mapping[str, Any]) -> None:
        """Raise ``TypeError`` where a plain message beside others seems to have a field for one of the inputs."""
        plain = [text for template, text in pieces if template.language is Language.PLAIN]
        if gap := next(filter(None, (find_unread_field(text, args, inputs) for text in plain)), ""):
            raise TypeError(f"{self.name} {gap}")

    def _require_language(self, language: Language, way: str, compiled: CompiledPrompt) -> None:
        """Refuse to fill a text in in a language in which its placeholders were not verified.

        The source itself may be filled in anyhow, as before it was adopted; not in a search, which would end so.
        """
        if any(template.language is language for template, _ in self._pieces(compiled)):
            return
        evaluation = current_evaluation()
        is_searched = evaluation is not None and self.name in evaluation.candidate
        if is_searched or compiled.instruction != self.source.instruction:
            raise UsageError(
                f"{self.name} is filled in by {way}, but its placeholders are verified as those of a "
                f"{self.template.language} text; say so where it is adopted: "
                f'text_prompt("{self.name}", …, template="{language}")'
            )

    def _note_use(self, compiled: CompiledPrompt, model: str, args: Sequence[Any], inputs: Mapping[str, Any]) -> None:
        if (evaluation := current_evaluation()) is not None:
            self._note_use_by_others(compiled, model, evaluation, _as_inputs(args, inputs))

    def _fillable(self, compiled: CompiledPrompt, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Piece]:
        """The texts in force. Raises ``TypeError``, as any call does, for inputs that do not fit them."""
        pieces = self._pieces(compiled)
        if gap := find_gap(pieces, args, kwargs):
            raise TypeError(f"{self.name}() {gap}")
        return pieces

    def _as_messages(self, compiled: CompiledPrompt, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ChatMessages:
        pieces = self._fillable(compiled, args, kwargs)
        return self._sendable([template.fill(text, args, kwargs) for template, text in pieces])

    async def _aas_messages(
        self, compiled: CompiledPrompt, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> ChatMessages:
        pieces = self._fillable(compiled, args, kwargs)
        return self._sendable([await template.afill(text, args, kwargs) for template, text in pieces])

    def _sendable(self, texts: Sequence[str]) -> ChatMessages:
        return [{"role": "user", "content": texts[0]}] if self._chat is None else self._chat.with_texts(texts)

    def _messages_for(self, compiled: CompiledPrompt, inputs: Mapping[str, Json]) -> tuple[Message, ...]:
        args = [inputs[str(place)] for place in range(len(inputs)) if str(place) in inputs]
        named = {name: value for name, value in inputs.items() if not name.isdecimal()}
        return cast("tuple[Message, ...]", tuple(self._as_messages(compiled, args, named)))

    def _answer(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Request, Reply]:
        self._warn_once_of_blocking()
        runtime, model, compiled = self._prepare()
        evaluation = current_evaluation()
        request = self._asking(model, self._as_messages(compiled, args, kwargs), args, kwargs)
        reply = runtime.client.complete(request, None if evaluation is None else evaluation.scope)
        return request, self._conclude(request, reply, compiled, args, kwargs)

    async def _aanswer(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Request, Reply]:
        runtime, model, compiled = self._prepare()
        evaluation = current_evaluation()
        request = self._asking(model, await self._aas_messages(compiled, args, kwargs), args, kwargs)
        reply = await runtime.client.acomplete(request, None if evaluation is None else evaluation.scope)
        return request, self._conclude(request, reply, compiled, args, kwargs)

    def _prepare(self) -> tuple[Runtime, str, CompiledPrompt]:
        self._require_attached()
        runtime = current_runtime()
        model = runtime.choose_model(self.model)
        return runtime, model, self._compiled(runtime, model)

    def _asking(self, model: str, messages: ChatMessages, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Request:
        inputs = {str(place): value for place, value in enumerate(args)} | dict(kwargs) if args else kwargs
        return self._request(model, cast("tuple[Message, ...]", tuple(messages)), current_evaluation(), inputs)

    def _conclude(
        self,
        request: Request,
        reply: Reply,
        compiled: CompiledPrompt,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Reply:
        """Leave a trace of the call with the row that is being evaluated."""
        evaluation = current_evaluation()
        if evaluation is not None:
            call = self._traced(compiled, request.model, _as_inputs(args, kwargs), reply=reply)
            evaluation.calls.append(call)
        return reply


class AdoptedText(TextPrompt[str]):
    """One text. Clients that take whatever can be iterated for a list refuse it aloud, and send ``str(prompt)``."""

    __iter__ = None


AdoptedText.__name__ = "TextPrompt (hand over str(prompt) instead)"
"""Python, json and httpx refuse what is no string by naming its class and nothing else: so the way out stands there."""


class ChatPrompt(TextPrompt[ChatMessages]):
    """A list of chat messages."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._use())


def _named(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a Jinja template is given, by name: mappings and keywords, as ``dict`` takes them."""
    named = {name: value for each in args if isinstance(each, Mapping) for name, value in each.items()}
    return {**named, **kwargs}


def _as_inputs(args: Sequence[Any], inputs: Mapping[str, Any]) -> dict[str, Json]:
    """Inputs by name as JSON values; by place where they have no name, as text where JSON cannot hold them."""
    named = {**{str(place): value for place, value in enumerate(args)}, **inputs}
    return {str(name): _as_json(value) for name, value in named.items()}


def _as_json(value: object) -> Json:
    with suppress(Exception):  # whatever an object's fields raise: a trace must not break a call that works
        return to_json(value)
    return str(value)


TemplateName: TypeAlias = Literal["format", "jinja2", "plain"]


@overload
def text_prompt(
    name: str,
    text: str,
    *,
    template: TemplateName | None = None,
    environment: jinja2.Environment | None = None,
    model: str | None = None,
    temperature: float = 0.0,
    max_tokens: int | None = None,
    optimize: bool = True,
) -> TextPrompt[str]: ...


@overload
def text_prompt(
    name: str,
    *,
    file: str | Path,
    template: TemplateName | None = None,
    environment: jinja2.Environment | None = None,
    model: str | None = None,
    temperature: float = 0.0,
    max_tokens: int | None = None,
    optimize: bool = True,
) -> TextPrompt[str]: ...


@overload
def text_prompt(
    name: str,
    text: Sequence[Mapping[str, Any]],
    *,
    template: TemplateName | None = None,
    environment: jinja2.Environment | None = None,
    model: str | None = None,
    temperature: float = 0.0,
    max_tokens: int | None = None,
    optimize: bool = True,
) -> ChatPrompt: ...


def text_prompt(
    name: str,
    text: str | Sequence[Mapping[str, Any]] | None = None,
    *,
    file: str | Path | None = None,
    template: TemplateName | None = None,
    environment: jinja2.Environment | None = None,
    model: str | None = None,
    temperature: float = 0.0,
    max_tokens: int | None = None,
    optimize: bool = True,
) -> TextPrompt[Any]:
    r"""Adopt a text as a prompt, without changing what is sent until something better is frozen.

    ::

        REPLY = text_prompt("support.reply", "Answer this customer politely.\n\n{ticket}")
        ASK = text_prompt("support.ask", file="ask.j2")

    ``text`` is a string or a list of chat messages, of which the first system or developer message, else the first, is
    searched. ``file`` is relative to the module that calls this. ``template`` says what placeholders are written in,
    where :func:`~pytest_promptopt.prompts.template.choose_language` would guess wrong; ``environment`` renders Jinja.
    ``temperature`` and ``max_tokens`` are what this package's client asks with; where your own client sends the text,
    a temperature above 0 says that it answers differently each time. Raises ``SignatureError`` for what cannot be
    adopted.
    """
    caller = sys._getframe(1)
    home = _home_of(caller, name)
    chat, own = None, ""
    language = _language(name, template, environment, Path(file or "").suffix)
    if text is None or isinstance(text, str):
        own = _text_of(home, text, file)
    else:
        chat = _chat_of(name, text, language, environment)
    signature = text_signature(
        name=name,
        template=(
            Template(language=language or choose_language(own), text=own, environment=environment)
            if chat is None
            else chat.templates[chat.place]
        ),
        fixed=None if chat is None else chat.fixed,
        temperature=temperature,
        max_tokens=max_tokens,
    )
    adopted: type[TextPrompt[Any]] = AdoptedText if chat is None else ChatPrompt
    loading = registry.loading_of(caller.f_globals)
    return adopted(home=home, signature=signature, chat=chat, model=model, optimize=optimize, loading=loading)


def _home_of(caller: FrameType, name: str) -> PromptHome:
    if not isinstance(name, str) or not name.strip():
        raise SignatureError(f'an adopted text needs a name, not {name!r}: text_prompt("support.reply", …)')
    module = caller.f_globals.get("__name__", "__main__")
    file = caller.f_globals.get("__file__") or caller.f_code.co_filename
    return PromptHome(name=name, module=module, file=Path(file).absolute(), line=caller.f_lineno)


def _text_of(home: PromptHome, text: object, file: str | Path | None) -> str:
    if (text is None) == (file is None):
        raise SignatureError(f"{home.name}: give either its text or file=, the file that holds it")
    if file is not None:
        return _read_text(home, home.file.parent / file)
    return cast("str", text)


def _read_text(home: PromptHome, path: Path) -> str:
    """The text of ``path`` as Python reads text, whatever the ends of its lines."""
    with suppress(OSError):
        text = home.read_text(path)
        if text is not None:
            return text.replace("\r\n", "\n").replace("\r", "\n")
    raise SignatureError(f"{home.name}: {path} cannot be read; file= is relative to {home.file.parent}")


def _chat_of(
    name: str,
    messages: Sequence[Mapping[str, Any]],
    language: Language | None,
    environment: jinja2.Environment | None,
) -> Chat:
    given = messages if isinstance(messages, Sequence) else [messages]
    copied = tuple(_copied(message) if isinstance(message, Mapping) else {} for message in given)
    if not all(isinstance(message.get("role"), str) for message in copied):
        raise SignatureError(f'{name}: adopt a string, or chat messages like {{"role": "system", "content": "…"}}')
    with_text = [place for place, message in enumerate(copied) if isinstance(message.get("content"), str)]
    if not with_text:
        raise SignatureError(f"{name}: none of its messages has a text that could be searched")
    place = next((place for place in with_text if copied[place]["role"] in INSTRUCTION_ROLES), with_text[0])
    texts = [str(copied[place]["content"]) for place in with_text]
    languages = choose_languages(texts) if language is None else [language] * len(texts)
    templates = {
        place: Template(language=own, text=text, environment=environment)
        for place, own, text in zip(with_text, languages, texts, strict=True)
    }
    chat = Chat(messages=copied, place=place, templates=templates)
    try:
        content_digest(chat.fixed)
    except (TypeError, ValueError) as error:
        raise SignatureError(f"{name}: its messages hold what JSON cannot: {error}") from None
    return chat


def _language(name: str, template: str | None, environment: jinja2.Environment | None, suffix: str) -> Language | None:
    """The language that somebody says a text is written in; ``None`` where the text has to tell."""
    if template is not None:
        try:
            return Language(template)
        except ValueError:
            known = ", ".join(f'"{each}"' for each in Language)
            raise SignatureError(f"{name}: template={template!r} is none of {known}") from None
    return Language.JINJA2 if environment is not None or suffix in JINJA_SUFFIXES else None
