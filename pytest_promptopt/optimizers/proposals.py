"""What a proposer is asked for a new instruction, and what its replies must pass before one becomes a candidate."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pytest_promptopt.lms.base import Message
from pytest_promptopt.optimizers.base import Outcome, PromptCall, Rejection, TunablePrompt
from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo, Json
from pytest_promptopt.prompts.rendering import format_rule
from pytest_promptopt.prompts.template import Language, Template

LONGEST_VALUE = 400
"""Characters of one field that a proposer is shown."""

LONGEST_PART = 8_000
"""Characters of all examples, of all failures and of all attempts, each, that one request shows."""

COPIED_WORDS = 5
"""So many words in a row, taken from a training input, are a copy rather than a lesson."""

ASSIGNMENT = """\
You improve the instruction of a prompt. A program sends that instruction to a language model in front of every input; \
a test then checks each answer. Write a better instruction: one that makes the model give the expected answers on \
inputs like these, and on others that nobody has seen yet.

State the general rules that tell the answers apart, in plain words. Keep what works in the current instruction. \
Never quote or name single examples: a proposal that repeats an input is thrown away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An instruction that was tried, and its score on the val rows."""

    instruction: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One training row that missed full marks: the prompt's call in it, and the metric's own words."""

    row: str
    call: PromptCall
    feedback: str


def find_failures(prompt: str, rows: Iterable[tuple[str, Outcome]]) -> tuple[Failure, ...]:
    """The last call of ``prompt`` in each row, given with its id, that was scored and missed full marks."""
    failures = []
    for row, outcome in rows:
        calls = [call for call in outcome.calls if call.prompt == prompt]
        if calls and outcome.score is not None and not outcome.is_success:
            failures.append(Failure(row=row, call=calls[-1], feedback=outcome.feedback))
    return tuple(failures)


def ask_for_instruction(
    prompt: TunablePrompt,
    current: str,
    *,
    examples: Sequence[Demo] = (),
    attempts: Sequence[Attempt] = (),
    failures: Sequence[Failure] = (),
) -> tuple[Message, ...]:
    """The messages that ask a proposer for a better instruction than ``current``.

    They show what goes in and out, labelled ``examples``, what the model got wrong with the test's own words, and
    scored ``attempts`` worst first; parts without content are left out.
    """
    fence = _fence_around(current)
    parts = (
        f"Current instruction:\n{fence}\n{current}\n{fence}",
        _describe_fields(prompt),
        _titled("Examples of inputs and the expected answer:", map(_show_example, examples)),
        _titled("Where the current instruction failed, with the words of the test:", map(_show_failure, failures)),
        _titled("Instructions tried so far with their scores, worst first:", _show_attempts(attempts)),
        _require_placeholders(prompt),
        f"Write the improved instruction. Reply with its text alone, between {fence} fences.",
    )
    text = "\n\n".join(part for part in parts if part)
    return ({"role": "system", "content": ASSIGNMENT}, {"role": "user", "content": text})


def _fence_around(text: str) -> str:
    """Three backticks, or more than ``text`` has in a row."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))


def _titled(title: str, items: Iterable[str]) -> str:
    body = "\n".join(_fitting(items))
    return f"{title}\n{body}" if body else ""


def _fitting(items: Iterable[str]) -> list[str]:
    """The first of ``items``, as many as one part of a request holds, one at least."""
    kept: list[str] = []
    room = LONGEST_PART
    for item in items:
        room -= len(item)
        if kept and room < 0:
            break
        kept.append(item)
    return kept


def _describe_fields(prompt: TunablePrompt) -> str:
    if prompt.signature.template is not None:
        return _describe_text(prompt.signature.template)
    inputs = "\n".join(f"- {field.name}: {field.type_words}" for field in prompt.signature.inputs)
    outputs = "\n".join(f"- {field.name}: {field.type_words}" for field in prompt.signature.outputs)
    rule = format_rule(prompt.signature)
    added = f"\nThe program itself adds after the instruction:\n{rule}" if rule else ""
    return f"Inputs:\n{inputs}\nAnswer:\n{outputs}{added}"


def _describe_text(template: Template) -> str:
    """What becomes of an adopted text: nothing is added to it, and what does not stand in it is not sent."""
    inputs = "\n".join(f"- {name}: text" for name in template.input_names)
    filled = f"Inputs, which the program fills in where their placeholders stand:\n{inputs}\n" if inputs else ""
    return f"{filled}Answer:\n- answer: text"


def _show_example(demo: Demo) -> str:
    return f"{_show_inputs(demo.inputs.items())} -> {_spell(demo.output)}"


def _show_inputs(inputs: Iterable[tuple[str, Json]]) -> str:
    return ", ".join(f"{name}: {json.dumps(_shorten(_spell(value)), ensure_ascii=False)}" for name, value in inputs)


def _show_failure(failure: Failure) -> str:
    call = failure.call
    lines = [_show_inputs(call.inputs.items())]
    if call.is_sent_by_us:  # nobody knows what another client was answered; the test's words tell
        answered = _shorten(_spell(call.output) if call.is_parsed else call.reply)
        lines.append(f"  the model answered: {answered}")
    lines.append(f"  the test said: {_shorten(' '.join(failure.feedback.split()))}")
    return "\n".join(filter(None, lines))


def _show_attempts(attempts: Iterable[Attempt]) -> list[str]:
    """Worst first; where there is no room for all, the worst are left out."""
    best_first = sorted(attempts, key=lambda attempt: -attempt.score)
    shown = _fitting(f"score {each.score:.3f}: {' '.join(each.instruction.split())}" for each in best_first)
    return shown[::-1]


def _spell(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 2]} …"


def find_placeholders(prompt: TunablePrompt) -> tuple[str, ...]:
    """What stands for inputs in the source instruction, as it is written there.

    In a docstring those are ``{name}`` and ``{{ name }}``, which somebody else may fill in; in an adopted text, all
    that its language makes a placeholder or a statement.
    """
    if prompt.signature.template is not None:
        return prompt.signature.template.placeholders
    names = {field.name for field in prompt.signature.inputs}
    found = re.finditer(r"\{\{?\s*(\w+)[^{}]*\}\}?", prompt.source.instruction)
    return tuple(dict.fromkeys(match[0] for match in found if match[1] in names))


def _require_placeholders(prompt: TunablePrompt) -> str:
    found = find_placeholders(prompt)
    if not found:
        return ""
    kept = f"Keep these placeholders exactly as they are written, each at least once: {' '.join(found)}"
    template = prompt.signature.template
    if template is None:
        return kept
    rule = _rule_of(template)
    return f"{kept}\nUse no other placeholders, and change neither their spelling nor what is inside them.{rule}"


def _rule_of(template: Template) -> str:
    """What the language of an adopted text asks for besides its placeholders."""
    if template.language is Language.FORMAT:
        return " Literal braces are written twice: {{ and }}."
    if template.language is Language.JINJA2 and template.has_statements:
        return " Leave each between the same statements as now, and some text wherever there is text now."
    return " A literal percent sign is written %%." if template.is_keyed else ""


POLITENESS = re.compile(
    r"\A(?:sure|certainly|of course|okay|ok|absolutely|great)\s*[!.,]\s*(?:[^\n]{0,100}:[ \t]*\n)?", re.I
)
TITLE = re.compile(
    r"""\A [*\#\s]* (?: here (?:['’]s|\ is|\ are) [^\n:]{0,60} \b (?:instructions?|prompt|version|one) \b [^\n:]{0,40}
        | here\ (?:it\ is|you\ go)
        | (?:the\ |an?\ |my\ )? (?:(?:improved|new|revised|better|proposed|updated|final)\ )*
          (?:instruction|prompt) (?:\ \([^)\n]*\))? )
    \** : [*\s]*""",
    re.IGNORECASE | re.VERBOSE,
)
FENCED = re.compile(r"(`{3,})(?:[^\n`]*\n)?(.*?)\1(?!`)", re.DOTALL)
QUOTES = (('"', '"'), ("'", "'"), ("“", "”"), ("`", "`"))


def clean_instruction(reply: str) -> str:
    """The bare instruction in ``reply``: out of its fence, lead-in and quotes; empty when a fence never closes."""
    if fenced := FENCED.search(reply):
        return _unquote(fenced[2].strip())
    if "```" in reply:
        return ""
    return _unquote(TITLE.sub("", POLITENESS.sub("", reply.strip())).strip())


def _unquote(text: str) -> str:
    for first, last in QUOTES:
        inner = text[1:-1]
        if len(text) > 2 and text[0] == first and text[-1] == last and first not in inner and last not in inner:
            return inner.strip()
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What an instruction must not be: too long, a copy of a training input, or without the source's placeholders.

    ``prompt`` finds faults of its own in what an adopted text would become. ``copied`` maps runs of words in training
    inputs to the row they came from.
    """

    max_words: int
    placeholders: tuple[str, ...]
    copied: dict[tuple[str, ...], str]
    prompt: TunablePrompt

    def find_fault(self, instruction: str) -> str:
        """Why ``instruction`` is no candidate; empty when it is one."""
        if not instruction:
            return "empty or broken off"
        if len(instruction.split()) > self.max_words:
            return f"longer than {self.max_words} words"
        if fault := self.prompt.find_fault(CompiledPrompt(instruction=instruction)):
            return fault
        if lost := [placeholder for placeholder in self.placeholders if placeholder not in instruction]:
            return f"loses {lost[0]}"
        row = next((self.copied[run] for run in _runs(instruction) if run in self.copied), None)
        return "" if row is None else f"copies row {row}"


def make_guard(prompt: TunablePrompt, train_inputs: Iterable[tuple[str, str]], *, max_words: int) -> Guard:
    """A guard against copies of ``train_inputs`` (row id, text), save for words that the source instruction has itself.

    A text that several rows share, such as a list of labels or a policy, is no row's own and may be repeated. A source
    that is long by itself may be replaced by one of its length.
    """
    rows: dict[str, set[str]] = {}
    for row, text in train_inputs:
        rows.setdefault(text, set()).add(row)
    shared = {run for text, ids in rows.items() if len(ids) > 1 for run in _runs(text)}
    free = shared.union(_runs(prompt.source.instruction))
    own = ((row, text) for text, ids in rows.items() if len(ids) == 1 for row in ids)
    copied: dict[tuple[str, ...], str] = {}
    for row, text in own:
        for run in _runs(text):
            if run not in free:
                copied.setdefault(run, row)
    longest = max(max_words, len(prompt.source.instruction.split()))
    placeholders = find_placeholders(prompt) if prompt.takes_demos else ()  # an adopted text checks its own
    return Guard(max_words=longest, placeholders=placeholders, copied=copied, prompt=prompt)


def train_inputs_of(prompt: TunablePrompt, rows: Iterable[tuple[str, Outcome]]) -> Iterable[tuple[str, str]]:
    """Row id and text of every input that ``prompt`` met in training: in labelled demos and in traced calls."""
    for demo in prompt.labelled:
        yield from ((demo.row or "?", _spell(value)) for value in demo.inputs.values())
    for row, outcome in rows:
        for call in outcome.calls:
            yield from ((row, _spell(value)) for value in call.inputs.values())


def _runs(text: str) -> Iterable[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return zip(*(words[start:] for start in range(COPIED_WORDS)), strict=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sifted:
    """What became of a batch of replies."""

    instructions: tuple[str, ...]
    rejected: tuple[Rejection, ...]


def sift(replies: Iterable[str], guard: Guard, tried: Iterable[str]) -> Sifted:
    """Clean ``replies`` and keep those that pass ``guard`` and are new against ``tried`` and each other."""
    seen = {_normalised(instruction) for instruction in tried}
    instructions, rejected = [], []
    for reply in replies:
        instruction = clean_instruction(reply)
        fault = guard.find_fault(instruction) or ("repeated" if _normalised(instruction) in seen else "")
        if fault:
            rejected.append(Rejection(subject=instruction or reply, reason=fault))
        else:
            seen.add(_normalised(instruction))
            instructions.append(instruction)
    return Sifted(instructions=tuple(instructions), rejected=tuple(rejected))


def _normalised(instruction: str) -> str:
    return " ".join(instruction.split())
