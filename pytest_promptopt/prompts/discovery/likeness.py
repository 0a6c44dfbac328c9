"""Whether a text reads like a prompt, and where it leaves gaps: cheap signs, no model.

How sure one has to be depends on what else is known. A text that reaches a model needs a few words to count. A text
that is only *called* a prompt may be a question to somebody at a keyboard, so it has to be longer or to open like an
instruction. The signs are English ones; a text in another language counts by its length.
"""

from __future__ import annotations

import re
from enum import IntEnum

MIN_WORDS = 12
MIN_CHARS = 80
MIN_WORDS_OF_INSTRUCTION = 4
MIN_WORDS_OF_FILE = 8

_VERBS = (
    "act|analy[sz]e|answer|arrange|assess|assign|categori[sz]e|check|choose|classify|compare|complete|compose|convert|correct|count|"
    "create|critique|decide|describe|detect|determine|draft|estimate|evaluate|expand|explain|extract|fill|find|fix|"
    "generate|give|grade|group|identify|improve|infer|judge|label|list|make|name|outline|paraphrase|pick|plan|predict|"
    "produce|proofread|propose|rank|rate|read|recommend|reformat|reply|respond|return|review|rewrite|route|say|score|"
    "select|shorten|simplify|sort|state|suggest|summari[sz]e|tag|tell|think|translate|turn|use|work\\s+out|write"
)
_OPENING = re.compile(
    r"\W*(?:<[\w-]+>\s*)?(?:please\s+|now\s+|carefully\s+)?(?:"
    rf"you(?:['’]re|\s+(?:are|will|must|have|help|only|always|never|{_VERBS}))\s|your\s+(?:task|job|role|goal)\b|"
    r"i\s+want\s+you\b|as\s+an?\s|given\s|based\s+on\b|below\s+(?:is|are)\b|here\s+(?:is|are)\b|"
    rf"in\s+(?:one|two|three|at\s+most)\b|(?:{_VERBS})\b)",
    re.IGNORECASE,
)
_SIGN = re.compile(
    r"\b(?:you (?:are|will|must)|your (?:task|job|role)|step by step|json|assistant|expert|concise(?:ly)?|bullet|tone|"
    r"respond|reply|answers?|questions?|context|following|do not|don't|never|always|only|if you|at most|sentences?|"
    r"paragraphs?|summar\w+|translat\w+|classif\w+|extract\w*|politely|language|output)\b",
    re.IGNORECASE,
)
_OTHER = re.compile(
    r"\s*(?:(?-i:SELECT\s[\s\S]{0,2000}?\sFROM\s)|select\s+(?:\*|[\w.]+\s*,)|insert\s+into\s|update\s+\w+\s+set\s|delete\s+from\s|create\s+(?:table|index|"
    r"view|or\s+replace|unique)\b|alter\s+table\s|with\s+\w+\s+as\s*\(|<!doctype|<\?xml|<(?:html|head|body|div|p|table|"
    r"svg|form|ul|span|style|script)\b|#!|usage:|copyright\b|licensed\s+under|permission\s+is\s+hereby|https?://\S+\s*$|"
    r"[\[{]\s*\"|\^|\(\?)",
    re.IGNORECASE,
)
_LICENCE = re.compile(r"permission is hereby granted|licensed under the|warrant(?:y|ies) of any kind", re.IGNORECASE)
_TO_SOMEBODY = re.compile(
    r"\W*(?:enter|type|press|are you sure|do you (?:really )?want|continue|proceed|password|please "
    r"(?:enter|type|confirm|choose|select|pick|provide))\b|[\s\S]*[\[(]y(?:es)?/n(?:o)?[\])]\W*$",
    re.IGNORECASE,
)
_FIELD = re.compile(r"(?<!\{)(?:\{\{)*\{([A-Za-z_]\w*(?:\.\w+|\[\w+\])*)(?:![rsa])?(?::[^{}\n]*)?\}")
_JINJA = re.compile(r"\{\{-?\s*([A-Za-z_]\w*(?:\.\w+)*)")
_PERCENT = re.compile(r"%\(([A-Za-z_]\w*)\)[sdr]")


class Evidence(IntEnum):
    """What else is known of a text, weakest first."""

    NONE = 0
    WEAK_NAME = 1  # called SYSTEM or LETTER_TEMPLATE, which other texts are too
    NAME = 2  # called a prompt
    SENT = 3  # the content of a message, a template class, an argument that a model is asked with


_NAME = re.compile(
    r"(?:^|_)(?:prompts?|preamble)$|(?-i:^PROMPTS?_)|(?:^|_)prompt_(?:template|text|str|string)s?$|"
    r"system_?(?:message|msg|text)s?$|(?-i:[a-z]Prompts?$)",
    re.IGNORECASE,
)
_WEAK_NAME = re.compile(
    r"(?:^|_)(?:system|instructions?|persona)$|_template$",
    re.IGNORECASE,
)


def evidence_of_name(name: str) -> Evidence:
    """What a variable, keyword or key called ``name`` says about the text behind it."""
    if _NAME.search(name):
        return Evidence.NAME
    return Evidence.WEAK_NAME if _WEAK_NAME.search(name) else Evidence.NONE


def is_prompt(text: str, evidence: Evidence) -> bool:
    """Whether ``text`` counts as a prompt, given what else is known of it."""
    words = count_words(text)
    opens_like_one = words >= MIN_WORDS_OF_INSTRUCTION and _OPENING.match(text) is not None
    is_long = words >= MIN_WORDS or (len(text) >= MIN_CHARS and words > 1)
    if evidence is Evidence.NONE or (is_something_else(text) and evidence is not Evidence.SENT):
        return False
    if evidence is Evidence.SENT:
        return opens_like_one or is_long
    if _TO_SOMEBODY.match(text):
        return False
    return opens_like_one or (is_long and (evidence is Evidence.NAME or gives_instructions(text)))


def is_prompt_file(text: str, *, is_called_prompt: bool) -> bool:
    """Whether a template file holds a prompt; where its path does not say so, its text has to."""
    if count_words(text) < MIN_WORDS_OF_FILE or is_something_else(text):
        return False
    return is_called_prompt or gives_instructions(text)


def gives_instructions(text: str) -> bool:
    """Whether it opens like an instruction, or talks like one in two places."""
    return _OPENING.match(text) is not None or len({sign.lower() for sign in _SIGN.findall(text)}) >= 2


def is_something_else(text: str) -> bool:
    """Whether it is SQL, a web page, a licence, a usage line, a pattern or data."""
    return _OTHER.match(text) is not None or _LICENCE.search(text) is not None


def count_words(text: str) -> int:
    """The words of ``text``; punctuation by itself is none."""
    return sum(any(sign.isalnum() for sign in word) for word in text.split())


def find_placeholders(text: str) -> tuple[str, ...]:
    """The gaps of a text, each once, in order: ``{ticket}``, ``{{ question }}``, ``%(name)s``."""
    fields = [f"{{{name}}}" for name in _FIELD.findall(text)]
    jinja = [f"{{{{ {name} }}}}" for name in _JINJA.findall(text)]
    is_jinja = "{%" in text or (jinja and not fields)
    named = [f"%({name})s" for name in _PERCENT.findall(text)]
    return tuple(dict.fromkeys([*(jinja if is_jinja else fields), *named]))
