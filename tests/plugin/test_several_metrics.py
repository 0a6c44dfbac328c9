"""Several metrics on one prompt: one objective, one test of it, and a veto for each of them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pytest_promptopt.snapshots.baseline import BaselineRow, read_baseline
from tests.plugin.projects import SNAPSHOT, Desk, words

WORLD = '''
"""A model that follows the one of two rules it is given, on the tickets of low enough number, and proposes both."""

import json
import re
from pathlib import Path

from pytest_promptopt.lms.scripted import ScriptedLM

ASKED = Path(__file__).with_name("asked.jsonl")
SHARES = {shares}


def answer(request):
    system, text = request.messages[0]["content"], request.messages[-1]["content"]
    is_proposal = system.startswith("You improve the instruction")
    with ASKED.open("a") as file:
        file.write(json.dumps({{"is_proposal": is_proposal, "system": system, "text": text}}) + "\\n")
    if is_proposal:
        return "```\\n" + ("Be polite.", "Be brief.")[request.ordinal % 2] + "\\n```"
    polite, brief = next(shares for rule, shares in SHARES.items() if rule in system)
    number = int(re.search("[0-9]+", text)[0])
    return f"polite={{number < polite}} brief={{number < brief}}"


def make(model):
    return ScriptedLM(answer)
'''

PROMPT = '''
from pytest_promptopt import prompt


@prompt
def reply(ticket: str) -> str:
    """Answer the customer."""
'''

METRICS = """
import pytest

from desk import reply
from pytest_promptopt import load_dataset


@pytest.fixture(scope="session")
def tickets():
    return load_dataset("tickets.jsonl")


@pytest.fixture(scope="session")
def few(tickets):
    return tickets[:40]
"""
METRIC = """

@pytest.mark.prompt_metric({options})
def test_{name}(example):
    assert "{name}=True" in reply(ticket=example["ticket"])
"""


class Tug:
    """A prompt that two metrics, ``test_polite`` and ``test_brief``, may pull apart, on a hundred tickets.

    For each instruction, the shares are how many tickets it answers politely, and how many briefly: those of the lowest
    numbers. The search proposes "Be polite." and "Be brief."; ``source`` is what both start from.
    """

    def __init__(
        self,
        project: Any,
        *,
        source: tuple[int, int] = (0, 0),
        polite: tuple[int, int] = (0, 0),
        brief: tuple[int, int] = (0, 0),
    ) -> None:
        self.desk = Desk(project)
        shares = {"Be polite": polite, "Be brief": brief, "": source}
        self.desk.write("learner.py", WORLD.format(shares=shares))
        self.desk.write("desk.py", PROMPT)
        self.desk.write("pyproject.toml", "[tool.pytest-promptopt.copro]\nbreadth = 3\ndepth = 1\n")
        self.desk.rows([{"id": f"r{number:02}", "ticket": f"ticket number {number}"} for number in range(100)])
        self.metrics(polite='"tickets"', brief='"tickets"')

    def metrics(self, **options: str) -> None:
        """Write the metrics ``name`` with what stands in their markers."""
        metrics = [METRIC.format(name=name, options=text) for name, text in options.items()]
        self.desk.write("test_desk.py", METRICS + "".join(metrics))

    def search(self) -> dict[str, Any]:
        """Search; gives the job's report."""
        self.desk.optimize()
        return self.desk.jobs()["desk.reply"]

    def forget(self) -> None:
        """Take away all that was frozen."""
        for name in self.desk.frozen_files():
            (self.desk.path / name).unlink()

    @property
    def instruction(self) -> str:
        """What was frozen."""
        found = re.search(
            "instruction = ['\"](.*)['\"]", self.desk.read("__prompts__/desk.reply@scripted-learner.toml")
        )
        assert found
        return found[1]

    @property
    def is_frozen(self) -> bool:
        """Whether anything was."""
        return "__prompts__/desk.reply@scripted-learner.toml" in self.desk.frozen_files()

    def sealed(self, metric: str) -> tuple[BaselineRow, ...]:
        """The rows of one metric's baseline."""
        return _baseline_rows(self.desk, metric)


def _baseline_rows(desk: Desk, metric: str) -> tuple[BaselineRow, ...]:
    name = f"__prompts__/test_desk.{metric}@scripted-learner.toml"
    return read_baseline(desk.read(name), path=desk.path / name).rows


# --- the objective ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("polite", "brief", "winner"), [(3, 1, "Be polite."), (1, 3, "Be brief.")])
def test_weights_decide_which_of_two_candidates_wins(project: Any, polite: int, brief: int, winner: str) -> None:
    tug = Tug(project, polite=(100, 0), brief=(0, 100))
    tug.metrics(polite=f'"tickets", weight={polite}', brief=f'"tickets", weight={brief}')
    job = tug.search()
    assert job["outcome"] == "frozen"
    assert tug.instruction == winner
    assert job["start_score"] == 0
    assert job["selected_score"] == job["sealed_after"] == pytest.approx(0.75)  # Σ weight·mean / Σ weight
    assert job["metrics"] == ["test_polite", "test_brief"]


def test_a_metric_weighs_the_same_however_few_rows_it_has(project: Any) -> None:
    tug = Tug(project, polite=(100, 0))
    tug.metrics(polite='"few", weight=2', brief='"tickets"')
    job = tug.search()
    assert len(tug.sealed("test_polite")) < len(tug.sealed("test_brief")) / 2
    assert job["selected_score"] == job["sealed_after"] == pytest.approx(2 / 3)
    assert job["sealed_rows"] == len(tug.sealed("test_polite")) + len(tug.sealed("test_brief"))


# --- one observation a row --------------------------------------------------------------------------------------------


def test_rows_that_two_metrics_share_are_one_observation(project: Any) -> None:
    """Two metrics that always agree prove no more than one of them."""
    tug = Tug(project, polite=(12, 12))
    tug.metrics(polite='"tickets"')
    alone = tug.search()
    flipped = sum(row.score for row in tug.sealed("test_polite"))
    assert alone["p"] == pytest.approx(0.5**flipped)
    tug.forget()
    tug.metrics(polite='"tickets"', brief='"tickets"')
    together = tug.search()
    assert together["sealed_rows"] == 2 * alone["sealed_rows"]
    assert together["p"] == pytest.approx(alone["p"])


def test_rows_of_two_datasets_are_observations_of_their_own(project: Any) -> None:
    tug = Tug(project, polite=(12, 12))
    tug.metrics(polite='"tickets"', brief='"others"')
    tug.desk.write(
        "conftest.py",
        tug.desk.read("conftest.py")
        + """

import pytest


@pytest.fixture(scope="session")
def others():
    return [{"id": f"o{number:02}", "ticket": f"another ticket, number {number}"} for number in range(100)]
""",
    )
    job = tug.search()
    flipped = sum(row.score for metric in ("test_polite", "test_brief") for row in tug.sealed(metric))
    assert flipped > sum(row.score for row in tug.sealed("test_polite"))
    assert job["p"] == pytest.approx(0.5**flipped)


# --- the veto ---------------------------------------------------------------------------------------------------------


def test_a_winner_on_the_whole_is_kept_out_when_one_metric_gets_worse(project: Any) -> None:
    tug = Tug(project, source=(0, 60), polite=(100, 20), brief=(0, 60))
    tug.metrics(polite='"tickets", weight=3', brief='"tickets"')
    job = tug.search()
    assert job["outcome"] == "kept"
    assert job["sealed_after"] > job["sealed_before"] + 0.5
    assert job["p"] < 0.001
    assert re.fullmatch(r"test_brief got worse \(0\.\d{3} -> 0\.\d{3}\)", job["reason"])
    assert not tug.is_frozen
    assert tug.sealed("test_brief") == ()  # only that a winner was tried on its rows is kept


@pytest.mark.parametrize("is_set", [False, True], ids=["no threshold", "threshold"])
def test_a_winner_on_the_whole_is_kept_out_when_one_metric_falls_below_its_threshold(
    project: Any, is_set: bool
) -> None:
    tug = Tug(project, source=(0, 50), polite=(100, 48))
    assert tug.search()["outcome"] == "frozen"
    sealed = tug.sealed("test_brief")
    before = sum(int(row.id[1:]) < 50 for row in sealed) / len(sealed)
    after = sum(row.score for row in sealed) / len(sealed)
    assert after < before
    tug.forget()
    threshold = (after + before) / 2 if is_set else before + 0.01  # what the source misses too is no veto
    tug.metrics(polite='"tickets"', brief=f'"tickets", threshold={threshold}')
    job = tug.search()
    assert tug.is_frozen == (not is_set)
    if is_set:
        assert job["reason"] == f"test_brief would fall below threshold={threshold} ({after:.3f})"


def test_a_metric_that_leaves_every_row_out_has_no_say(project: Any) -> None:
    tug = Tug(project, polite=(100, 0))
    tug.metrics(polite='"tickets"', brief='"tickets", threshold=0.5')
    tug.desk.replace("test_desk.py", 'assert "brief=True" in', "_ =")
    tug.desk.write("test_desk.py", tug.desk.read("test_desk.py") + '    pytest.skip("not today")\n')
    job = tug.search()
    assert job["outcome"] == "frozen"
    assert tug.instruction == "Be polite."
    assert job["sealed_after"] == 1.0
    tug.desk.run().assert_outcomes(passed=1, skipped=1)


def test_a_winner_under_which_one_metric_leaves_every_row_out_is_kept_out(project: Any) -> None:
    tug = Tug(project, source=(0, 60), polite=(100, 0))
    tug.metrics(polite='"tickets", weight=3', brief='"tickets"')
    tug.desk.replace("test_desk.py", 'assert "brief=True" in reply(ticket=example["ticket"])', "_judge(example)")
    tug.desk.write(
        "test_desk.py",
        tug.desk.read("test_desk.py")
        + """

def _judge(example):
    if "polite=True" in reply(ticket=example["ticket"]):
        pytest.skip("too polite to judge")
""",
    )
    job = tug.search()
    assert (job["outcome"], job["reason"]) == ("kept", "test_brief leaves every sealed row out")
    assert not tug.is_frozen


# --- whose evidence ---------------------------------------------------------------------------------------------------


def test_prompts_limits_what_a_metric_is_evidence_for(project: Any) -> None:
    desk = Desk(project)
    desk.write(
        "desk.py",
        desk.read("desk.py")
        + '''

@prompt
def check(ticket: str) -> Literal["billing", "bug", "account"]:
    """Check which team should answer."""
''',
    )
    desk.write(
        "test_desk.py",
        """
        import pytest

        from desk import check, route
        from pytest_promptopt import load_dataset


        @pytest.fixture(scope="session")
        def tickets():
            return load_dataset("tickets.jsonl")


        @pytest.mark.prompt_metric("tickets", prompts="route")
        def test_both(example):
            answers = [route(ticket=example["ticket"]), check(ticket=example["ticket"])]
            return answers.count(example["team"]) / 2
        """,
    )
    result = desk.optimize("-rs")
    assert result.ret == 0
    assert [*desk.jobs()] == ["desk.route"]
    assert desk.jobs()["desk.route"]["selected_score"] < 1.0  # the other half of a point is not searched for
    assert SNAPSHOT in desk.frozen_files()
    assert not [name for name in desk.frozen_files() if "check" in name]
    assert "no selected metric calls this prompt" in words(result)
    assert {line["system"].partition(".")[0] for line in desk.asked() if "team" in line["system"]} >= {
        "Check which team should answer"
    }


def _desk_with_unlike_labels(project: Any) -> Desk:
    """Two metrics that seal other rows of one dataset."""
    desk = Desk(project)
    metric = desk.read("test_desk.py").partition("@pytest.mark.prompt_metric")
    second = (metric[1] + metric[2]).replace("threshold=0.8", 'labels={"route": "team"}').replace("routes", "labelled")
    desk.write("test_desk.py", desk.read("test_desk.py") + "\n\n" + second)
    return desk


def test_rows_that_one_metric_seals_never_reach_a_search_through_another(project: Any) -> None:
    desk = _desk_with_unlike_labels(project)
    result = desk.optimize()
    assert result.ret == 0
    assert re.search(
        r"note \d+ rows of test_routes are sealed by another metric, so no search sees them; "
        r"give metrics of one dataset the same group= and labels=",
        words(result),
    )
    sealed_by = [{row.id for row in _baseline_rows(desk, name)} for name in ("test_routes", "test_labelled")]
    assert sealed_by[0] - sealed_by[1]
    assert sealed_by[1] - sealed_by[0]
    tickets = {row["id"]: row["ticket"] for row in _rows(desk)}
    sealed = {tickets[name] for name in sealed_by[0] | sealed_by[1]}
    asked = desk.asked()
    first = next(place for place, line in enumerate(asked) if line["text"] in sealed)
    before, after = asked[:first], asked[first:]
    assert any(line["is_proposal"] for line in before)
    shown = "\n".join(message["content"] for line in before for message in line["messages"])
    assert not [ticket for ticket in sealed if ticket in shown]
    assert {line["text"] for line in after} == sealed  # what follows confirms


def _rows(desk: Desk) -> list[dict[str, str]]:
    return [json.loads(line) for line in desk.read("tickets.jsonl").splitlines()]


@pytest.mark.parametrize("more", [0, 10, 20])
def test_the_budget_that_is_asked_for_holds_confirming_on_the_rows_of_every_metric(project: Any, more: int) -> None:
    desk = _desk_with_unlike_labels(project)
    desk.make_remote()
    asked_for = re.search(r"give --prompt-budget (\d+)", words(desk.optimize("--prompt-budget", "1")))
    assert asked_for
    result = desk.optimize("--prompt-budget", str(int(asked_for[1])))
    raised = re.search(r"give --prompt-budget (\d+)", words(result))  # rows may make more calls than their number
    least = int((raised or asked_for)[1])
    desk.forget_replies()
    result = desk.optimize("--prompt-budget", str(least + more))
    assert "ceiling of" not in words(result)
    assert desk.jobs()["desk.route"]["outcome"] == ("frozen" if more == 20 else "kept")
