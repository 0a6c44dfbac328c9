"""The forty adopted, as a person would who reads ``--prompt-list -v``: the line that it shows, written down.

Thirty need nothing but their line. The ten others have no name, or one that holds something else than the text: their
text moves to a constant, and where it was used the constant is.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import indent

from tests.forty.forty import Existing

IMPORT = "from pytest_promptopt import text_prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByHand:
    """What the suggested line leaves to its reader: the ``text`` in Python, and the ``changes``, old to new."""

    text: str
    changes: Mapping[str, str]


BY_HAND = {
    "bureau.people:screen": ByHand(
        text=(
            '"Decide whether this application fits the role of {role}. "\n'
            '    "Answer with yes, no or unsure, and one sentence that gives the reason.\\n\\n{resume}"'
        ),
        changes={
            '        f"Decide whether this application fits the role of {role}. "\n': "",
            '        f"Answer with yes, no or unsure, and one sentence that gives the reason.\\n\\n{resume}"\n': (
                "        SCREEN.format(role=role, resume=resume)\n"
            ),
        },
    ),
    "bureau.kitchen:recipe": ByHand(
        text=(
            '"""Suggest one dish from these leftovers: {leftovers}.\n'
            'It must be ready in {minutes} minutes. List the steps, each in one line."""'
        ),
        changes={
            '    prompt = f"""Suggest one dish from these leftovers: {leftovers}.\n'
            'It must be ready in {minutes} minutes. List the steps, each in one line."""\n'
            "    return ask(prompt)\n": "    return ask(RECIPE.format(leftovers=leftovers, minutes=minutes))\n",
        },
    ),
    "bureau.coding:explain": ByHand(
        text='"Explain the error {error} to a beginner.\\nThe code:\\n{code}\\nEnd with the line to change."',
        changes={
            "    text = f"
            '"Explain the error {error} to a beginner.\\nThe code:\\n{code}\\nEnd with the line to change."\n'
            "    return ask(text)\n": "    return ask(EXPLAIN.format(error=error, code=code))\n",
        },
    ),
    "bureau.games:riddle": ByHand(
        text='"Write a riddle in four lines whose answer is {answer}. Do not use the word {answer} itself."',
        changes={
            'f"Write a riddle in four lines whose answer is {answer}. Do not use the word {answer} itself."': (
                "RIDDLE.format(answer=answer)"
            ),
        },
    ),
    "bureau.freight:customs": ByHand(
        text='"You classify goods for customs. Reply with the six digits of the HS code only."',
        changes={
            '"You classify goods for customs. Reply with the six digits of the HS code only."': "str(CUSTOMS)",
        },
    ),
    "bureau.research:answer": ByHand(
        text='"You answer questions about one paper. Quote it, or say that it does not tell."',
        changes={'"You answer questions about one paper. Quote it, or say that it does not tell."': "SYSTEM"},
    ),
    "bureau.legal.clauses:simplify": ByHand(
        text='"Rewrite this clause in plain English, keeping every duty.\\n\\n{clause}"',
        changes={
            'SIMPLIFY = ChatPromptTemplate.from_template("Rewrite this clause in plain English, keeping every duty.'
            '\\n\\n{clause}")\n': "",
            "SIMPLIFY.format_messages": "ChatPromptTemplate.from_template(str(SIMPLIFY)).format_messages",
        },
    ),
    "bureau.news.digest:headline": ByHand(
        text='"Write a headline of at most eight words for this article.\\n\\n{article}"',
        changes={
            'HEADLINE = ChatPromptTemplate.from_template("Write a headline of at most eight words for this article.'
            '\\n\\n{article}")\n': "",
            "HEADLINE.format_messages": "ChatPromptTemplate.from_template(str(HEADLINE)).format_messages",
        },
    ),
    "bureau.legal.clauses:risks": ByHand(
        text=(
            "[\n"
            '    {"role": "system", "content": '
            '"You are a cautious contract lawyer. List risks only, one in each line."},\n'
            '    {"role": "user", "content": "Which risks does the {party} take with this clause?\\n\\n{clause}"},\n'
            "]"
        ),
        changes={
            "RISKS = ChatPromptTemplate.from_messages(\n"
            "    [\n"
            '        ("system", "You are a cautious contract lawyer. List risks only, one in each line."),\n'
            '        ("user", "Which risks does the {party} take with this clause?\\n\\n{clause}"),\n'
            "    ]\n"
            ")\n": "",
            "RISKS.format_messages": "RISKS.format",
        },
    ),
    "bureau.homes:viewing": ByHand(
        text='"You write short letters to landlords, friendly and without flattery."',
        changes={
            "VIEWING = ChatPromptTemplate.from_messages(\n"
            "    [\n"
            '        ("system", "You write short letters to landlords, friendly and without flattery."),\n'
            '        ("user", "Ask for a viewing of {address} on {day}."),\n'
            "    ]\n"
            ")\n": "",
            "    return chat(VIEWING.format_messages(": (
                '    letter = [("system", str(VIEWING)), ("user", "Ask for a viewing of {address} on {day}.")]\n'
                "    return chat(ChatPromptTemplate.from_messages(letter).format_messages("
            ),
        },
    ),
}
"""By sender."""


def module_of(existing: Existing) -> str:
    """The file of the module that sends it, and adopts it."""
    return existing.sender.partition(":")[0].replace(".", "/") + ".py"


def adopted(source: str, existing: Existing, suggestion: str) -> str:
    """The text of the module ``source`` after one prompt was adopted, by the line that the list suggests."""
    by_hand = BY_HAND.get(existing.sender)
    if by_hand is not None:
        source = _rewritten(source, by_hand, suggestion)
    elif existing.kind == "file":
        source = _replaced(source, suggestion)
    else:
        source = _followed(source, existing.name.partition("[")[0], suggestion)
    return source if IMPORT in source else _after_imports(source, IMPORT)


def _rewritten(source: str, by_hand: ByHand, suggestion: str) -> str:
    for old, new in by_hand.changes.items():
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    head = suggestion.partition(", ")[0]
    return _after_imports(source, f"\n{head}, {by_hand.text})")


def _replaced(source: str, suggestion: str) -> str:
    """The line in the place of the one that read the file."""
    statement = _assignment(source, suggestion.partition(" = ")[0])
    lines = source.splitlines()
    lines[statement.lineno - 1 : statement.end_lineno] = [suggestion]
    return _joined(lines)


def _followed(source: str, name: str, suggestion: str) -> str:
    """The line after the one that holds the text."""
    statement = _assignment(source, name)
    return _with_line(source, statement.end_lineno, indent(suggestion, " " * statement.col_offset))


def _assignment(source: str, name: str) -> ast.Assign:
    """The statement that gives ``name`` its value, in the module or in a class."""
    return next(
        each
        for each in ast.walk(ast.parse(source))
        if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name) and each.targets[0].id == name
    )


def _after_imports(source: str, line: str) -> str:
    imports = [each for each in ast.parse(source).body if isinstance(each, ast.Import | ast.ImportFrom)]
    return _with_line(source, imports[-1].end_lineno, line)


def _with_line(source: str, after: int | None, line: str) -> str:
    lines = source.splitlines()
    assert after is not None
    lines.insert(after, line)
    return _joined(lines)


def _joined(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
