"""The terminal's texts, whole: what a reader sees is compared letter by letter."""

from dataclasses import replace
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.evaluation.outcome import Status
from pytest_promptopt.evaluation.statistics import Interval
from pytest_promptopt.gate import Outcome, ScoredRow, Verdict, judge
from pytest_promptopt.optimizers.base import Rejection
from pytest_promptopt.optimizers.driver import Rejected, RoundEnded, Trial, TrialScored
from pytest_promptopt.prompts.candidate import Candidate
from pytest_promptopt.prompts.compiled import CompiledPrompt
from pytest_promptopt.reports import terminal
from pytest_promptopt.reports.events import SearchEnded
from pytest_promptopt.reports.progress import LiveLine
from pytest_promptopt.reports.records import JobReport, MetricReport, PromptState, RowReport, Spending
from pytest_promptopt.reports.words import duration, money

MODEL = "openai/gpt-4.1-mini"
SNAPSHOT = "support/__prompts__/prompts.route@openai-gpt-4.1-mini.toml"
CARD = "You charged my card twice for the same month and now I am overdrawn"


def text_of(block: str) -> str:
    return dedent(block).strip("\n")


def row(
    row_id: str, score: float | None = 1.0, status: Status | None = None, why: str = "", **more: object
) -> RowReport:
    status = status or (Status.PASSED if score == 1.0 else Status.FAILED)
    return RowReport(id=row_id, digest="d", score=score, status=status, why=why, feedback=why, **more)


def rows(passed: int, failed: int = 0) -> tuple[RowReport, ...]:
    """Rows t-001, t-002, … of which the first ``failed`` fail."""
    why = "assert 'account' == 'billing'"
    return tuple(
        row(f"t-{number:03}", 0.0, why=why, text=CARD) if number <= failed else row(f"t-{number:03}", text=CARD)
        for number in range(1, passed + failed + 1)
    )


def verdict(outcome: Outcome = Outcome.PASS, **facts: object) -> Verdict:
    return Verdict(outcome=outcome, **facts)


def unchanged(score: float, low: float, high: float, n: int = 64) -> Verdict:
    return verdict(
        score=score,
        interval=Interval(low=low, high=high),
        baseline_score=score,
        difference=0.0,
        difference_interval=Interval(low=-0.04, high=0.04),
        p=1.0,
        paired_rows=n,
        coverage=1.0,
        provable_drop=0.14,
    )


def report(name: str, of: Verdict, read: tuple[RowReport, ...], **more: object) -> MetricReport:
    facts: dict[str, object] = {
        "nodeid": f"tests/test_support.py::{name}",
        "name": name,
        "owner": f"test_support.{name}",
        "model": MODEL,
        "path": "tests/test_support.py",
        "total_rows": len(read),
        "threshold": None,
        "margin": 0.05,
        "reads": "all",
        "metric_digest": "0" * 16,
        "baseline_path": f"tests/__prompts__/test_support.{name}@openai-gpt-4.1-mini.toml",
        "text_name": "ticket",
        **more,
    }
    return MetricReport(verdict=of, rows=read, **facts)


def prompt(name: str = "prompts.route", standing: str = "frozen", **more: object) -> PromptState:
    facts: dict[str, object] = {
        "digest": "0" * 16,
        "model": MODEL,
        "source_place": "support/prompts.py:7",
        "snapshot_place": SNAPSHOT,
        "frozen_demos": 4,
        **more,
    }
    return PromptState(name=name, standing=standing, **facts)


EDITED = prompt(
    standing="edited",
    before="Decide who answers.\nBilling covers invoices, refunds and card charges.",
    after="Decide who\nanswers. Billing covers invoices.",
)
STALE = prompt(standing="stale", before="Decide who answers.", after="Decide which team answers.")


def worse(**more: object) -> MetricReport:
    of = verdict(
        Outcome.FAIL,
        reasons=("0.734 is below threshold=0.85", "14 of 64 rows lost, 2 gained: worse by 0.188 (p = 0.001)"),
        score=47 / 64,
        interval=Interval(low=0.634, high=0.814),
        is_below_threshold=True,
        paired_rows=64,
        baseline_score=59 / 64,
        difference=-12 / 64,
        difference_interval=Interval(low=-0.28, high=-0.08),
        p=0.00104,
        lost=tuple(f"t-{number:03}" for number in range(1, 15)),
        gained=("t-020", "t-021"),
        coverage=1.0,
        provable_drop=0.14,
    )
    facts: dict[str, object] = {"total_rows": 160, "reads": "sealed", "threshold": 0.85, "prompts": (EDITED,)}
    return report("test_routes_tickets", of, rows(47, 17), **{**facts, **more})


def inconclusive() -> MetricReport:
    of = verdict(
        Outcome.INCONCLUSIVE,
        reasons=("3 of 16 rows lost, 1 gained: worse by 0.125, but chance does that in 19 of 100 runs (p = 0.19)",),
        score=0.75,
        interval=Interval(low=0.55, high=0.88),
        paired_rows=16,
        baseline_score=0.875,
        difference=-0.125,
        difference_interval=Interval(low=-0.33, high=0.11),
        p=0.1875,
        lost=("t-001", "t-002", "t-003"),
        gained=("t-009",),
        coverage=1.0,
        provable_drop=0.395,
        rows_to_settle=97,
    )
    return report("test_sets_priority", of, rows(12, 4), total_rows=40, threshold=0.7, reads="sealed")


def unrecorded() -> MetricReport:
    missing = tuple(row(f"t-{number:03}", None, Status.UNRECORDED, "No reply") for number in range(61, 67))
    of = verdict(Outcome.UNRECORDED, reasons=("6 of 64 rows are not recorded",))
    return report("test_summarises", of, (*rows(58), *missing), prompts=(prompt("prompts.summary"),))


def errored(*messages: str) -> MetricReport:
    failed = tuple(row(f"t-{101 + at}", None, Status.ERROR, message) for at, message in enumerate(messages))
    of = verdict(Outcome.ERRORED, reasons=(f"{len(failed)} of {51 + len(failed)} rows errored",))
    return report("test_translates", of, (*rows(51), *failed), prompts=(prompt("prompts.translate"),))


def first_run(name: str = "test_routes_tickets", **more: object) -> MetricReport:
    of = verdict(score=0.9, interval=Interval(low=0.78, high=0.96), is_first_run=True)
    return report(name, of, rows(27, 3), **{"threshold": 0.85, **more})


def failure(of: MetricReport, is_verbose: bool = False) -> str:
    return terminal.failure_text(of, is_verbose=is_verbose)


def notes(*reports: MetricReport, is_verbose: bool = False, is_ci: bool = False) -> str:
    return "\n".join(terminal.metric_notes(reports, is_verbose=is_verbose, is_ci=is_ci))


# --- what it cost -----------------------------------------------------------------------------------------------------


def test_money_that_was_spent_stands_beside_its_ceiling():
    spent = first_run(spending=Spending(calls=60, replayed=20, attempts=44, cost_usd=0.0042, seconds=3.14))
    (line, *_) = terminal.metric_notes([spent], is_verbose=False, is_ci=False, max_cost_usd=1.0)
    assert line == "60 replies: 20 replayed, 44 called, $0.004 of $1.00, 3.1 s"


def test_the_ceiling_is_left_out_where_nothing_was_called():
    replayed = first_run(spending=Spending(calls=60, replayed=60, seconds=0.1))
    (line, *_) = terminal.metric_notes([replayed], is_verbose=False, is_ci=False, max_cost_usd=1.0)
    assert line == "60 replies: 60 replayed, 0 called, $0.00, 0.1 s"


def test_with_verbosity_each_prompt_and_the_dearest_row_say_what_they_cost():
    costly = (prompt(calls=2, cost_usd=0.0123), prompt("prompts.judge", calls=2, cost_usd=None))
    priced = (replace(row("t-1", 1.0), cost_usd=0.004), replace(row("t-2", 1.0), cost_usd=0.0083))
    of = verdict(score=1.0, interval=Interval(low=0.9, high=1.0), is_first_run=True)
    text = notes(report("test_routes_tickets", of, priced, prompts=costly), is_verbose=True)
    assert "prompts.route: 2 calls, $0.012\n" in text
    assert "prompts.judge: 2 calls, cost unknown\n" in text
    assert "test_routes_tickets: $0.0062 a row, most for t-2 ($0.0083)\n" in text


def test_what_costs_nothing_is_not_told():
    of = verdict(score=1.0, interval=Interval(low=0.9, high=1.0), is_first_run=True)
    assert "cost" not in notes(report("test_routes_tickets", of, rows(9), prompts=(prompt(),)), is_verbose=True)


# --- the table of metrics ---------------------------------------------------------------------------------------------


def test_a_passing_run_fits_into_one_table_and_two_lines():
    paid = Spending(calls=64, replayed=64, attempts=0, cost_usd=0.0, seconds=0.1)
    shared: dict[str, object] = {"total_rows": 160, "reads": "sealed", "spending": paid}
    reports = [
        report("test_routes_tickets", unchanged(59 / 64, 0.85, 0.96), rows(59, 5), threshold=0.85, **shared),
        report("test_sets_priority", unchanged(58 / 64, 0.83, 0.95), rows(58, 6), threshold=0.8, **shared),
        report("test_answers_politely", unchanged(0.874, 0.84, 0.91), rows(64), **shared),
    ]
    assert terminal.metric_table(reports) == text_of(
        """
        metric                   rows  score  90 % interval  floor  since baseline  verdict
        test_routes_tickets    64/160  0.922  0.85 .. 0.96    0.85  unchanged       pass
        test_sets_priority     64/160  0.906  0.83 .. 0.95    0.80  unchanged       pass
        test_answers_politely  64/160  0.874  0.84 .. 0.91       -  unchanged       pass
        """
    )
    assert notes(*reports) == text_of(
        """
        rows: 64 of 160 decide; the search saw the other 96 (must-pass rows always run)
        192 replies: 192 replayed, 0 called, $0.00, 0.3 s
        """
    )


def test_every_verdict_reads_differently_in_the_table():
    stale = replace(unchanged(0.875, 0.79, 0.93), difference=-3 / 64, lost=("a",) * 5, gained=("b",) * 2)
    reports = [
        worse(),
        inconclusive(),
        report("test_stale", stale, rows(56, 8), threshold=0.85, prompts=(STALE,)),
        report("test_edited", unchanged(1.0, 0.96, 1.0), rows(64), prompts=(EDITED,)),
        report("test_grows", replace(unchanged(1.0, 0.96, 1.0), new_rows=("n",)), rows(65)),
        unrecorded(),
        errored(*["rate limit: 429"] * 13),
        first_run("test_first"),
        report("test_ungated", replace(first_run().verdict, is_ungated=True), rows(27, 3)),
        report("test_rewritten", verdict(Outcome.INCONCLUSIVE, score=0.5, reasons=("the metric changed",)), rows(5, 5)),
        report("test_empty", verdict(Outcome.FAIL, reasons=("no row to judge",)), ()),
    ]
    assert terminal.metric_table(reports) == text_of(
        """
        metric                 rows  score  90 % interval  floor  since baseline    verdict
        test_routes_tickets  64/160  0.734  0.63 .. 0.81    0.85  -0.188  -14 +2    FAIL
        test_sets_priority    16/40  0.750  0.55 .. 0.88    0.70  -0.125  -3 +1     inconclusive
        test_stale               64  0.875  0.79 .. 0.93    0.85  -0.047  -5 +2     pass, stale
        test_edited              64  1.000  0.96 .. 1.00       -  unchanged         pass, edited
        test_grows               65  1.000  0.96 .. 1.00       -  unchanged, 1 new  pass
        test_summarises       58/64      -  -                  -  6 not recorded    UNRECORDED
        test_translates       51/64      -  -                  -  13 errors         ERROR
        test_first               30  0.900  0.78 .. 0.96    0.85  first run         pass
        test_ungated             30  0.900  0.78 .. 0.96       -  first run         pass, ungated
        test_rewritten           10  0.500  -                  -  not comparable    inconclusive
        test_empty                0      -  -                  -  no rows           FAIL
        """
    )


def test_must_pass_and_skipped_rows_are_not_among_the_rows_that_decide():
    read = (*rows(10), row("m-1", is_outside_mean=True), row("s-1", None, Status.SKIPPED))
    table = terminal.metric_table([report("test_x", unchanged(1.0, 0.8, 1.0, n=10), read, total_rows=20)])
    assert table.splitlines()[1].split()[1] == "10/20"
    broken = errored("TypeError: no")
    skipped = replace(broken, rows=(*broken.rows, row("s-1", None, Status.SKIPPED)))
    assert terminal.metric_table([skipped]).splitlines()[1].split()[1] == "51/52"


def test_tests_that_share_a_name_are_told_apart_by_their_module():
    first = first_run()
    second = replace(first, nodeid="tests/test_desk.py::test_routes_tickets", owner="test_desk.test_routes_tickets")
    names = [line.split()[0] for line in terminal.metric_table([first, second]).splitlines()[1:]]
    assert names == ["test_support.test_routes_tickets", "test_desk.test_routes_tickets"]


def of_model(name: str, model: str, of: Verdict) -> MetricReport:
    node = f"{name}[{model}]"
    return replace(
        first_run(),
        nodeid=f"tests/test_support.py::{node}",
        name=node,
        owner=f"test_support.{name}",
        model=model,
        verdict=of,
    )


def test_several_models_make_a_table_of_metrics_by_models():
    good, bad = first_run().verdict, replace(worse().verdict, outcome=Outcome.FAIL)
    reports = [
        of_model("test_routes", "offline/keyword", good),
        of_model("test_routes", "offline/chatty", bad),
        of_model("test_sets", "offline/keyword", errored("TypeError: no").verdict),
    ]
    assert terminal.metric_table(reports) == text_of(
        """
        metric       offline/keyword  offline/chatty
        test_routes  0.900  pass      0.734  FAIL
        test_sets    ERROR            -
        """
    )
    details = terminal.metric_table(reports, is_verbose=True).split("\n\n")
    assert [block.splitlines()[0] for block in details[1:]] == ["offline/keyword", "offline/chatty"]


def test_models_that_do_not_fit_side_by_side_get_a_table_of_their_own():
    reports = [
        of_model("test_routes", f"provider/a-rather-long-model-name-{at}", first_run().verdict) for at in range(5)
    ]
    table = terminal.metric_table(reports)
    assert all(len(line) <= 110 for line in table.splitlines())
    assert all(f"name-{at}" in table for at in range(5))


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_regression_shows_rows_reasons_the_change_and_three_ways_on():
    assert failure(worse()) == text_of(
        """
        prompt got worse: 14 of 64 rows lost, 2 gained with prompts.route on openai/gpt-4.1-mini

          score     0.922 (59/64) -> 0.734 (47/64), -0.188, 90 % interval -0.28 .. -0.08, p = 0.001
          floor     0.734 is below threshold=0.85
          changed   support/__prompts__/prompts.route@openai-gpt-4.1-mini.toml, edited since it was frozen
                      - Billing covers invoices, refunds and card charges.
                      + Billing covers invoices.

          lost      why                            ticket
          t-001     assert 'account' == 'billing'  You charged my card twice for the...
          t-002     assert 'account' == 'billing'  You charged my card twice for the...
          t-003     assert 'account' == 'billing'  You charged my card twice for the...
          ... 11 more with -v
          gained    t-020, t-021

          undo      git checkout -- support/__prompts__
          accept    lower the threshold to 0.73, then pytest tests/test_support.py::test_routes_tickets --prompt-bless
          improve   pytest --optimize-prompts --prompt route
        """
    )


def test_verbose_shows_every_lost_row():
    lines = failure(worse(), is_verbose=True).splitlines()
    assert sum(line.startswith("  t-") for line in lines) == 14
    assert not any("more with -v" in line for line in lines)


def test_a_stale_prompt_that_fails_shows_both_ways_out_and_nothing_to_undo():
    above = replace(worse().verdict, is_below_threshold=False, lost=("t-001",), gained=(), new_rows=("n-1",), p=0.0004)
    missing = replace(above, missing_rows=("t-090",), changed_rows=("t-050", "t-051"))
    stale = replace(worse(prompts=(STALE,)), verdict=missing, format_failures=1)
    assert failure(stale) == text_of(
        """
        prompt got worse: 1 of 64 rows lost, 0 gained with prompts.route on openai/gpt-4.1-mini

          score     0.922 (59/64) -> 0.734 (47/64), -0.188, 90 % interval -0.28 .. -0.08, p < 0.001
          changed   support/prompts.py:7, its docstring changed since it was frozen: the source runs, in production too
                      - Decide who answers.
                      + Decide which team answers.
          rows      1 new and 2 changed since the baseline: they count for the threshold only
          rows      1 row of the baseline not read: t-090
          format    1 reply could not be read as the output (format failures)

          lost      why                            ticket
          t-001     assert 'account' == 'billing'  You charged my card twice for the...

          accept    pytest tests/test_support.py::test_routes_tickets --prompt-bless
          improve   pytest --optimize-prompts --prompt route
        """
    )


def test_a_first_run_below_its_floor_can_only_be_improved():
    read = (row("t-1", 0.25, Status.GRADED, "too long", text="Hello"), row("t-2", 0.0, why="empty", text="Bye"))
    of = verdict(
        Outcome.FAIL,
        reasons=("0.612 is below threshold=0.7",),
        score=0.612,
        interval=Interval(low=0.45, high=0.75),
        is_first_run=True,
        is_below_threshold=True,
    )
    first = report("test_x", of, (*read, *rows(3)), threshold=0.7, prompts=(prompt(standing="source"),))
    assert failure(first) == text_of(
        """
        score 0.612 is below threshold=0.7 with prompts.route on openai/gpt-4.1-mini

          score     0.612, 90 % interval 0.45 .. 0.75
          floor     0.612 is below threshold=0.7

          lowest    why            ticket
          t-2       empty          Bye
          t-1       0.25 too long  Hello

          improve   pytest --optimize-prompts --prompt route
        """
    )


def test_failed_rows_without_baseline_or_threshold_are_listed_and_can_be_accepted():
    of = replace(first_run().verdict, outcome=Outcome.FAIL, reasons=("3 of 30 rows failed",))
    first = report("test_x", of, rows(27, 3), prompts=(prompt(standing="source"),))
    assert failure(first) == text_of(
        """
        3 of 30 rows failed with prompts.route on openai/gpt-4.1-mini, and neither baseline nor threshold allows it

          score     0.900 (27/30), 90 % interval 0.78 .. 0.96

          failed    why                            ticket
          t-001     assert 'account' == 'billing'  You charged my card twice for the...
          t-002     assert 'account' == 'billing'  You charged my card twice for the...
          t-003     assert 'account' == 'billing'  You charged my card twice for the...

          accept    pytest tests/test_support.py::test_x --prompt-bless
          improve   pytest --optimize-prompts --prompt route
        """
    )


def test_a_failed_must_pass_row_is_named_and_cannot_be_accepted():
    of = replace(unchanged(1.0, 0.96, 1.0), outcome=Outcome.FAIL, failed_must_pass=("m-1",), reasons=("must-pass",))
    read = (*rows(64), row("m-1", 0.0, why="assert 'bug' == 'billing'", text="Refund", is_outside_mean=True))
    text = failure(report("test_x", of, read, prompts=(prompt(),), must_pass=("m-1",)))
    assert text == text_of(
        """
        must-pass row m-1 failed with prompts.route on openai/gpt-4.1-mini

          score     1.000 (64/64) -> 1.000 (64/64), 0.000, 90 % interval -0.04 .. +0.04, p = 1.00

          must-pass  why                        ticket
          m-1        assert 'bug' == 'billing'  Refund

          improve   pytest --optimize-prompts --prompt route
        """
    )


def test_a_must_pass_row_that_was_lost_is_listed_once():
    of = replace(worse().verdict, failed_must_pass=("t-001",), lost=("t-001",))
    assert failure(replace(worse(), verdict=of)).count("t-001") == 1


def test_an_unproven_drop_below_the_floor_is_not_called_a_regression():
    of = replace(inconclusive().verdict, outcome=Outcome.FAIL, is_below_threshold=True)
    assert failure(replace(inconclusive(), verdict=of, threshold=0.8)).splitlines()[0] == (
        "score 0.750 is below threshold=0.8 on openai/gpt-4.1-mini"
    )


def test_an_edit_that_git_does_not_know_cannot_be_undone_by_git():
    text = failure(worse(prompts=(replace(EDITED, before=None),)))
    assert "edited since it was frozen" in text
    assert "git checkout" not in text


def test_errors_are_grouped_by_message_and_promise_what_another_run_costs():
    limit = "rate limit: 429 after 4 tries"
    assert failure(errored(*[limit] * 12, "timeout: no answer in 60 s")) == text_of(
        """
        no verdict: 13 of 64 rows errored with prompts.translate on openai/gpt-4.1-mini

          12 errors: rate limit: 429 after 4 tries
            rows t-101, t-102, t-103, t-104, t-105, t-106, t-107, t-108 and 4 more
          1 error: timeout: no answer in 60 s
            rows t-113

          Not scored, not a regression. Run again: the replies of 51 rows are kept, 13 will be called.
          again     pytest tests/test_support.py::test_translates
        """
    )


@pytest.mark.parametrize("message", ["TypeError: 'NoneType' object is not iterable", "auth: invalid key"])
def test_what_another_run_cannot_mend_is_not_promised_to_vanish(message):
    assert "Mend the cause, then run again." in failure(errored(message))


def test_unrecorded_rows_are_named_with_the_command_that_records_them():
    assert failure(unrecorded()) == text_of(
        """
        no verdict: 6 of 64 rows are not recorded with prompts.summary on openai/gpt-4.1-mini

          rows      t-061, t-062, t-063, t-064, t-065, t-066
          t-061     No reply

          Not scored, not a regression: this run makes no calls.
          record    pytest tests/test_support.py::test_summarises --prompt-lm record
        """
    )


def test_a_strict_inconclusive_run_says_so_first():
    assert failure(inconclusive()).splitlines()[0] == (
        "inconclusive on openai/gpt-4.1-mini: 3 of 16 rows lost, 1 gained: worse by 0.125, "
        "but chance does that in 19 of 100 runs (p = 0.19)"
    )


def test_an_empty_dataset_is_told_in_the_gates_own_words():
    of = verdict(Outcome.FAIL, reasons=("no row to judge: the dataset is empty",))
    assert failure(report("test_x", of, ())) == "no row to judge: the dataset is empty"


def test_commands_of_a_matrix_name_the_model_beside_the_users_own_node_id():
    failed = of_model("test_routes", "offline/keyword", replace(first_run().verdict, outcome=Outcome.FAIL))
    assert (
        "  accept    pytest tests/test_support.py::test_routes --prompt-bless --prompt-model offline/keyword"
        in failure(replace(failed, threshold=None))
    )


def test_commands_survive_a_shell():
    odd = replace(worse(), nodeid="tests/test_support.py::test_x[a b]")
    assert "pytest 'tests/test_support.py::test_x[a b]' --prompt-bless" in failure(odd)


def test_a_row_cannot_steer_the_terminal():
    evil = replace(worse(), rows=(row("t-001", 0.0, why="\x1b[2Jgone", text="a\nb\x07\u202ec"), *rows(60)[1:]))
    text = failure(evil)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text


# --- under the table --------------------------------------------------------------------------------------------------


def test_nothing_is_said_where_there_is_nothing_to_say():
    assert notes(report("test_x", unchanged(1.0, 0.96, 1.0), rows(64))) == ""


def test_each_odd_verdict_gets_a_paragraph_with_its_way_out():
    stale = report("test_routes_tickets", unchanged(0.875, 0.79, 0.93), rows(56, 8), prompts=(STALE,))
    edited = report(
        "test_edited", unchanged(0.875, 0.79, 0.93), rows(56, 8), prompts=(replace(EDITED, name="p.other"),)
    )
    said = notes(inconclusive(), stale, edited, unrecorded(), errored(*["rate limit: 429"] * 12, "timeout: slow"))
    assert said == text_of(
        """
        rows: 16 of 40 decide; the search saw the other 24 (must-pass rows always run)

        inconclusive  test_sets_priority: worse by 12 points, but chance does that in 19 of 100 runs
                      (p = 0.19). Lost t-001, t-002, t-003. Gained t-009. 16 rows can only prove drops of
                      about 40 points; about 97 would settle this one. Look at the rows it lost, or add
                      rows.
        stale         prompts.route: its docstring changed after it was frozen (support/prompts.py:7), so
                      the source ran here AND RUNS IN PRODUCTION, without its 4 demos.
                      keep the edit: pytest --prompt-bless --prompt route
                      search again:  pytest --optimize-prompts --prompt route
        edited        p.other: support/__prompts__/prompts.route@openai-gpt-4.1-mini.toml was edited after
                      it was frozen; the edit is used and judged.
                      - Billing covers invoices, refunds and card charges.
                      + Billing covers invoices.
                      undo the edit: git checkout -- support/__prompts__/prompts.route@openai-gpt-4.1-mini.toml
                      search again:  pytest --optimize-prompts --prompt other
        unrecorded    test_summarises: the replies of 6 rows are missing (t-061, t-062, t-063, t-064, t-065,
                      t-066).
                      record them with a key: pytest --prompt-lm record
        error         test_translates: rate limit: 429 on 12 rows; timeout: slow on 1 row. Not scored, not a
                      regression. Run again: the replies of 51 rows are kept, 13 will be called.
        """
    )


def test_a_build_server_is_told_where_recordings_are_made():
    assert "record them where a key is, and commit what it writes: pytest --prompt-lm record" in notes(
        unrecorded(), is_ci=True
    )


def test_rows_too_different_to_compare_offer_a_new_baseline():
    of = verdict(Outcome.INCONCLUSIVE, score=0.5, reasons=("the metric changed and could not be scored again",))
    assert notes(report("test_x", of, rows(5, 5))) == text_of(
        """
        inconclusive  test_x: the metric changed and could not be scored again.
                      accept these scores: pytest tests/test_support.py::test_x --prompt-bless
        """
    )


def test_rows_that_all_decide_need_no_explanation():
    assert notes(report("test_x", unchanged(1.0, 0.96, 1.0), rows(64), reads="sealed")) == ""


def test_metrics_that_read_different_shares_are_explained_by_the_table():
    one = report("test_x", unchanged(1.0, 0.96, 1.0), rows(64), reads="sealed", total_rows=160)
    other = report("test_y", unchanged(1.0, 0.96, 1.0), rows(30), reads="sealed", total_rows=160)
    assert notes(one, other) == (
        "rows: the first number decides; the search saw the others (must-pass rows always run)"
    )


def test_a_handful_of_rows_is_told_how_many_are_enough():
    reasons = ("1 of 5 rows lost, 0 gained: worse by 0.200, which fewer than 10 rows cannot prove",)
    few = replace(
        inconclusive().verdict, reasons=reasons, p=None, provable_drop=None, paired_rows=5, lost=(), gained=()
    )
    assert notes(report("test_x", few, rows(4, 1))) == text_of(
        """
        inconclusive  test_x: 1 of 5 rows lost, 0 gained: worse by 0.200, which fewer than 10 rows cannot
                      prove. About 97 rows would settle this one.
        """
    )


def test_a_first_run_is_told_how_to_go_on():
    assert notes(first_run()) == (
        'no baseline yet: "pytest --prompt-bless" accepts these scores, '
        '"pytest --optimize-prompts" tries to better them'
    )


def test_small_things_get_a_line_each():
    odd = report(
        "test_x",
        unchanged(1.0, 0.96, 1.0),
        rows(64),
        skipped=2,
        format_failures=3,
        notes=("test_x: one row at a time, because threads cannot share the fixture tmp_path",),
        spending=Spending(calls=1, replayed=0, attempts=2, cost_usd=None, seconds=75),
    )
    assert notes(odd, is_verbose=True) == text_of(
        """
        1 reply: 0 replayed, 2 called, cost unknown, 1 min 15 s

        skipped       test_x: 2 rows left out by skip or xfail
        format        test_x: 3 replies could not be read as the output (format failures)
        note          test_x: one row at a time, because threads cannot share the fixture tmp_path
        power         test_x: 64 rows can prove drops of about 14 points, in 80 of 100 runs
        """
    )


def test_what_a_failure_told_is_not_told_again():
    assert notes(worse(reads="all", format_failures=3)) == ""


def test_a_stale_prompt_of_two_metrics_is_told_once():
    shared = {"prompts": (STALE,)}
    two = [report(name, unchanged(0.875, 0.79, 0.93), rows(56, 8), **shared) for name in ("test_a", "test_b")]
    assert notes(*two).count("RUNS IN PRODUCTION") == 1


def test_with_several_models_every_note_says_which():
    passing = replace(unchanged(0.875, 0.79, 0.93), coverage=1.0)
    models = ("offline/keyword", "offline/chatty")
    reports = [
        replace(
            of_model("test_routes", model, passing),
            prompts=(replace(STALE, model=model, frozen_demos=0),),
            skipped=1,
        )
        for model in models
    ]
    assert notes(*reports) == text_of(
        """
        stale         prompts.route on offline/keyword: its docstring changed after it was frozen
                      (support/prompts.py:7), so the source ran here AND RUNS IN PRODUCTION.
                      keep the edit: pytest --prompt-bless --prompt route --prompt-model offline/keyword
                      search again:  pytest --optimize-prompts --prompt route --prompt-model offline/keyword
        stale         prompts.route on offline/chatty: its docstring changed after it was frozen
                      (support/prompts.py:7), so the source ran here AND RUNS IN PRODUCTION.
                      keep the edit: pytest --prompt-bless --prompt route --prompt-model offline/chatty
                      search again:  pytest --optimize-prompts --prompt route --prompt-model offline/chatty
        skipped       test_routes on offline/keyword: 1 row left out by skip or xfail
        skipped       test_routes on offline/chatty: 1 row left out by skip or xfail
        """
    )


# --- jobs -------------------------------------------------------------------------------------------------------------

FROZEN = JobReport(
    prompt="prompts.route",
    model=MODEL,
    outcome="frozen",
    metrics=("test_routes_tickets",),
    start_score=0.7083,
    selected_score=0.9375,
    sealed_before=0.71875,
    sealed_after=0.90625,
    sealed_rows=64,
    difference=0.1875,
    interval=Interval(low=0.08, high=0.28),
    p=0.0011,
    alpha=0.2,
    path=SNAPSHOT,
    before="Decide which team should answer this support ticket.",
    after="Decide which team should answer this support ticket. Money that moved (a charge, a refund, an invoice) "
    "is billing even when the customer calls it a bug. Reply with the team only.",
    demos=("t-004 billing", "t-019 bug", "t-077 account", "t-090 billing"),
    spending=Spending(calls=420, attempts=420, cost_usd=0.031),
)
KEPT = JobReport(
    prompt="prompts.priority",
    model=MODEL,
    outcome="kept",
    reason="not proven better",
    metrics=("test_sets_priority",),
    start_score=0.875,
    selected_score=0.8958,
    sealed_before=0.890625,
    sealed_after=0.90625,
    sealed_rows=64,
    difference=0.015625,
    interval=Interval(low=-0.04, high=0.07),
    p=0.34,
    alpha=0.2,
    candidate="p-7f3a",
    kept=".promptopt/kept/p-7f3a",
    before="Say how urgent this ticket is.",
    after="Say how urgent this ticket is. Money is urgent.",
    spending=Spending(calls=371, attempts=371, cost_usd=0.024),
)
HELD = JobReport(prompt="prompts.judge", model=MODEL, outcome="held", reason="optimize=False")


def test_an_optimize_run_ends_in_a_table_what_changed_and_what_to_commit():
    assert terminal.job_table([FROZEN, KEPT, HELD], budget=1000, max_cost_usd=1.0) == text_of(
        """
        prompt            outcome  on select (optimistic)  on sealed rows  p         calls         cost
        prompts.route     frozen   0.708 -> 0.938          0.719 -> 0.906  0.001       420       $0.031
        prompts.priority  kept     0.875 -> 0.896          0.891 -> 0.906  0.34        371       $0.024
        prompts.judge     held     -                       -               -             0        $0.00
                                                                                  791/1000  $0.055/1.00
        """
    )
    written = ["tests/__prompts__/test_support.test_routes_tickets@openai-gpt-4.1-mini.toml"]
    assert "\n".join(terminal.job_notes([FROZEN, KEPT, HELD], written=written)) == text_of(
        """
        prompts.route: what changed
          + Money that moved (a charge, a refund, an invoice) is billing even when the customer
          + calls it a bug. Reply with the team only.
          + 4 demos: t-004 billing, t-019 bug, t-077 account, t-090 billing
        next: git add support/__prompts__ tests/__prompts__ && git commit
        """
    )


def test_without_a_ceiling_the_totals_stand_alone():
    assert terminal.job_table([KEPT], budget=None, max_cost_usd=None).splitlines()[-1].split() == ["371", "$0.024"]


def test_v_shows_what_a_winner_that_is_kept_would_change_and_how_to_freeze_it():
    assert terminal.job_notes([KEPT, HELD], is_verbose=True) == [
        "prompts.priority: what p-7f3a would change",
        "  + Money is urgent.",
        "freeze p-7f3a unconfirmed: the same command with --prompt-freeze p-7f3a",
    ]


def test_what_nothing_confirms_says_so_in_its_line_and_in_the_table():
    unconfirmed = replace(FROZEN, unconfirmed="not proven better")
    assert terminal.outcome_line(unconfirmed) == (
        f"  frozen, unconfirmed {SNAPSHOT}; not proven better   420 calls  $0.031"
    )
    assert "prompts.route  frozen, unconfirmed  " in terminal.job_table([unconfirmed], budget=None, max_cost_usd=None)


def test_why_a_winner_that_was_meant_is_not_frozen_is_said():
    found = replace(FROZEN, candidate="p-1a2b")
    assert terminal.not_frozen_line("p-1a2b", [found, KEPT]) == ""
    assert terminal.not_frozen_line("p-7f3a", [found, KEPT]) == (
        "--prompt-freeze p-7f3a: not frozen, because not proven better"
    )
    assert terminal.not_frozen_line("p-0000", [found, KEPT]) == (
        "--prompt-freeze p-0000: no search found it; found instead: p-1a2b (prompts.route, frozen), "
        "p-7f3a (prompts.priority, kept)"
    )
    assert terminal.not_frozen_line("p-0000", [HELD]) == (
        "--prompt-freeze p-0000: no search found it; found instead: nothing better than the source"
    )


def test_a_run_that_wrote_nothing_has_nothing_to_commit():
    assert terminal.job_notes([KEPT, HELD]) == []


def test_what_stands_below_its_threshold_is_loud():
    below = replace(KEPT, below=("test_sets_priority 0.612 on the 64 sealed rows, below threshold=0.7",))
    assert terminal.job_notes([below]) == [
        "BELOW THRESHOLD: prompts.priority: test_sets_priority 0.612 on the 64 sealed rows, below",
        "                 threshold=0.7",
    ]


def test_a_job_tells_its_course_in_aligned_lines():
    first = RoundEnded(
        text="6 instructions proposed, 1 rejected (copies row t-051)",
        round=1,
        rounds=3,
        best_score=0.792,
        start_score=0.708,
        calls=161,
        max_calls=1000,
    )
    second = replace(first, text="4 edits, 6 demo sets", round=2, best_score=0.917, calls=239)
    lines = [
        terminal.job_heading("support/prompts.py::route", FROZEN.metrics),
        terminal.rows_line(48, 48, 64, is_merged=False, provable_gain=0.14),
        terminal.start_line(0.708, 96, 0.007),
        terminal.round_line(first),
        terminal.round_line(second),
        terminal.confirm_line(FROZEN),
        terminal.outcome_line(FROZEN),
        terminal.confirm_line(KEPT),
        terminal.outcome_line(KEPT),
    ]
    assert "\n".join(lines) == text_of(
        """
        support/prompts.py::route    measured by test_routes_tickets
          rows      160 = 48 train + 48 select + 64 sealed; the sealed rows can prove gains of about 14 points
          start     0.708                                                                 96 calls  $0.007
          round 1   6 instructions proposed, 1 rejected (copies row t-051)  best 0.792   161
          round 2   4 edits, 6 demo sets                                    best 0.917   239
          confirm   0.719 -> 0.906 on the 64 sealed rows, +0.188, 90 % interval +0.08 .. +0.28, p = 0.001
          frozen    support/__prompts__/prompts.route@openai-gpt-4.1-mini.toml   420 calls  $0.031
          confirm   0.891 -> 0.906 on the 64 sealed rows, +0.016, 90 % interval -0.04 .. +0.07, p = 0.34 (needs 0.2)
          kept      not proven better; the candidate stays in .promptopt/kept/p-7f3a   371 calls  $0.024
        """
    )


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            terminal.rows_line(9, 9, 6, is_merged=True, provable_gain=None),
            "  rows      15 = 9 train and select + 6 sealed",
        ),
        (terminal.confirm_line(HELD), ""),
        (terminal.outcome_line(HELD), "  held      optimize=False   0 calls  $0.00"),
        (terminal.job_heading("a.py::p", ()), "a.py::p    no metric covers it"),
        (
            terminal.outcome_line(replace(FROZEN, outcome="unchanged", spending=Spending(calls=420, replayed=420))),
            f"  unchanged {SNAPSHOT}   0 calls, everything from the store",
        ),
        (
            terminal.outcome_line(replace(KEPT, is_cut=True, spending=Spending(calls=1, attempts=1, cost_usd=None))),
            "  kept      not proven better; the candidate stays in .promptopt/kept/p-7f3a; the budget ended the search"
            "   1 call  cost unknown",
        ),
        (
            terminal.outcome_line(replace(KEPT, reason="nothing better was found", selected_score=0.875, kept="")),
            "  kept      nothing better was found   371 calls  $0.024",
        ),
        (
            terminal.outcome_line(replace(FROZEN, leads_group=False, spending=Spending())),
            f"  frozen    {SNAPSHOT}",
        ),
    ],
)
def test_a_job_has_a_line_for_every_ending(line, text):
    assert line == text


# --- while a search runs ----------------------------------------------------------------------------------------------


class Terminal:
    """What a terminal would show, and the clock on its wall."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.rewritten: list[str] = []
        self.seconds = 0.0

    def live_line(self, is_terminal: bool, **more: object) -> LiveLine:
        return LiveLine(self.kept.append, self.rewritten.append, is_terminal, lambda: self.seconds, **more)


TRIAL = TrialScored(
    trial=Trial(candidate=Candidate({"prompts.route": CompiledPrompt(instruction="Route.")}), score=0.9),
    best_score=0.917,
    start_score=0.708,
    calls=239,
    max_calls=1000,
)


def round_ended(number: int) -> RoundEnded:
    return RoundEnded(
        text="4 edits", round=number, rounds=3, best_score=0.917, start_score=0.708, calls=239, max_calls=1000
    )


def test_the_live_line_says_where_the_search_stands_and_how_long_it_takes():
    screen = Terminal()
    line = screen.live_line(True, cost_usd=lambda: 0.018, max_cost_usd=1.0, columns=100)
    line.begin("prompts.route")
    screen.seconds = 50.0
    line(round_ended(2))
    assert screen.rewritten == ["route  round 2/3  best 0.917 (start 0.708)  239/1000 calls  $0.018/1.00  ~25 s left"]
    line.end()
    assert screen.rewritten[-1] == ""


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (79, "route  round 2/3  best 0.917  239/1000 calls  $0.018/1.00  ~25 s left"),
        (40, "route  round 2/3  best 0.917  239/1000 c"),
    ],
)
def test_the_live_line_never_wraps(columns, text):
    screen = Terminal()
    line = screen.live_line(True, cost_usd=lambda: 0.018, max_cost_usd=1.0, columns=columns)
    line.begin("prompts.route")
    screen.seconds = 50.0
    line(round_ended(2))
    assert screen.rewritten == [text]


def test_before_the_first_round_ends_nobody_guesses():
    screen = Terminal()
    line = screen.live_line(True)
    line.begin("route")
    line(replace(TRIAL, max_calls=None))
    assert screen.rewritten == ["route  best 0.917 (start 0.708)  239 calls"]


def test_a_search_that_is_through_promises_no_time():
    screen = Terminal()
    line = screen.live_line(True)
    line.begin("route")
    screen.seconds = 50.0
    line(round_ended(3))
    assert "left" not in screen.rewritten[0]


def test_after_a_round_the_next_one_is_running_until_the_last():
    screen = Terminal()
    line = screen.live_line(True)
    line.begin("route")
    for number in (1, 3):
        line(round_ended(number))
        screen.seconds += 1
        line(TRIAL)
    assert [text.split("  ")[1] for text in screen.rewritten if text] == [
        "round 1/3",
        "round 2/3",
        "round 3/3",
        "round 3/3",
    ]


def test_trials_rewrite_the_live_line_at_most_five_times_a_second():
    screen = Terminal()
    line = screen.live_line(True)
    line.begin("route")
    for tick in range(100):
        screen.seconds = tick / 100
        line(TRIAL)
    assert len(screen.rewritten) == 5


def test_without_a_terminal_each_round_is_one_line_and_nothing_is_rewritten():
    screen = Terminal()
    line = screen.live_line(False)
    line.begin("route")
    line(TRIAL)
    line(Rejected(rejection=Rejection(subject="no", reason="a copy")))
    line(round_ended(1))
    line.end()
    assert screen.kept == [terminal.round_line(round_ended(1))]
    assert screen.rewritten == []


def test_proposals_that_no_round_counted_are_told_when_the_search_ends():
    screen = Terminal()
    line = screen.live_line(is_terminal=False)
    texts = ("copies row t-007", "copies row t-000", "repeated", "repeated")
    events = [Rejected(rejection=Rejection(subject="Be kind.", reason=reason, has_run=False)) for reason in texts]
    line(events[0])
    line(round_ended(1))
    for event in events[1:]:
        line(event)
    line(SearchEnded(outcome="kept"))
    line(SearchEnded(outcome="kept"))
    assert [text.strip() for text in screen.kept[1:]] == ["rejected  3 proposals: copies row t-000, 2 repeated"]


def test_a_winner_of_fewer_than_all_val_rows_says_so():
    assert "; chosen on 8 of 34 val rows;" in terminal.outcome_line(
        replace(KEPT, selected_rows=8, val_rows=34, is_cut=True)
    )
    assert "val rows" not in terminal.outcome_line(replace(KEPT, selected_rows=34, val_rows=34))


def test_a_kept_line_never_lands_on_the_live_one():
    screen = Terminal()
    shown: list[str] = []
    line = LiveLine(lambda text: shown.append(f"kept {text}"), shown.append, True, lambda: screen.seconds)
    line.begin("route")
    line(TRIAL)
    line(round_ended(1))
    assert shown[1] == ""
    assert shown[2].startswith("kept   round 1")


# --- whatever comes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cost_usd", "text"),
    [
        (None, "cost unknown"),
        (0.0, "$0.00"),
        (0.0001, "<$0.001"),
        (0.0312, "$0.031"),
        (0.9999, "$1.00"),
        (12.5, "$12.50"),
    ],
)
def test_money_is_as_fine_as_it_matters(cost_usd, text):
    assert money(cost_usd) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.31, "0.3 s"), (9.96, "10 s"), (59.7, "1 min 0 s"), (185, "3 min 5 s")]
)
def test_durations_read_like_clocks(seconds, text):
    assert duration(seconds) == text


SCORES = st.sampled_from([0.0, 0.25, 1.0])
PAIRS = st.lists(st.tuples(SCORES, SCORES, st.text(max_size=120)), max_size=40)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    pairs=PAIRS,
    threshold=st.none() | st.floats(0, 1, allow_subnormal=False),
    standing=st.sampled_from(["frozen", "stale", "edited", "source"]),
    has_baseline=st.booleans(),
    errored_rows=st.integers(0, 3),
    is_verbose=st.booleans(),
)
def test_every_verdict_of_the_gate_has_a_text_that_fits_and_no_table_line_runs_over(
    pairs, threshold, standing, has_baseline, errored_rows, is_verbose
):
    read = [row(f"r-{at}", new, why=text, text=text) for at, (_, new, text) in enumerate(pairs)]
    old = {f"r-{at}": ScoredRow(id=f"r-{at}", digest="d", score=score) for at, (score, _, _) in enumerate(pairs)}
    of = judge(
        [ScoredRow(id=each.id, digest=each.digest, score=each.score) for each in read],
        baseline=old if has_baseline else None,
        threshold=threshold,
        errored=errored_rows,
    )
    bad = [row(f"e-{at}", None, Status.ERROR, "rate limit: slow down") for at in range(errored_rows)]
    changed = prompt(standing=standing, before="Do this. Then that.", after="Do that.")
    whole = report("test_x", of, (*read, *bad), threshold=threshold, prompts=(changed,))
    said = "\n".join([failure(whole, is_verbose) if of.outcome is not Outcome.PASS else "", notes(whole)])
    assert all(sign == "\n" or sign.isprintable() for sign in said)
    assert all(len(line) <= 100 for line in terminal.metric_table([whole]).splitlines())
    assert not any(line.startswith("  r-") and len(line) > 100 for line in said.splitlines())
