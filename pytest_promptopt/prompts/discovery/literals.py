"""What a syntax tree writes out: the text of an expression, its dotted name, a chat message's role and content."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

from pytest_promptopt.prompts.discovery.sdk_calls import sdk_of_url

ASKING_ROLES = ("system", "developer", "user")

_SHAPING = frozenset({"strip", "lstrip", "rstrip", "dedent", "cleandoc", "textwrap.dedent", "inspect.cleandoc"})
_MAX_PLACEHOLDER_CHARS = 40


@dataclass(slots=True)
class StaticText:
    """The text of an expression as far as the source tells it; gaps stand in braces."""

    text: str
    has_gaps: bool = False
    gaps: list[ast.expr] = field(default_factory=list)


def static_text(node: ast.expr) -> StaticText | None:
    """The text of ``node`` where its source tells one; ``None`` for any other expression."""
    match node:
        case ast.Constant(value=str() as text):
            return StaticText(text)
        case ast.JoinedStr(values=values):
            return _joined(values)
        case ast.BinOp(op=ast.Add()):
            return _added(node)
        case ast.BinOp(left=left, op=ast.Mod(), right=right) if (static := static_text(left)) is not None:
            return StaticText(static.text, static.has_gaps, [*static.gaps, right])
        case ast.Call(func=function, args=[argument], keywords=[]) if dotted_name(function) in _SHAPING:
            static = static_text(argument)
            return None if static is None else StaticText(textwrap.dedent(static.text), static.has_gaps, static.gaps)
        case ast.Call(func=ast.Attribute(value=receiver, attr=method), args=[], keywords=[]) if method in _SHAPING:
            return static_text(receiver)
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str() as glue), attr="join"), args=[argument]):
            return _lines(glue, argument)
    return None


def _joined(values: list[ast.expr]) -> StaticText:
    static = StaticText("")
    for value in values:
        if isinstance(value, ast.FormattedValue):
            _add_gap(static, value.value)
        else:
            static.text += str(getattr(value, "value", ""))
    return static


def _added(node: ast.BinOp) -> StaticText | None:
    """A sum with at least one text in it; sums lean to the left and may be long."""
    leaves: list[ast.expr] = []
    left: ast.expr = node
    while isinstance(left, ast.BinOp) and isinstance(left.op, ast.Add):
        leaves.append(left.right)
        left = left.left
    whole, has_text = StaticText(""), False
    for leaf in (left, *reversed(leaves)):
        part = None if isinstance(leaf, ast.BinOp) and isinstance(leaf.op, ast.Add) else static_text(leaf)
        if part is None:
            _add_gap(whole, leaf)
            continue
        has_text = True
        whole = StaticText(whole.text + part.text, whole.has_gaps or part.has_gaps, [*whole.gaps, *part.gaps])
    return whole if has_text else None


def _lines(glue: str, argument: ast.expr) -> StaticText | None:
    elements = argument.elts if isinstance(argument, ast.List | ast.Tuple) else []
    parts = [static_text(element) for element in elements]
    whole = StaticText("")
    for place, (element, part) in enumerate(zip(elements, parts, strict=True)):
        whole.text += glue if place else ""
        if part is None:
            _add_gap(whole, element)
        else:
            whole = StaticText(whole.text + part.text, whole.has_gaps or part.has_gaps, [*whole.gaps, *part.gaps])
    return whole if any(part is not None for part in parts) else None


def _add_gap(static: StaticText, expression: ast.expr) -> None:
    dotted = dotted_name(expression)
    is_plain = dotted and "?" not in dotted and len(dotted) <= _MAX_PLACEHOLDER_CHARS
    static.text += f"{{{dotted if is_plain else 'value'}}}"
    static.has_gaps = True
    static.gaps.append(expression)


def dotted_name(node: ast.expr) -> str:
    """``a.b.c`` as text; ``?`` stands for whatever is no name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    parts.append(node.id if isinstance(node, ast.Name) else "?")
    return ".".join(reversed(parts)) if parts != ["?"] else ""


def endpoint_sdk(node: ast.expr) -> str | None:
    """Whose endpoint the URL is that the expression writes out, if it is one."""
    static = static_text(node)
    return None if static is None else sdk_of_url(static.text)


def role_of(node: ast.Dict) -> str | None:
    """The role of a chat message; ``None`` for any other dict."""
    words = {
        key.value: value for key, value in zip(node.keys, node.values, strict=True) if isinstance(key, ast.Constant)
    }
    role = words.get("role")
    if "content" not in words or role is None:
        return None
    return str(role.value) if isinstance(role, ast.Constant) else "user"


def message_text(node: ast.expr) -> str | None:
    """The content of a chat message that is written out as a plain text."""
    if not isinstance(node, ast.Dict) or (role := role_of(node)) is None:
        return None
    if role not in ASKING_ROLES:
        return ""  # what the model is said to have answered
    for key, value in zip(node.keys, node.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == "content":
            static = static_text(value)
            return None if static is None or static.has_gaps else static.text
    return None


def template_pieces(node: ast.expr) -> Iterator[ast.expr]:
    """The texts inside a template class's arguments, without the roles beside them."""
    if isinstance(node, ast.Tuple) and len(node.elts) == 2:
        yield node.elts[1]
    elif isinstance(node, ast.List):
        for element in node.elts:
            yield from template_pieces(element)
    elif isinstance(node, ast.Call) and static_text(node) is None:
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            yield from template_pieces(argument)
    else:
        yield node
