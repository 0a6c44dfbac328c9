"""Labelled rows become demonstrations, or a refusal that says what to name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from pytest_promptopt.evaluation.dataset import Example, as_examples
from pytest_promptopt.evaluation.labels import LabelledDemos, labelled_demos
from pytest_promptopt.evaluation.outcome import Judgement, RowResult, Status
from pytest_promptopt.prompts.signature import Signature, read_signature
from pytest_promptopt.prompts.trace import PromptCall


@dataclass
class Ticket:
    team: str
    urgency: int


def route(ticket: str) -> Literal["billing", "bug"]:
    """Decide which team should answer."""
    raise NotImplementedError


def read(ticket: str) -> Ticket:
    """Read this ticket."""
    raise NotImplementedError


ROUTE = read_signature(route, name="desk.route", reasoning=False, temperature=0.0, max_tokens=None)
READ = read_signature(read, name="desk.read", reasoning=False, temperature=0.0, max_tokens=None)


def demos(
    raw: Sequence[Mapping[str, Any]],
    signature: Signature = ROUTE,
    labels: Mapping[str, str] | None = None,
    traced: Sequence[tuple[Example, RowResult]] = (),
) -> LabelledDemos:
    return labelled_demos(signature, as_examples(raw, name="rows"), labels=labels or {}, traced=traced)


def ran(output: str, score: float | None, **fields: Any) -> tuple[Example, RowResult]:
    """A row on which the prompt gave ``output``."""
    row = Example(fields)
    call = PromptCall(prompt="desk.route", inputs={"ticket": "a"}, output=output, reasoning=None, reply=output)
    judgement = Judgement(status=Status.GRADED, score=score)
    return row, RowResult(id=row.id, digest=row.digest, group=None, repeat=0, judgement=judgement, calls=(call,))


@pytest.mark.parametrize("name", ["desk.route", "route"])
def test_labels_name_the_field_by_the_full_or_the_short_name(name: str) -> None:
    found = demos([{"ticket": "a", "wanted": "bug", "answer": "billing"}], labels={name: "wanted"})
    assert [demo.output for demo in found.demos] == ["bug"]
    assert found.refusal is None


@pytest.mark.parametrize("alias", ["expected", "expected_output", "target", "answer"])
def test_the_usual_names_of_a_label_are_known(alias: str) -> None:
    (demo,) = demos([{"id": "t1", "ticket": "a", "note": "x", alias: "bug"}]).demos
    assert (demo.inputs, demo.output, demo.row) == ({"ticket": "a"}, "bug", "t1")


def test_fields_named_like_the_outputs_are_the_label_of_a_record() -> None:
    (demo,) = demos([{"ticket": "a", "team": "bug", "urgency": 2, "other": "x"}], signature=READ).demos
    assert demo.output == {"team": "bug", "urgency": 2}


def test_the_one_field_that_equals_the_value_on_passing_rows_alone_is_the_label() -> None:
    traced = [
        ran("bug", 1.0, ticket="a", team="bug", tone="bug"),
        ran("bug", 0.0, ticket="b", team="billing", tone="bug"),
    ]
    found = demos([{"ticket": "c", "team": "billing", "tone": "calm"}], traced=traced)
    assert [demo.output for demo in found.demos] == ["billing"]


@pytest.mark.parametrize(
    "traced",
    [
        [],
        [ran("bug", 0.0, ticket="a", team="billing")],
        [ran("bug", 1.0, ticket="a", team="billing")],
        [ran("bug", 1.0, ticket="a", team="bug"), ran("bug", 0.0, ticket="b", team="bug")],
        [ran("bug", 1.0, ticket="a", team="bug", twin="bug")],
        [ran("bug", None, ticket="a", team="bug")],
    ],
    ids=["nothing ran", "nothing passed", "passed otherwise", "failed on it", "two fields", "no score"],
)
def test_without_proof_there_is_a_refusal_that_names_labels(traced: list[tuple[Example, RowResult]]) -> None:
    found = demos([{"ticket": "a", "team": "bug", "twin": "bug"}], traced=traced)
    assert found.demos == ()
    assert found.refusal == (
        'desk.route: no labelled demos, no one field of the rows is its label; name it: labels={"route": "FIELD"}'
    )


def test_rows_without_the_inputs_are_refused_by_their_names() -> None:
    found = demos([{"text": "a", "answer": "bug"}])
    assert found.refusal is not None
    assert "the rows have no field ticket" in found.refusal


def test_rows_whose_label_is_no_output_are_left_out() -> None:
    found = demos([{"ticket": "a", "answer": "bug"}, {"ticket": "b", "answer": "sales"}, {"ticket": "c"}])
    assert [demo.inputs["ticket"] for demo in found.demos] == ["a"]


def test_labels_that_hold_no_output_at_all_are_refused() -> None:
    found = demos([{"ticket": "a", "answer": "sales"}])
    assert found.refusal is not None
    assert "field answer holds none of its outputs" in found.refusal


def test_the_side_and_the_id_of_a_row_are_never_its_label() -> None:
    traced = [ran("bug", 1.0, id="bug", split="bug", ticket="a")]
    assert demos([{"id": "bug", "split": "bug", "ticket": "a"}], traced=traced).demos == ()
