"""What a Jinja template consists of, told from its tokens: each expression with the statements that are open around it.

Where an expression stands decides whether, and how often, it is rendered: a ticket that moves into a condition is lost
for all whom the condition does not hold for. So a candidate is compared with its source place by place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2

_BRANCHES = frozenset({"elif", "else", "pluralize"})
_DEFINING_BLOCKS = frozenset({"set", "macro"})
_ASSIGNMENT = "set ="
_TURNING_POINTS = frozenset({_ASSIGNMENT, "import", "from", "do", "break", "continue"})
"""Statements without a block after which an expression may mean something else, or is not reached."""


class BrokenError(ValueError):
    """A text that its language cannot parse."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A statement that something stands inside of (``is_open``) or behind, equal by its number in the template."""

    number: int
    is_open: bool
    written: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Construct:
    """One placeholder or statement. Equal by ``words``; where ``is_ordered``, its place among its like counts.

    ``around`` is what it stands in and behind, the outermost first; empty outside Jinja. One that ``is_optional`` may
    vanish: a ``%`` that the source itself does not double.
    """

    words: tuple[str, ...]
    written: str
    is_ordered: bool = False
    is_optional: bool = False
    around: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """All constructs of a text, and the statements that have text of their own inside."""

    constructs: tuple[Construct, ...]
    with_text: frozenset[Mark] = frozenset()


def read_jinja(text: str, environment: jinja2.Environment | None) -> Reading:
    """What ``text`` consists of. Raises ``BrokenError`` where Jinja's lexer cannot read it."""
    parts = list(_parts(text, environment))
    places = _Places([part for part in parts if isinstance(part, Construct) and part.is_ordered])
    constructs: list[Construct] = []
    with_text: set[Mark] = set()
    for part in parts:
        if isinstance(part, str):
            with_text.update([place for place in places.around if place.is_open][-1:] if part.strip() else ())
        elif part.is_ordered:
            places.pass_statement()
            constructs.append(part)
        else:
            constructs.append(Construct(words=part.words, written=part.written, around=tuple(places.around)))
    return Reading(constructs=tuple(constructs), with_text=frozenset(with_text))


class _Places:
    """What is open at one point of a template, moved on statement by statement."""

    def __init__(self, statements: Sequence[Construct]) -> None:
        self.around: list[Mark] = []
        self._statements = statements
        self._names = [_name(statement) for statement in statements]
        self._openers = {closer: opener for opener, closer in _blocks(self._names)}
        self._opening = frozenset(self._openers.values())
        self._depths: list[int] = []
        self._next = 0

    def pass_statement(self) -> None:
        """Move behind the next statement."""
        number, self._next = self._next, self._next + 1
        name = self._names[number]
        if number in self._openers:
            self._close(number, self._openers[number])
        elif number in self._opening:
            self._depths.append(len(self.around))
            self._mark(number, is_open=True)
        elif name in _BRANCHES and self._depths:
            self.around[self._depths[-1] :] = self._behind_in_block()
            self._mark(number, is_open=True)
        elif name in _TURNING_POINTS:
            self._mark(number, is_open=False)

    def _close(self, number: int, opener: int) -> None:
        has_turned = bool(self._behind_in_block()) or self._names[opener] in _DEFINING_BLOCKS
        del self.around[self._depths.pop() :]
        if has_turned:
            self.around.append(Mark(number=number, is_open=False, written=self._statements[opener].written))

    def _behind_in_block(self) -> list[Mark]:
        return [mark for mark in self.around[self._depths[-1] :] if not mark.is_open]

    def _mark(self, number: int, *, is_open: bool) -> None:
        self.around.append(Mark(number=number, is_open=is_open, written=self._statements[number].written))


def _name(statement: Construct) -> str:
    """The statement's first word; an assignment is told from the block that ``endset`` closes."""
    words = statement.words[1:] or statement.words
    operators = [word for word in words if word in ("=", "|")]
    return _ASSIGNMENT if words[0] == "set" and operators[:1] == ["="] else words[0]


def _blocks(names: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The numbers of the statements that open and close each block: ``endx`` closes the last open ``x``."""
    waiting: list[int] = []
    for number, name in enumerate(names):
        opening = name.removeprefix("end")
        if opening == name or not any(names[each] == opening for each in waiting):
            waiting.append(number)
            continue
        while names[opener := waiting.pop()] != opening:
            pass
        yield opener, number


def _parts(text: str, environment: jinja2.Environment | None) -> Iterator[Construct | str]:
    """Constructs and the text between them; the marks around a construct and their ``-`` are no words of it."""
    opened = ""
    tokens: list[tuple[str, str]] = []
    for kind, value in _tokens(text, environment):
        if kind in ("raw_begin", "raw_end"):
            yield Construct(words=("raw" if kind == "raw_begin" else "endraw",), written=value, is_ordered=True)
        elif kind in ("variable_begin", "block_begin", "linestatement_begin"):
            opened, tokens = kind, [(kind, value)]
        elif kind in ("variable_end", "block_end", "linestatement_end"):
            is_statement = opened != "variable_begin"
            words = (str(is_statement), *(each for kind, each in tokens[1:] if kind != "whitespace"))
            written = "".join(each for _, each in [*tokens, (kind, value)]).strip()
            opened = ""
            yield Construct(words=words, written=written, is_ordered=is_statement)
        elif opened:
            tokens.append((kind, value))
        elif kind == "data":
            yield value


def _tokens(text: str, environment: jinja2.Environment | None) -> list[tuple[str, str]]:
    import jinja2

    environment = environment or jinja2.Environment()
    try:
        return [(kind, value) for _, kind, value in environment.lex(environment.preprocess(text))]
    except jinja2.TemplateError as error:
        raise BrokenError(str(error)) from None


def parse_jinja(text: str, environment: jinja2.Environment | None) -> jinja2.nodes.Template:
    """The syntax tree of ``text``. Raises ``BrokenError`` where Jinja cannot parse it."""
    import jinja2

    environment = environment or jinja2.Environment()
    try:
        return environment.parse(text)
    except (jinja2.TemplateError, RecursionError) as error:
        raise BrokenError(str(error)) from None
