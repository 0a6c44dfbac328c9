"""``--prompt-dry-run``: what it counts is what the run then calls; it calls nothing, and leaves nothing behind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna  # noqa: F401 - pytester would forget it with numpy, which cannot be imported a second time
import pytest

from pytest_promptopt.evaluation.dataset import as_examples
from pytest_promptopt.evaluation.split import Split, SplitRule, split_key, split_rows
from pytest_promptopt.optimizers.registry import OPTIMIZERS
from tests.loopback import serving
from tests.plugin.projects import SNAPSHOT, Desk, make_tickets, words

UNSURE = '''
def trouble(request, is_proposal):
    """A proposer that finds one telling word in some of its answers; every ticket is answered as ever."""
    if request.messages[-1]["content"] in TICKETS:
        return None
    number = sum(map(ord, request.messages[-1]["content"])) + request.ordinal
    return f"```\\nDecide which team should answer. Choose billing for {WORDS[number % len(WORDS)]} ({number}).\\n```"
'''

CHECK = '''

@prompt
def check(ticket: str) -> Literal["billing", "bug", "account"]:
    """Check which team should answer."""
'''

BOTH = """

from desk import check


@pytest.mark.prompt_metric("tickets", labels={"route": "team", "check": "team"})
def test_both(example):
    answers = [route(ticket=example["ticket"]), check(ticket=example["ticket"])]
    return answers.count(example["team"]) / 2
"""
"""One metric that calls both prompts."""

CHECKS = """

from desk import check


@pytest.mark.second
@pytest.mark.prompt_metric("tickets")
def test_checks(example):
    assert check(ticket=example["ticket"]) == example["team"]
"""
"""A metric of its own for the second prompt."""

SHARING = """

@pytest.mark.prompt_metric("tickets")
def test_is_a_team(example):
    assert route(ticket=example["ticket"]) in ("billing", "bug", "account")
"""
"""A second metric that asks what the first one asks."""

BROKEN = """
import pytest


@pytest.fixture(scope="session")
def gone():
    raise OSError("the disk is gone")


@pytest.mark.prompt_metric("gone")
def test_broken(example):
    assert example
"""

LOUD = """
import pytest

from pytest_promptopt.lms.scripted import ScriptedLM


class Loud(ScriptedLM):
    is_offline = False


def answer(request):
    pytest.exit("the model was called", returncode=3)


def pytest_promptopt_make_lm(model):
    return Loud(answer) if model.startswith("scripted/") else None
"""
"""A model outside the process whose every call ends the session."""


@dataclass(frozen=True)
class Range:
    """What the dry run says of a number of calls."""

    fewest: int
    most: int

    def __contains__(self, calls: int) -> bool:
        return self.fewest <= calls <= self.most


def range_of(text: str) -> Range:
    fewest, _, most = text.partition(" to ")
    return Range(int(fewest), int(most or fewest))


_COUNT = r"(\d+(?: to \d+)?)"


def of_strategies(result: pytest.RunResult) -> dict[str, tuple[Range, Range]]:
    """Strategy → the calls of its search and of the whole run, of a single group."""
    line = re.compile(rf"^  ([\w-]+)(?: \(chosen\))? +{_COUNT}  +{_COUNT}(?:$|  )")
    found = filter(None, map(line.match, result.stdout.lines))
    return {match[1]: (range_of(match[2]), range_of(match[3])) for match in found}


def calls_of(result: pytest.RunResult, label: str) -> Range:
    """The calls of the first line with that label."""
    match = re.search(rf"^  {label} .*?{_COUNT} calls?\b", result.stdout.str(), re.MULTILINE)
    assert match, result.stdout.str()
    return range_of(match[1])


def everything_below(folder: Path) -> dict[str, bytes]:
    """Every file of a project, but not what importing its modules leaves behind."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture
def desk(project: Any) -> Desk:
    return Desk(project)


@pytest.fixture
def unsure(project: Any) -> Desk:
    """A desk whose proposer is of little help, so that no search ends before it has tried what it tries."""
    desk = Desk(project)
    desk.write("pyproject.toml", "")
    tickets = [row["ticket"] for row in make_tickets(60)]
    desk.write("trouble.py", f"TICKETS = {tickets!r}\nWORDS = ['refund', 'invoice', 'receipt']\n{UNSURE}")
    desk.replace("test_desk.py", ", threshold=0.8", ', labels={"route": "team"}')
    return desk


def with_two_prompts(desk: Desk) -> None:
    desk.write("desk.py", desk.read("desk.py") + CHECK)
    desk.write("test_desk.py", desk.read("test_desk.py").partition("@pytest.mark")[0] + BOTH)


def with_a_second_metric(desk: Desk) -> None:
    desk.ini("markers = second: the second metric")
    desk.write("desk.py", desk.read("desk.py") + CHECK)
    desk.write("test_desk.py", desk.read("test_desk.py") + CHECKS)


def split_of(labels: tuple[str, ...] = ("team",), rows: int = 60) -> Split:
    """How the tickets are dealt where the marker names ``labels``."""
    examples = as_examples(make_tickets(rows), name="tickets")
    return split_rows(examples, SplitRule(), key_of=lambda row: split_key(row, group=None, labels=labels))


@dataclass(frozen=True)
class Asked:
    """What a real run asked, sorted by what for."""

    baseline: int
    search: int
    confirmation: int

    @property
    def total(self) -> int:
        return self.baseline + self.search + self.confirmation


def search_for_real(desk: Desk, *arguments: str, calls_per_row: int = 1) -> Asked:
    """Search with nothing in the store, and sort the calls: only a confirmation asks about sealed rows."""
    result = desk.optimize(*arguments)
    assert result.ret in (0, 1), result.stdout.str()
    split = split_of()
    sealed = {row["ticket"] for row in split.test}
    asked = [line["text"] for line in desk.asked()]
    confirmation = sum(text in sealed for text in asked)
    baseline = calls_per_row * len(split.searchable)
    assert len(asked) == sum(job["spending"]["attempts"] for job in desk.jobs().values())
    return Asked(baseline=baseline, search=len(asked) - confirmation - baseline, confirmation=confirmation)


# --- what it counts is what is called ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_search_calls_as_often_as_was_told(unsure: Desk, name: str) -> None:
    told = unsure.optimize("--prompt-dry-run", "--prompt-optimizer", name)
    assert unsure.asked() == []
    asked = search_for_real(unsure, "--prompt-optimizer", name)
    search, whole = of_strategies(told)[name]
    assert asked.search in search
    assert asked.total in whole
    assert calls_of(told, "baseline") == Range(asked.baseline, asked.baseline)
    assert asked.confirmation in calls_of(told, "confirm")
    assert calls_of(told, "in all") == whole


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_search_of_two_prompts_with_a_teacher_calls_as_often_as_was_told(unsure: Desk, name: str) -> None:
    with_two_prompts(unsure)
    options = ("--prompt-optimizer", name, "--prompt-proposer", "scripted/teacher")
    told = unsure.optimize("--prompt-dry-run", *options)
    asked = search_for_real(unsure, *options, calls_per_row=2)
    search, whole = of_strategies(told)[name]
    assert asked.search in search
    assert asked.total in whole


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_search_by_two_metrics_that_share_rows_calls_as_often_as_was_told(unsure: Desk, name: str) -> None:
    sharing = SHARING.replace('"tickets"', '"tickets", labels={"route": "team"}, repeats=2')
    unsure.write("test_desk.py", unsure.read("test_desk.py") + sharing)
    told = unsure.optimize("--prompt-dry-run", "--prompt-optimizer", name)
    asked = search_for_real(unsure, "--prompt-optimizer", name, calls_per_row=2)
    search, whole = of_strategies(told)[name]
    assert asked.search in search
    assert asked.total in whole
    assert calls_of(told, "baseline") == Range(asked.baseline, asked.baseline)
    assert asked.confirmation in calls_of(told, "confirm")


@pytest.mark.parametrize("name", ["labeled-few-shot", "bootstrap-few-shot"])
def test_calls_that_metrics_of_a_program_share_do_not_widen_the_count_of_a_search(unsure: Desk, name: str) -> None:
    with_two_prompts(unsure)
    sharing = SHARING.replace('"tickets"', '"tickets", labels={"route": "team", "check": "team"}')
    unsure.write("test_desk.py", unsure.read("test_desk.py") + sharing)
    told = unsure.optimize("--prompt-dry-run", "--prompt-optimizer", name)
    asked = search_for_real(unsure, "--prompt-optimizer", name, calls_per_row=2)
    search, _ = of_strategies(told)[name]
    assert asked.search in search
    assert asked.search == 2 * len(split_of().val)
    assert search.most <= 1.5 * asked.search


@pytest.mark.parametrize("name", ["labeled-few-shot", "bootstrap-few-shot"])
def test_where_labels_are_named_the_count_of_a_simple_search_is_exact(unsure: Desk, name: str) -> None:
    search, _ = of_strategies(unsure.optimize("--prompt-dry-run"))[name]
    val = len(split_of().val)
    assert search == Range(val, val)


def test_where_no_label_is_named_the_count_is_bounded_and_the_way_out_is_told(desk: Desk) -> None:
    told = desk.optimize("--prompt-dry-run")
    search, _ = of_strategies(told)["labeled-few-shot"]
    assert search == Range(0, len(split_of(()).val))
    assert 'labels={"route": "FIELD"}' in words(told)


@pytest.mark.parametrize(
    ("marker", "prompt", "arms", "repeats"),
    [
        ("", "@prompt", 2, 1),
        (", repeats=2", "@prompt", 3, 2),
        ("", "@prompt(temperature=0.7)", 3, 1),
    ],
)
def test_baseline_and_confirmation_are_counted_as_the_run_makes_them(
    desk: Desk, marker: str, prompt: str, arms: int, repeats: int
) -> None:
    desk.replace("test_desk.py", ", threshold=0.8", f', labels={{"route": "team"}}{marker}')
    desk.replace("desk.py", "@prompt", prompt)
    split = split_of()
    told = desk.optimize("--prompt-dry-run")
    assert calls_of(told, "baseline") == Range(*[repeats * len(split.searchable)] * 2)
    assert calls_of(told, "confirm") == Range(0, arms * repeats * len(split.test))
    assert ("a fresh baseline" in words(told)) == (arms == 3)
    desk.freeze()
    sealed = {row["ticket"] for row in split.test}
    assert sum(line["text"] in sealed for line in desk.asked()) == arms * repeats * len(split.test)


def test_calls_that_two_metrics_share_are_counted_once(desk: Desk) -> None:
    desk.write("test_desk.py", desk.read("test_desk.py").replace(", threshold=0.8", "") + SHARING)
    told = desk.optimize("--prompt-dry-run")
    searchable = len(split_of(()).searchable)
    assert calls_of(told, "baseline") == Range(searchable, searchable)
    plain = desk.run("--prompt-dry-run")
    assert calls_of(plain, "in all") == Range(60, 60)
    desk.run()
    assert len(desk.asked()) == 60


def test_a_judge_is_counted_with_its_rows(desk: Desk) -> None:
    desk.write("desk.py", desk.read("desk.py") + CHECK.replace("@prompt", "@prompt(optimize=False)"))
    desk.write("test_desk.py", desk.read("test_desk.py").partition("@pytest.mark")[0] + BOTH)
    told = desk.optimize("--prompt-dry-run")
    assert "desk.py::route    measured by test_both" in told.stdout.str()
    baseline = calls_of(told, "baseline")
    assert baseline == Range(*[2 * len(split_of().searchable)] * 2)


def test_a_metric_whose_prompts_nobody_can_see_is_said_to_be_one_and_named_prompts_help(desk: Desk) -> None:
    desk.replace("test_desk.py", "from desk import route", "import desk")
    desk.replace("test_desk.py", "route(ticket=", "getattr(desk, 'rou' + 'te')(ticket=")
    told = desk.optimize("--prompt-dry-run")
    assert told.ret == 0
    assert "no prompt can be seen in its code" in words(told)
    assert "desk.route: no selected metric calls it" in words(told)
    desk.replace("test_desk.py", ", threshold=0.8", ", prompts=('desk.route',)")
    assert "copro" in of_strategies(desk.optimize("--prompt-dry-run"))


# --- rows, power and plain runs ---------------------------------------------------------------------------------------


def test_the_rows_and_what_they_can_prove_are_those_that_the_search_then_tells(desk: Desk) -> None:
    def rows(result: pytest.RunResult) -> str:
        return next(" ".join(line.split()) for line in result.stdout.lines if line.startswith("  rows "))

    told = rows(desk.optimize("--prompt-dry-run"))
    assert told == rows(desk.optimize())
    assert re.search(r"60 = \d+ train \+ \d+ select \+ \d+ sealed; .* gains of about \d+ points", told)


def test_too_few_rows_to_confirm_anything_are_told_before_they_are_paid_for(desk: Desk) -> None:
    desk.rows(make_tickets(20))
    told = desk.optimize("--prompt-dry-run")
    assert told.ret == 0
    assert "nothing can be frozen: test_desk.test_routes has 8 sealed rows, 10 are needed" in words(told) or (
        "nothing can be frozen: test_routes has 8 sealed rows, 10 are needed" in words(told)
    )


def test_a_plain_run_reads_all_rows_and_after_a_freeze_the_sealed_ones(desk: Desk) -> None:
    before = desk.run("--prompt-dry-run")
    assert re.search(r"^test_routes +60 +60 +- \(no baseline\)", before.stdout.str(), re.MULTILINE)
    desk.freeze()
    sealed = len(split_of(()).test)
    after = desk.run("--prompt-dry-run")
    assert re.search(rf"^test_routes +{sealed} of 60 +{sealed} +\d+ points", after.stdout.str(), re.MULTILINE)


def test_the_drop_that_a_plain_run_can_prove_is_the_one_it_then_tells(desk: Desk) -> None:
    desk.freeze()
    told = desk.run("--prompt-dry-run").stdout.str()
    drop = re.search(r"(\d+ points), in 80 of 100 runs", told)
    assert drop
    assert f"can prove drops of about {drop[1]}, in 80 of 100 runs" in words(desk.run("-v"))


# --- money ------------------------------------------------------------------------------------------------------------


def priced(desk: Desk, price: str = "price = { input = 1000, output = 10_000 }", *, url: str = "") -> None:
    """Let the model under test be one behind a network, by the name of ``dear``."""
    address = f'base_url = "{url}"' if url else ""
    desk.write("pyproject.toml", f'[tool.pytest-promptopt.models.dear]\nmodel = "openai/dear"\n{price}\n{address}\n')
    desk.ini(model="dear")


def test_the_cost_is_the_length_of_the_source_on_the_real_rows_at_the_models_price(desk: Desk) -> None:
    priced(desk)
    desk.replace("desk.py", "@prompt", "@prompt(max_tokens=10)")
    told = words(desk.run("--prompt-dry-run", "--prompt-budget", "500", "--prompt-max-cost", "70"))
    size = re.search(r"desk.route: about (\d+) tokens in and 10 out, about \$([\d.]+) a call on dear", told)
    assert size
    desk.ini()
    desk.run()
    lengths = [sum(len(message["content"]) for message in line["messages"]) for line in desk.asked()]
    tokens = round(sum(lengths) / len(lengths) / 4)
    assert int(size[1]) == tokens
    usd = (1000 * tokens + 10_000 * 10) / 1_000_000
    assert float(size[2]) == pytest.approx(usd, rel=0.05)
    assert f"60 calls of at most 500, about ${60 * usd:.2f} of at most $70.00" in told


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("'Say it politely: {ticket}'", "Say it politely: {ticket}"),
        ("'Be polite.'", "Be polite. {ticket} {team}"),
        ("[{'role': 'system', 'content': 'Be polite.'}]", "Be polite. {ticket} {team}"),
    ],
)
def test_an_adopted_text_is_as_long_as_with_its_placeholders_filled_in(desk: Desk, text: str, sent: str) -> None:
    priced(desk)
    desk.write("desk.py", f"from pytest_promptopt import text_prompt\n\nroute = text_prompt('desk.tone', {text})\n")
    told = words(desk.optimize("--prompt-dry-run"))
    size = re.search(r"desk.tone: about (\d+) tokens in and 256 out", told)
    assert size
    lengths = [len(sent.format(**row)) for row in make_tickets(60)]
    assert int(size[1]) == pytest.approx(sum(lengths) / len(lengths) / 4, abs=8)
    assert "demo" not in told


@pytest.mark.parametrize("options", [(), ("--optimize-prompts",)], ids=["plain", "search"])
def test_an_unknown_price_is_unknown_and_never_nothing(desk: Desk, options: tuple[str, ...]) -> None:
    priced(desk, "")
    told = words(desk.run("--prompt-dry-run", *options))
    assert "cost unknown of at most $1.00" in told
    assert "give dear one in [tool.pytest-promptopt.models]" in told
    assert "$0.00" not in told


def test_a_proposer_without_a_price_makes_the_cost_of_a_search_unknown(desk: Desk) -> None:
    priced(desk)
    told = desk.optimize("--prompt-dry-run", "--prompt-proposer", "openai/nobody-knows-it")
    assert re.search(r"^  copro \(chosen\) .* unknown$", told.stdout.str(), re.MULTILINE)


def test_the_ceiling_in_force_stands_beside_the_total_with_what_it_leaves_to_the_search(desk: Desk) -> None:
    told = words(desk.optimize("--prompt-dry-run", "--prompt-budget", "90", "--prompt-set", "copro.breadth=9"))
    split = split_of(())
    left = 90 - len(split.searchable) - 2 * len(split.test)
    assert "of at most 90" in told
    assert f"{left} calls are left for it" in told


# --- it calls nothing and leaves nothing behind -----------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--optimize-prompts",)], ids=["plain", "search"])
def test_it_calls_nothing_and_writes_nothing(desk: Desk, options: tuple[str, ...]) -> None:
    desk.write("conftest.py", LOUD)
    desk.run("--collect-only")
    before = everything_below(desk.path)
    result = desk.run("--prompt-dry-run", *options)
    assert result.ret == 0, result.stdout.str()
    assert "dry run: nothing is called" in result.stdout.str()
    assert everything_below(desk.path) == before


@pytest.mark.parametrize("options", [(), ("--optimize-prompts",)], ids=["plain", "search"])
def test_no_request_goes_out(desk: Desk, options: tuple[str, ...]) -> None:
    with serving() as server:
        priced(desk, url=server.url)
        result = desk.run("--prompt-dry-run", *options)
    assert result.ret == 0
    assert server.heard == []


def test_no_test_runs_but_the_fixtures_that_make_the_rows_do(desk: Desk) -> None:
    desk.replace(
        "test_desk.py", "    return load_dataset", "    open('made.txt', 'w').close()\n    return load_dataset"
    )
    desk.replace("test_desk.py", "    assert route(", "    open('ran.txt', 'w').close()\n    assert route(")
    desk.write("test_other.py", "def test_other():\n    open('ran.txt', 'w').close()\n")
    for options in ((), ("--optimize-prompts",)):
        assert desk.run("--prompt-dry-run", *options).ret == 0
    assert (desk.path / "made.txt").exists()
    assert not (desk.path / "ran.txt").exists()


def test_a_fixture_that_calls_a_prompt_is_refused_the_call(desk: Desk) -> None:
    desk.replace("test_desk.py", "    return load_dataset", "    route(ticket='a refund')\n    return load_dataset")
    result = desk.run("--prompt-dry-run")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "a dry run calls nothing, and scripted/learner was asked" in words(result)
    assert desk.asked() == []


# --- exit status ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prompt-optimizer", "nonsense"), "Unknown optimizer 'nonsense'"),
        (("--prompt-set", "copro.nonsense=1"), "has no setting 'nonsense'"),
        (("--prompt-model", "nonsense"), "Nobody knows the model 'nonsense'"),
        (("--prompt-budget", "1"), "--prompt-budget 1 is below the reserve"),
        (("--prompt-bless",), "leave out --prompt-bless"),
        (("--prompt-list",), "leave out"),
    ],
)
def test_misuse_is_misuse_here_too(desk: Desk, options: tuple[str, ...], message: str) -> None:
    result = desk.optimize("--prompt-dry-run", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in words(result)


def test_a_budget_below_the_reserve_is_refused_with_the_minimum_of_the_real_run(desk: Desk) -> None:
    def minimum(*options: str) -> str:
        found = re.search(r"give --prompt-budget (\d+) or more", words(desk.optimize("--prompt-budget", "1", *options)))
        assert found
        return found[1]

    told = minimum("--prompt-dry-run")
    assert told == minimum()
    assert desk.optimize("--prompt-dry-run", "--prompt-budget", told).ret == 0


def test_no_model_and_a_folder_that_cannot_be_written_are_misuse_of_a_search(desk: Desk) -> None:
    desk.write("__prompts__", "not a folder")
    unwritable = desk.optimize("--prompt-dry-run")
    assert unwritable.ret == pytest.ExitCode.USAGE_ERROR
    assert "is not a folder" in words(unwritable)
    (desk.path / "__prompts__").unlink()
    desk.ini(model="")
    nameless = desk.optimize("--prompt-dry-run")
    assert nameless.ret == pytest.ExitCode.USAGE_ERROR
    assert "No model is set" in words(nameless) or "no model" in words(nameless).lower()


def test_a_plain_dry_run_needs_no_model(desk: Desk) -> None:
    desk.ini(model="")
    result = desk.run("--prompt-dry-run")
    assert result.ret == 0
    assert "cost unknown" in words(result)
    assert "no model is configured" in words(result)


@pytest.mark.parametrize("options", [("-k", "nothing"), ("--optimize-prompts", "--prompt", "nothing")])
def test_nothing_selected_is_5(desk: Desk, options: tuple[str, ...]) -> None:
    result = desk.run("--prompt-dry-run", *options)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_metric_whose_marker_does_not_fit_its_rows_is_named(desk: Desk) -> None:
    desk.replace("test_desk.py", ", threshold=0.8", ", must_pass=['t-999']")
    result = desk.run("--prompt-dry-run")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "failed test_desk.py::test_routes: must_pass names rows that the dataset does not have: t-999" in words(
        result
    )


def test_rows_that_cannot_be_counted_fail_in_their_own_words_and_the_others_are_counted(desk: Desk) -> None:
    desk.write("test_broken.py", BROKEN)
    for options in ((), ("--optimize-prompts",)):
        result = desk.run("--prompt-dry-run", *options)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        assert "the disk is gone" in words(result)
        assert "failed test_broken.py::test_broken" in words(result)
        assert "test_routes" in result.stdout.str()
        assert calls_of(result, "in all").most >= 60


# --- with pytest's own options ----------------------------------------------------------------------------------------


def test_metrics_and_prompts_are_selected_as_in_the_run_itself(desk: Desk) -> None:
    with_a_second_metric(desk)
    both = desk.optimize("--prompt-dry-run").stdout.str()
    assert "desk.py::route    measured by test_routes" in both
    assert "desk.py::check    measured by test_checks" in both
    for options in (("--prompt", "check"), ("-k", "checks"), ("-m", "second")):
        one = desk.optimize("--prompt-dry-run", *options).stdout.str()
        assert "desk.py::check    measured by test_checks" in one
        assert "desk.py::route    measured" not in one


def test_a_metric_that_is_run_though_none_of_its_prompts_is_searched_is_counted_too(desk: Desk) -> None:
    with_a_second_metric(desk)
    told = desk.optimize("--prompt-dry-run", "--prompt", "check")
    searchable = len(split_of(()).searchable)
    assert calls_of(told, "also") == Range(searchable, searchable)
    assert calls_of(told, "in all").fewest >= 2 * searchable


def test_what_two_baselines_share_is_counted_with_the_first(desk: Desk) -> None:
    desk.write("desk.py", desk.read("desk.py") + CHECK)
    desk.write(
        "test_desk.py", desk.read("test_desk.py") + BOTH.replace(', labels={"route": "team", "check": "team"}', "")
    )
    told = desk.optimize("--prompt-dry-run", "--prompt", "check")
    searchable = len(split_of(()).searchable)
    assert calls_of(told, "baseline") == Range(2 * searchable, 2 * searchable)
    assert calls_of(told, "also") == Range(0, 0)


def test_a_skipped_metric_measures_nothing_and_is_no_failure(desk: Desk) -> None:
    desk.write("test_desk.py", desk.read("test_desk.py") + SHARING.replace("@pytest", "@pytest.mark.skip\n@pytest", 1))
    result = desk.optimize("--prompt-dry-run")
    assert result.ret == 0
    assert "test_is_a_team is skipped, so it measures nothing" in words(result)
    assert "desk.py::route    measured by test_routes\n" in result.stdout.str()


def test_strategies_of_others_are_counted_and_one_that_cannot_be_loaded_is_no_misuse_unless_chosen(desk: Desk) -> None:
    offered = {"theirs": OPTIMIZERS["copro"], "broken": "nowhere:Nothing"}
    hook = f"def pytest_promptopt_optimizers():\n    return {offered!r}\n"
    desk.write("conftest.py", desk.read("conftest.py") + "\n\n" + hook)
    result = desk.optimize("--prompt-dry-run", "--prompt-set", "theirs.depth=1", "--prompt-set", "theirs.breadth=2")
    assert result.ret == 0
    assert of_strategies(result)["theirs"] == of_strategies(result)["copro"]
    assert re.search(r"^  broken +Optimizer 'broken' cannot .* unknown$", result.stdout.str(), re.MULTILINE)
    assert desk.optimize("--prompt-dry-run", "--prompt-optimizer", "broken").ret == pytest.ExitCode.USAGE_ERROR


def test_what_is_strict_about_a_run_is_not_about_a_dry_one(desk: Desk) -> None:
    desk.freeze()
    desk.write("__prompts__/desk.gone@scripted-learner.toml", desk.read(SNAPSHOT).replace("desk.route", "desk.gone"))
    assert desk.run("--prompt-strict", "orphan").ret == pytest.ExitCode.TESTS_FAILED
    assert desk.run("--prompt-strict", "orphan", "--prompt-dry-run").ret == 0


def test_each_of_several_models_is_counted(desk: Desk) -> None:
    models = ("--prompt-model", "scripted/learner", "--prompt-model", "scripted/other")
    told = desk.optimize("--prompt-dry-run", *models)
    for model in ("scripted/learner", "scripted/other"):
        assert f"desk.py::route on {model}    measured by test_routes" in told.stdout.str()
    one = of_strategies(desk.optimize("--prompt-dry-run"))["copro"][1]
    assert calls_of(told, "in all") == Range(2 * one.fewest, 2 * one.most + 19), "the first one's winner on 19 val rows"
    assert "what is found on the models before it is tried on scripted/other too, and counted" in words(told)
    plain = desk.run("--prompt-dry-run", *models)
    assert calls_of(plain, "in all") == Range(120, 120)


def test_workers_typed_are_misuse_and_those_of_addopts_are_switched_off(desk: Desk) -> None:
    typed = desk.run("--prompt-dry-run", "-n", "2", plugins="xdist")
    assert typed.ret == pytest.ExitCode.USAGE_ERROR
    assert "--prompt-dry-run runs in one process; leave out -n" in words(typed)
    desk.ini("addopts = -n 2")
    meant = desk.run("--prompt-dry-run", plugins="xdist")
    assert meant.ret == 0
    assert "-n from addopts is switched off: --prompt-dry-run runs in one process" in words(meant)


def test_in_replay_it_says_that_no_call_goes_out(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    priced(desk)
    monkeypatch.setenv("CI", "1")
    told = words(desk.run("--prompt-dry-run"))
    assert "none of these calls goes out" in told
    assert "60 calls of at most 1000, $0.00" in told


def test_collect_only_stays_what_it_is(desk: Desk) -> None:
    result = desk.run("--prompt-dry-run", "--collect-only")
    assert "<Function test_routes>" in result.stdout.str()
    assert "dry run" not in result.stdout.str()
