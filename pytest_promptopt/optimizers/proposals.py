"""What a proposer is asked for a new instruction, and what its replies must pass before one becomes a candidate."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from pytest_promptopt.lms.base import Message
from pytest_promptopt.optimizers.base import Completion, Outcome, PromptCall, Rejection, TunablePrompt
from pytest_promptopt.optimizers.evaluating import Steps, complete, counted, listed, reject
from pytest_promptopt.optimizers.guards import find_placeholders, spell
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo, Json
from pytest_promptopt.prompts.rendering import format_rule
from pytest_promptopt.prompts.template import Language, Template

LONGEST_VALUE = 400
"""Characters of one field that a proposer is shown."""

LONGEST_PART = 8_000
"""Characters of all examples, of all failures and of all attempts, each, that one request shows."""

ASSIGNMENT = """\
You improve the instruction of a prompt. A program sends that instruction to a language model in front of every input; \
a test then checks each answer. Write a better instruction: one that makes the model give the expected answers on \
inputs like these, and on others that nobody has seen yet.

State the general rules that tell the answers apart, in plain words. Keep what works in the current instruction. \
Never quote or name single examples: a proposal that repeats an input is thrown away."""


NO_BACKGROUND: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An instruction that was tried, and its score on the val rows."""

    instruction: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One training row that was run: the prompt's call in it, and the metric's own words."""

    row: str
    call: PromptCall
    feedback: str


def find_failures(prompt: str, rows: Iterable[tuple[str, Outcome]]) -> tuple[Case, ...]:
    """The last call of ``prompt`` in each row, given with its id, that was scored and missed full marks."""
    return _find_cases(prompt, ((row, outcome) for row, outcome in rows if not outcome.is_success))


def find_successes(prompt: str, rows: Iterable[tuple[str, Outcome]]) -> tuple[Case, ...]:
    """The last call of ``prompt`` in each row that got full marks."""
    return _find_cases(prompt, ((row, outcome) for row, outcome in rows if outcome.is_success))


def _find_cases(prompt: str, rows: Iterable[tuple[str, Outcome]]) -> tuple[Case, ...]:
    cases = []
    for row, outcome in rows:
        calls = [call for call in outcome.calls if call.prompt == prompt]
        if calls and outcome.score is not None:
            cases.append(Case(row=row, call=calls[-1], feedback=outcome.feedback))
    return tuple(cases)


def ask_for_instruction(
    prompt: TunablePrompt,
    current: str,
    *,
    assignment: str = ASSIGNMENT,
    background: Mapping[str, str] = NO_BACKGROUND,
    examples: Sequence[Demo] = (),
    attempts: Sequence[Attempt] = (),
    successes: Sequence[Case] = (),
    failures: Sequence[Case] = (),
    wish: str = "",
) -> tuple[Message, ...]:
    """The messages that ask a proposer for a better instruction than ``current``.

    They show what goes in and out, labelled ``examples``, what the model got right, what it got wrong with the test's
    own words, and scored ``attempts`` worst first; parts without content are left out. ``background`` is text by title
    that comes before the rows, ``wish`` a sentence on what the instruction should be like.
    """
    fence = _fence_around(current)
    parts = (
        f"Current instruction:\n{fence}\n{current}\n{fence}",
        describe_fields(prompt),
        *(f"{title}:\n{text}" for title, text in background.items() if text),
        _titled("Examples of inputs and the expected answer:", map(show_example, examples)),
        _titled("Where the current instruction worked:", map(_show_success, successes)),
        _titled("Where the current instruction failed, with the words of the test:", map(_show_failure, failures)),
        _titled("Instructions tried so far with their scores, worst first:", _show_attempts(attempts)),
        _require_placeholders(prompt),
        wish,
        f"Write the improved instruction. Reply with its text alone, between {fence} fences.",
    )
    text = "\n\n".join(part for part in parts if part)
    return ({"role": "system", "content": assignment}, {"role": "user", "content": text})


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


def describe_fields(prompt: TunablePrompt) -> str:
    """What goes into ``prompt``, what it answers, and what the program adds to its instruction."""
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


def show_example(demo: Demo) -> str:
    """A line ``input: "…" -> answer``."""
    return f"{show_inputs(demo.inputs.items())} -> {spell(demo.output)}"


def show_inputs(inputs: Iterable[tuple[str, Json]]) -> str:
    """The fields of one input in a line, long values cut."""
    return ", ".join(f"{name}: {json.dumps(_shorten(spell(value)), ensure_ascii=False)}" for name, value in inputs)


def _show_success(success: Case) -> str:
    call = success.call
    answered = f" -> {_shorten(spell(call.output) if call.is_parsed else call.reply)}" if call.is_sent_by_us else ""
    return f"{show_inputs(call.inputs.items())}{answered}"


def _show_failure(failure: Case) -> str:
    call = failure.call
    lines = [show_inputs(call.inputs.items())]
    if call.is_sent_by_us:  # nobody knows what another client was answered; the test's words tell
        answered = _shorten(spell(call.output) if call.is_parsed else call.reply)
        lines.append(f"  the model answered: {answered}")
    lines.append(f"  the test said: {_shorten(' '.join(failure.feedback.split()))}")
    return "\n".join(filter(None, lines))


def _show_attempts(attempts: Iterable[Attempt]) -> list[str]:
    """Worst first; where there is no room for all, the worst are left out."""
    best_first = sorted(attempts, key=lambda attempt: -attempt.score)
    shown = _fitting(f"score {each.score:.3f}: {' '.join(each.instruction.split())}" for each in best_first)
    return shown[::-1]


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 2]} …"


def _require_placeholders(prompt: TunablePrompt) -> str:
    found = find_placeholders(prompt.signature, prompt.source)
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
class Sifted:
    """What became of a batch of replies."""

    instructions: tuple[str, ...]
    rejected: tuple[Rejection, ...]


def sift(replies: Iterable[str], prompt: TunablePrompt, tried: Iterable[str], *, max_words: int) -> Sifted:
    """Clean ``replies``; keep those that can run as ``prompt``, and are new against ``tried`` and each other.

    They have at most ``max_words`` words, or as many as the source.
    """
    seen = {_normalised(instruction) for instruction in tried}
    longest = max(max_words, len(prompt.source.instruction.split()))
    instructions, rejected = [], []
    for reply in replies:
        instruction = clean_instruction(reply)
        fault = _find_fault(instruction, prompt, longest) or ("repeated" if _normalised(instruction) in seen else "")
        if fault:
            rejected.append(Rejection(subject=instruction or reply, reason=fault))
        else:
            seen.add(_normalised(instruction))
            instructions.append(instruction)
    return Sifted(instructions=tuple(instructions), rejected=tuple(rejected))


def _find_fault(instruction: str, prompt: TunablePrompt, max_words: int) -> str:
    if not instruction:
        return "empty or broken off"
    if len(instruction.split()) > max_words:
        return f"longer than {max_words} words"
    return prompt.find_fault(CompiledPrompt(instruction=instruction))


def _normalised(instruction: str) -> str:
    return " ".join(instruction.split())


def propose(
    prompt: TunablePrompt, completions: Iterable[Completion], tried: Iterable[str], *, max_words: int
) -> Steps[Sifted]:
    """Ask the proposer, sift what it says, and tell what is thrown away."""
    replies = yield from complete(completions)
    sifted = sift(replies, prompt, tried, max_words=max_words)
    yield from reject(sifted.rejected)
    return sifted


def instructed(candidate: Candidate, name: str, instruction: str) -> Candidate:
    """``candidate`` with another instruction for prompt ``name``."""
    return candidate.replace(name, replace(candidate[name], instruction=instruction))


def summarise(sifted: Sifted, *, noun: str = "instruction", target: str = "") -> str:
    """``6 instructions proposed, 1 rejected (copies row t-051)``."""
    proposed = counted(len(sifted.instructions) + len(sifted.rejected), noun)
    reasons = listed([rejection.reason for rejection in sifted.rejected])
    return f"{proposed}{target} proposed" + (f", {len(sifted.rejected)} rejected ({reasons})" if reasons else "")
