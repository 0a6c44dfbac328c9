"""What a call will probably cost, before any is made: the source on the real rows, at the model's price.

Four characters are taken for a token. An answer is taken for 16 tokens where it is a label, a number or a date, else
for 256, and never for more than ``max_tokens``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from json import dumps
from typing import TYPE_CHECKING

from pytest_promptopt.evaluation.dataset import Example
from pytest_promptopt.lms.base import Usage
from pytest_promptopt.lms.client import Mode
from pytest_promptopt.lms.models import Price
from pytest_promptopt.lms.prices import find_price
from pytest_promptopt.prompts.compiled import CompiledPrompt, Json
from pytest_promptopt.prompts.rendering import render, render_inputs
from pytest_promptopt.prompts.shapes import Kind
from pytest_promptopt.prompts.signature import Signature
from pytest_promptopt.reports.dry_run import CHARACTERS_PER_TOKEN, LONG_ANSWER, SHORT_ANSWER, CallSize, Estimate
from pytest_promptopt.session.draws import input_names

if TYPE_CHECKING:
    from pytest_promptopt.prompts.base import AnyPrompt
    from pytest_promptopt.session.run import Run

SHORT_KINDS = frozenset({Kind.WHOLE_NUMBER, Kind.NUMBER, Kind.FLAG, Kind.LABEL, Kind.DATE, Kind.MOMENT})
FREE = Price(input_usd=0.0, output_usd=0.0)


def size_of_call(
    run: Run, prompt: AnyPrompt, compiled: CompiledPrompt, model: str, rows: Sequence[Example]
) -> CallSize:
    """An average call of ``prompt`` over ``rows``."""
    signature = prompt.signature
    inputs = [_inputs(signature, row) for row in rows]
    prompt_tokens = _mean_tokens(_sent_characters(signature, compiled, each) for each in inputs)
    shown_tokens = _mean_tokens(len(render_inputs(signature, each)) for each in inputs)
    answer_tokens = _answer_tokens(signature)
    price = find_call_price(run, model)
    usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=answer_tokens)
    return CallSize(
        prompt=prompt.name,
        model=model,
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
        demo_tokens=shown_tokens + answer_tokens if signature.takes_demos else 0,
        usd=None if price is None else price.cost_usd(usage),
        is_free=bool(model) and run.is_offline(model),
    )


def find_call_price(run: Run, model: str) -> Price | None:
    """The price of a model in this run: none for one inside this process, nor where no call can go out."""
    if not model:
        return None
    if run.settings.mode is Mode.REPLAY or run.is_offline(model):
        return FREE
    return find_price(run.settings.catalog.find(model))


def priced(fewest: int, most: int, calls: Iterable[CallSize]) -> Estimate:
    """So many calls, each of them one of ``calls``: the fewest at the cheapest, the most at the dearest."""
    usd = [call.usd for call in calls]
    known = [each for each in usd if each is not None]
    is_known = bool(known) and len(known) == len(usd)
    cost = (fewest * min(known), most * max(known)) if is_known else None
    return Estimate(fewest=fewest, most=most, usd=cost if most else (0.0, 0.0))


def _answer_tokens(signature: Signature) -> int:
    is_short = not signature.answers_in_json and signature.outputs[0].kind in SHORT_KINDS
    guess = SHORT_ANSWER if is_short else LONG_ANSWER
    return min(guess, signature.max_tokens or guess)


def _mean_tokens(lengths: Iterable[int]) -> int:
    all_lengths = [*lengths]
    return round(sum(all_lengths) / max(1, len(all_lengths)) / CHARACTERS_PER_TOKEN)


def _inputs(signature: Signature, row: Example) -> dict[str, Json]:
    """What a call for ``row`` takes. What no field is named after is taken for as long as the row."""
    fields = row.as_json()
    whole = " ".join(str(value) for name, value in fields.items() if name != "id")
    names = input_names(signature)
    if not names and signature.template is not None:
        return {"": whole}  # an adopted text without placeholders goes out beside what it is about
    return {name: fields.get(name, whole) for name in names}


def _sent_characters(signature: Signature, compiled: CompiledPrompt, inputs: Mapping[str, Json]) -> int:
    """How long a call is, the placeholders of an adopted text counted with what fills them."""
    if signature.template is None:
        return sum(len(message["content"]) for message in render(signature, compiled, inputs))
    fixed = 0 if signature.fixed is None else len(dumps(signature.fixed, ensure_ascii=False))
    return fixed + len(compiled.instruction) + sum(len(str(value)) for value in inputs.values())
