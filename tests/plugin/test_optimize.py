"""The optimize run: what it writes and says, which metrics and prompts it takes, and how pytest's flags serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.plugin.projects import BASELINE, GOOD_INSTRUCTION, SNAPSHOT, Desk, make_tickets, stray_files, words

CHECK = '''

@prompt
def check(ticket: str) -> Literal["billing", "bug", "account"]:
    """Check which team should answer."""
'''
"""A second prompt, beside ``route``."""

CHECKS = """

from desk import check


@pytest.mark.prompt_metric("tickets")
def test_checks(example):
    assert check(ticket=example["ticket"]) == example["team"]
"""
"""A metric of its own for the second prompt."""

BOTH = """

from desk import check


@pytest.mark.prompt_metric("tickets")
def test_both(example):
    answers = [route(ticket=example["ticket"]), check(ticket=example["ticket"])]
    return answers.count(example["team"]) / 2
"""
"""One metric that calls both prompts."""

CHECK_SNAPSHOT = "__prompts__/desk.check@scripted-learner.toml"


def _desk_with_two_prompts(project: Any, metrics: str = CHECKS) -> Desk:
    desk = Desk(project)
    desk.write("desk.py", desk.read("desk.py") + CHECK)
    desk.write("test_desk.py", desk.read("test_desk.py") + metrics)
    return desk


# --- what it writes and says ------------------------------------------------------------------------------------------


def test_a_search_freezes_a_confirmed_winner_and_shows_its_scores_and_calls(project: Any) -> None:
    desk = Desk(project)
    result = desk.optimize()
    assert result.ret == 0
    assert [*desk.frozen_files()] == [SNAPSHOT, BASELINE]
    job = desk.jobs()["desk.route"]
    assert job["outcome"] == "frozen"
    assert job["spending"]["attempts"] == len(desk.asked())
    result.stdout.fnmatch_lines(
        [
            "desk.py::route    measured by test_routes",
            "*rows*60 = * train + * select + * sealed; *",
            "*start*calls*",
            "*round 1*1 instruction proposed*best 1.000*",
            f"*confirm*{job['sealed_before']:.3f} -> {job['sealed_after']:.3f} on the {job['sealed_rows']} sealed rows*"
            "90 % interval*p < 0.001",
            f"*frozen*{SNAPSHOT}*{len(desk.asked())} calls*",
            "prompt*outcome*on select (optimistic)*on sealed rows*p*calls*",
            f"desk.route*frozen*{job['start_score']:.3f} -> {job['selected_score']:.3f}*"
            f"{job['sealed_before']:.3f} -> {job['sealed_after']:.3f}*{len(desk.asked())}*",
        ]
    )


def test_a_second_search_calls_nothing_and_touches_no_file(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    before = desk.frozen_files()
    times = {name: (desk.path / name).stat().st_mtime_ns for name in before}
    desk.forget_asked()
    result = desk.optimize()
    assert result.ret == 0
    assert desk.asked() == []
    assert desk.frozen_files() == before
    assert {name: (desk.path / name).stat().st_mtime_ns for name in before} == times
    result.stdout.fnmatch_lines(["*unchanged*0 calls, everything from the store*"])
    assert desk.jobs()["desk.route"]["sealed_after"] == 1.0


@pytest.mark.parametrize("lost", ["replies", "files", "both"])
def test_the_same_search_ends_in_the_same_bytes_whatever_was_kept_of_the_last_one(project: Any, lost: str) -> None:
    desk = Desk(project)
    desk.freeze()
    before = desk.frozen_files()
    if lost in ("replies", "both"):
        desk.forget_replies()
    if lost in ("files", "both"):
        for name in before:
            (desk.path / name).unlink()
    assert desk.optimize().ret == 0
    assert desk.frozen_files() == before


def test_a_plain_run_passes_after_a_search_without_a_call(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    desk.forget_asked()
    result = desk.run()
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    assert desk.asked() == []
    assert desk.figure()["prompts"][0]["standing"] == "frozen"


def test_every_model_gets_its_own_job_snapshot_and_baseline(project: Any) -> None:
    desk = Desk(project)
    both = ("--prompt-model", "scripted/learner", "--prompt-model", "scripted/other")
    result = desk.optimize("-v", *both)
    assert result.ret == 0
    assert set(desk.frozen_files()) == {
        f"__prompts__/{owner}@scripted-{model}.toml"
        for owner in ("desk.route", "test_desk.test_routes")
        for model in ("learner", "other")
    }
    assert [*desk.jobs()] == ["desk.route on scripted/learner", "desk.route on scripted/other"]
    assert {line["model"] for line in desk.asked()} == {"scripted/learner", "scripted/other"}
    result = desk.run("-v", *both)
    result.stdout.fnmatch_lines(
        ["*::test_routes[[]scripted/learner] PASSED*", "*::test_routes[[]scripted/other] PASSED*"]
    )
    assert result.ret == 0


def test_the_closing_line_names_every_folder_that_was_written_to(project: Any) -> None:
    desk = Desk(project)
    desk.write("tests/test_desk.py", desk.read("test_desk.py"))
    (desk.path / "test_desk.py").unlink()
    (desk.path / "tickets.jsonl").rename(desk.path / "tests" / "tickets.jsonl")
    result = desk.optimize()
    assert {str(Path(name).parent) for name in desk.frozen_files()} == {"__prompts__", "tests/__prompts__"}
    result.stdout.fnmatch_lines(["next: git add __prompts__ tests/__prompts__ && git commit"])


def test_too_few_sealed_rows_freeze_nothing_and_say_how_many_more_are_needed(project: Any) -> None:
    desk = Desk(project, rows=20)
    desk.replace("test_desk.py", ", threshold=0.8", "")
    result = desk.optimize()
    assert result.ret == 0
    assert desk.frozen_files() == {}
    assert "test_routes has 8 sealed rows, 10 are needed to confirm anything: add about 5 rows" in words(result)


def test_a_search_that_finds_nothing_better_writes_nothing_and_is_no_failure(project: Any) -> None:
    desk = Desk(project)
    desk.replace("desk.py", "Decide which team should answer.", GOOD_INSTRUCTION)
    result = desk.optimize()
    assert result.ret == 0
    assert desk.frozen_files() == {}
    assert desk.jobs()["desk.route"]["outcome"] == "kept"


def test_what_stays_below_its_threshold_ends_in_a_loud_line_and_exit_status_1(project: Any) -> None:
    desk = Desk(project)
    desk.write(
        "trouble.py", "def trouble(request, is_proposal):\n    return '```\\nBe kind.\\n```' if is_proposal else None\n"
    )
    result = desk.optimize()
    assert result.ret == 1
    assert desk.jobs()["desk.route"]["outcome"] == "kept"
    result.stdout.fnmatch_lines(["BELOW THRESHOLD: desk.route: test_routes *below threshold=0.8*"])


def test_a_harmful_source_instruction_is_repaired(project: Any) -> None:
    desk = Desk(project)
    desk.replace("desk.py", "Decide which team should answer.", "Always answer account, whatever the ticket says.")
    assert desk.optimize().ret == 0
    assert "Choose billing for" in desk.read(SNAPSHOT)
    assert "Always answer account" not in desk.read(SNAPSHOT)


# --- what is searched -------------------------------------------------------------------------------------------------


def test_collect_only_lists_jobs_by_the_prompts_own_place_and_calls_nothing(project: Any) -> None:
    desk = _desk_with_two_prompts(project)
    result = desk.optimize("--collect-only", "-q")
    result.stdout.fnmatch_lines(["desk.py::route", "desk.py::check"], consecutive=True)
    result.stdout.no_fnmatch_line("*test_desk.py::*")
    assert result.ret == 0
    assert desk.asked() == []
    assert desk.frozen_files() == {}


def test_k_chooses_the_metrics_that_count(project: Any) -> None:
    desk = Desk(project)
    second = desk.read("test_desk.py").replace("def test_routes", "def test_other").partition("@pytest.mark.prompt")
    desk.write("test_desk.py", desk.read("test_desk.py") + "\n\n" + second[1] + second[2])
    desk.optimize("-k", "routes")
    assert desk.jobs()["desk.route"]["metrics"] == ["test_routes"]
    assert [*desk.frozen_files()] == [SNAPSHOT, BASELINE]
    desk.optimize()
    assert desk.jobs()["desk.route"]["metrics"] == ["test_routes", "test_other"]


def test_a_path_chooses_the_metrics_that_count(project: Any) -> None:
    desk = Desk(project)
    desk.write("test_more.py", desk.read("test_desk.py").replace("def test_routes", "def test_more"))
    result = desk.optimize("test_more.py")
    assert result.ret == 0
    assert desk.jobs()["desk.route"]["metrics"] == ["test_more"]


def test_metrics_in_two_modules_measure_one_prompt_together(project: Any) -> None:
    desk = Desk(project)
    desk.write("test_more.py", desk.read("test_desk.py").replace("def test_routes", "def test_more"))
    result = desk.optimize()
    assert result.ret == 0
    assert desk.jobs()["desk.route"]["metrics"] == ["test_routes", "test_more"]
    assert {SNAPSHOT, BASELINE, "__prompts__/test_more.test_more@scripted-learner.toml"} == set(desk.frozen_files())
    desk.run().assert_outcomes(passed=2)


def test_prompt_chooses_what_is_searched_and_holds_the_others_as_they_stand(project: Any) -> None:
    desk = _desk_with_two_prompts(project, BOTH)
    desk.replace("test_desk.py", "threshold=0.8", "threshold=0.0")
    assert desk.optimize("--prompt", "route").ret == 0
    assert SNAPSHOT in desk.frozen_files()
    assert CHECK_SNAPSHOT not in desk.frozen_files()
    held = desk.frozen_files()[SNAPSHOT]
    desk.forget_asked()
    result = desk.optimize("--prompt", "desk.che*")
    assert result.ret == 0
    assert [*desk.jobs()] == ["desk.check"]
    assert desk.frozen_files()[SNAPSHOT] == held
    of_route = [line for line in desk.asked() if line["system"].startswith("Decide") and not line["is_proposal"]]
    assert all("Choose billing for" in line["system"] for line in of_route)
    assert desk.jobs()["desk.check"]["sealed_before"] >= 0.5  # route as frozen gives half a point on every row


def test_prompts_that_share_a_metric_are_searched_together(project: Any) -> None:
    desk = _desk_with_two_prompts(project, BOTH)
    result = desk.optimize()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["desk.py::route, desk.py::check    measured by test_routes, test_both"])
    jobs = desk.jobs()
    assert jobs["desk.route"]["selected_score"] == jobs["desk.check"]["selected_score"] == 1.0
    assert {SNAPSHOT, CHECK_SNAPSHOT} < set(desk.frozen_files())
    assert jobs["desk.check"]["spending"]["attempts"] == 0
    assert jobs["desk.route"]["spending"]["attempts"] == len(desk.asked())


def test_prompts_without_a_common_metric_are_searched_one_by_one(project: Any) -> None:
    desk = _desk_with_two_prompts(project)
    assert desk.optimize().ret == 0
    jobs = desk.jobs()
    assert (jobs["desk.route"]["metrics"], jobs["desk.check"]["metrics"]) == (["test_routes"], ["test_checks"])
    assert sum(job["spending"]["attempts"] for job in jobs.values()) == len(desk.asked())
    assert {SNAPSHOT, CHECK_SNAPSHOT} < set(desk.frozen_files())


def test_a_prompt_that_no_metric_calls_is_skipped_with_words(project: Any) -> None:
    desk = _desk_with_two_prompts(project, "")
    result = desk.optimize("-rs")
    assert result.ret == 0
    result.assert_outcomes(skipped=1, deselected=1)
    result.stdout.fnmatch_lines(["SKIPPED*desk.py*no selected metric calls this prompt"])
    assert [*desk.jobs()] == ["desk.route"]


def test_a_prompt_that_is_not_to_be_optimized_gets_no_job(project: Any) -> None:
    desk = _desk_with_two_prompts(project)
    desk.replace("desk.py", "@prompt\ndef check", "@prompt(optimize=False)\ndef check")
    result = desk.optimize("--collect-only", "-q")
    result.stdout.fnmatch_lines(["desk.py::route"])
    result.stdout.no_fnmatch_line("desk.py::check")


@pytest.mark.parametrize("arguments", [("-k", "nothing"), ("--prompt", "nothing")])
def test_a_run_that_selects_nothing_ends_with_exit_status_5(project: Any, arguments: tuple[str, str]) -> None:
    desk = Desk(project)
    result = desk.optimize(*arguments)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert desk.asked() == []


def test_every_parameter_of_a_metric_counts_and_keeps_its_own_baseline(project: Any) -> None:
    desk = Desk(project)
    desk.replace("test_desk.py", "def test_routes(example)", "def test_routes(example, greeting)")
    desk.replace("test_desk.py", 'ticket=example["ticket"]', 'ticket=greeting + example["ticket"]')
    desk.replace(
        "test_desk.py",
        "@pytest.mark.prompt_metric",
        '@pytest.mark.parametrize("greeting", ["Hi! ", "Oh! "])\n@pytest.mark.prompt_metric',
    )
    assert desk.optimize().ret == 0
    assert desk.jobs()["desk.route"]["metrics"] == ["test_routes[Hi! ]", "test_routes[Oh! ]"]
    assert len(desk.frozen_files()) == 3
    desk.forget_asked()
    desk.run().assert_outcomes(passed=2)
    assert desk.asked() == []


def test_a_metric_that_is_skipped_measures_nothing(project: Any) -> None:
    desk = Desk(project)
    more = desk.read("test_desk.py").partition("@pytest.mark.prompt_metric")
    skipped = more[2].replace("test_routes", "test_skipped")
    desk.write("test_desk.py", f"{desk.read('test_desk.py')}\n\n@pytest.mark.skip\n{more[1]}{skipped}")
    assert desk.optimize().ret == 0
    assert desk.jobs()["desk.route"]["metrics"] == ["test_routes"]
    assert set(desk.frozen_files()) == {SNAPSHOT, BASELINE}


def test_rows_that_the_metric_skips_are_left_out_of_search_and_baseline(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    desk.run()
    left_out = desk.figure()["rows"][0]["id"]
    desk = Desk.anew(project)
    desk.replace(
        "test_desk.py",
        "    assert route",
        f'    if example.id in ("{left_out}", "t-002"):\n        pytest.skip("not for us")\n    assert route',
    )
    assert desk.optimize().ret == 0
    assert desk.jobs()["desk.route"]["sealed_rows"] == 20
    assert left_out not in desk.read(BASELINE)
    assert desk.run().ret == 0


def _add_metric_that_wants_account(desk: Desk, options: str) -> None:
    """It scores 1 under the source, which answers ``account`` to everything, and 0.43 under the taught prompt."""
    text = f"""

@pytest.mark.prompt_metric("tickets"{options})
def test_stays_modest(example):
    assert route(ticket=example["ticket"]) == "account"
"""
    desk.write("test_desk.py", desk.read("test_desk.py").replace("threshold=0.8", "weight=9.0") + text)


def test_a_winner_that_makes_one_metric_worse_is_vetoed_however_good_it_is_on_the_whole(project: Any) -> None:
    desk = Desk(project)
    _add_metric_that_wants_account(desk, "")
    result = desk.optimize()
    assert result.ret == 0
    job = desk.jobs()["desk.route"]
    assert job["outcome"] == "kept"
    assert job["sealed_after"] > job["sealed_before"]
    assert "test_stays_modest got worse (1.000 -> 0.429)" in words(result)
    assert SNAPSHOT not in desk.frozen_files()


def test_a_winner_may_not_push_a_metric_below_its_threshold(project: Any) -> None:
    desk = Desk(project)
    _add_metric_that_wants_account(desk, ", threshold=0.9, margin=0.9")
    desk.optimize()
    job = desk.jobs()["desk.route"]
    assert job["outcome"] == "kept"
    assert SNAPSHOT not in desk.frozen_files()


# --- pytest's own flags -----------------------------------------------------------------------------------------------


def test_junit_and_durations_speak_of_the_prompt(project: Any) -> None:
    desk = Desk(project)
    result = desk.optimize("--junitxml=report.xml", "--durations=0", "-vv")
    (case,) = ElementTree.parse(desk.path / "report.xml").iter("testcase")
    assert (case.get("classname"), case.get("name")) == ("desk", "route")
    result.stdout.fnmatch_lines(["*s call*desk.py::route"])


def test_x_stops_after_a_job_that_failed(project: Any) -> None:
    desk = _desk_with_two_prompts(project)
    desk.write(
        "trouble.py",
        """
        from pytest_promptopt.errors import LMError, LMErrorKind

        def trouble(request, is_proposal):
            if is_proposal:
                return LMError("no such key", kind=LMErrorKind.AUTH)
    """,
    )
    result = desk.optimize("-x")
    result.assert_outcomes(failed=1, deselected=2)
    assert result.ret == 1
    desk.optimize().assert_outcomes(failed=2, deselected=2)


def test_failed_jobs_are_no_tests_to_run_again(project: Any) -> None:
    desk = Desk(project)
    desk.write("test_plain.py", "def test_plain():\n    assert False\n")
    assert desk.run().ret == 1
    remembered = desk.read(".pytest_cache/v/cache/lastfailed")
    desk.replace("test_desk.py", 'example["team"]', 'example["nothing"]')
    desk.optimize().assert_outcomes(failed=1, deselected=2)
    assert desk.read(".pytest_cache/v/cache/lastfailed") == remembered


def test_fixtures_live_as_long_as_their_scope_says_through_a_whole_search(project: Any) -> None:
    desk = Desk(project)
    desk.write(
        "test_desk.py",
        """
        import pytest

        from desk import route
        from pytest_promptopt import load_dataset

        def log(event):
            with open("events.txt", "a") as file:
                file.write(event + "\\n")

        @pytest.fixture(scope="session")
        def tickets():
            log("session up")
            yield load_dataset("tickets.jsonl")
            log("session down")

        @pytest.fixture(scope="module")
        def shop():
            log("module up")
            yield
            log("module down")

        @pytest.fixture
        def till():
            log("function up")
            yield
            log("function down")

        @pytest.mark.prompt_metric("tickets")
        def test_routes(example, shop, till):
            assert route(ticket=example["ticket"]) == example["team"]
    """,
    )
    assert desk.optimize().ret == 0
    events = desk.read("events.txt").splitlines()
    for scope in ("session", "module"):
        assert (events.count(f"{scope} up"), events.count(f"{scope} down")) == (1, 1)
    assert events.count("function up") == events.count("function down") > 3
    assert events[0] == "session up"
    assert events[-2:] == ["module down", "session down"]


def test_a_fixture_that_fails_is_the_jobs_failure(project: Any) -> None:
    desk = Desk(project)
    desk.replace("test_desk.py", 'return load_dataset("tickets.jsonl")', 'raise OSError("the shelf is empty")')
    result = desk.optimize()
    result.assert_outcomes(failed=1, deselected=1)
    assert result.ret == 1
    assert "the shelf is empty" in words(result)
    assert desk.asked() == []
    assert desk.frozen_files() == {}


@pytest.mark.parametrize(("plugin", "mark"), [("asyncio", "asyncio"), ("anyio", "anyio")])
def test_async_metrics_are_searched_like_others(project: Any, plugin: str, mark: str) -> None:
    desk = Desk(project)
    desk.replace("desk.py", "def route", "async def route")
    desk.replace("test_desk.py", "def test_routes", "async def test_routes")
    desk.replace("test_desk.py", "assert route(", "assert await route(")
    desk.replace("test_desk.py", "@pytest.mark.prompt_metric", f"@pytest.mark.{mark}\n@pytest.mark.prompt_metric")
    if plugin == "asyncio":
        desk.ini("asyncio_default_fixture_loop_scope = function")
    else:
        desk.write(
            "conftest.py",
            desk.read("conftest.py")
            + """
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"
""",
        )
    result = desk.optimize(plugins=plugin)
    assert result.ret == 0
    assert SNAPSHOT in desk.frozen_files()
    desk.forget_asked()
    desk.run(plugins=plugin).assert_outcomes(passed=1)
    assert desk.asked() == []


# --- held-out honesty -------------------------------------------------------------------------------------------------


def _assert_only_the_confirmation_shows(sealed: set[str], desk: Desk) -> None:
    """Sealed tickets are asked last, all of them, as inputs; no other message ever shows one."""
    lines = desk.asked()
    first = next(number for number, line in enumerate(lines) if line["text"] in sealed)
    assert {line["text"] for line in lines[first:]} == sealed
    for line in lines:
        others = line["messages"] if line["text"] not in sealed else line["messages"][:-1]
        shown = " ".join(message["content"] for message in others)
        assert not [text for text in sealed if text in shown]


def test_no_sealed_text_reaches_the_model_before_the_confirmation(project: Any) -> None:
    desk = Desk(project)
    assert desk.optimize("--prompt-optimizer", "auto").ret == 0
    desk.run()
    sealed = {row["id"] for row in desk.figure()["rows"]}
    tickets = {row["ticket"] for row in make_tickets(60) if row["id"] in sealed}
    assert len(tickets) == 21
    assert sum(line["is_proposal"] for line in desk.asked()) > 1
    _assert_only_the_confirmation_shows(tickets, desk)


def test_what_one_metric_seals_reaches_no_search_through_another(project: Any) -> None:
    desk = Desk(project)
    tickets = make_tickets(90)
    desk.rows([{**ticket, "customer": f"c-{number % 45}"} for number, ticket in enumerate(tickets)])
    more = desk.read("test_desk.py").partition("@pytest.mark.prompt_metric")
    grouped = more[2].replace("test_routes", "test_groups").replace("threshold=0.8", 'group="customer"')
    desk.write("test_desk.py", f"{desk.read('test_desk.py')}\n\n{more[1]}{grouped}")
    result = desk.optimize("--prompt-optimizer", "auto")
    assert result.ret == 0
    assert "sealed by another metric" in words(result)
    desk.run()
    text_of = {ticket["id"]: ticket["ticket"] for ticket in tickets}
    first, second = ({text_of[row["id"]] for row in figure["rows"]} for figure in desk.figures().values())
    assert first != second
    _assert_only_the_confirmation_shows(first | second, desk)


def test_no_sealed_row_becomes_a_demo(project: Any) -> None:
    desk = Desk(project)
    assert desk.optimize("--prompt-optimizer", "labeled-few-shot").ret == 0
    desk.run()
    sealed = {row["id"] for row in desk.figure()["rows"]}
    demos = {line.split('"')[1] for line in desk.read(SNAPSHOT).splitlines() if line.startswith("row = ")}
    assert demos
    assert not demos & sealed


def test_where_replies_vary_the_baseline_is_a_fresh_draw(project: Any) -> None:
    desk = Desk(project)
    desk.replace("desk.py", "@prompt\n", "@prompt(temperature=0.7)\n")
    assert desk.optimize().ret == 0
    lines = [line for line in desk.asked() if not line["is_proposal"]]
    sealed = {line["text"] for line in lines if line["repeat"] == 1_000}
    assert len(sealed) == 21
    winners = [line for line in lines if line["text"] in sealed and "Choose billing" in line["system"]]
    assert sorted({line["repeat"] for line in winners}) == [0, 1_000]
    desk.forget_asked()
    assert desk.run().ret == 0
    assert desk.asked() == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("desk.py", "@prompt\n", "@prompt(temperature=0.7)\n"),
        ("test_desk.py", "threshold=0.8", "threshold=0.8, repeats=3"),
    ],
)
def test_a_second_search_calls_nothing_where_replies_vary_either(project: Any, name: str, old: str, new: str) -> None:
    desk = Desk(project)
    desk.replace(name, old, new)
    desk.freeze()
    files = desk.frozen_files()
    desk.forget_asked()
    assert desk.optimize().ret == 0
    assert desk.run().ret == 0
    assert desk.asked() == []
    assert desk.frozen_files() == files


def test_a_prompt_that_is_pinned_to_a_model_is_frozen_for_that_model(project: Any) -> None:
    desk = Desk(project)
    desk.replace("desk.py", "@prompt\n", '@prompt(model="scripted/pinned")\n')
    assert desk.optimize().ret == 0
    assert {line["model"] for line in desk.asked() if not line["is_proposal"]} == {"scripted/pinned"}
    assert set(desk.frozen_files()) == {"__prompts__/desk.route@scripted-pinned.toml", BASELINE}
    desk.forget_asked()
    assert desk.run().ret == 0
    assert desk.asked() == []
    assert desk.figure()["prompts"][0]["standing"] == "frozen"


def test_another_seed_is_another_search_and_the_same_one_the_same(project: Any) -> None:
    desk = Desk(project)
    arguments = ("--prompt-optimizer", "labeled-few-shot")
    winners = []
    for seed in ("0", "1", "0"):
        for name in desk.frozen_files():
            (desk.path / name).unlink()
        desk.optimize(*arguments, "--prompt-seed", seed)
        winners.append(desk.jobs()["desk.route"]["candidate"])
    assert winners[0] == winners[2] != winners[1]


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "words_of_it"),
    [
        ("auto.num_proposal=3", "Optimizer 'auto' has no setting 'num_proposal'. Did you mean 'num_proposals'?"),
        ("reflect-race.num_proposal=3", "Optimizer 'reflect-race' has no setting 'num_proposal'."),
        ("auto.num_proposals=few", "not 'few', such as --prompt-set auto.num_proposals=3"),
        ("auto.restart_share=some", "auto.restart_share must be a number, not 'some', such as"),
        ("gepa.use_merge=maybe", "such as --prompt-set gepa.use_merge=true"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_named_as_it_was_typed_with_an_example(
    project: Any, assignment: str, words_of_it: str
) -> None:
    desk = Desk(project)
    result = desk.optimize("--prompt-set", assignment, "--prompt-optimizer", assignment.partition(".")[0])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert words_of_it in words(result)
    assert desk.asked() == []


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


def test_ctrl_c_keeps_what_was_confirmed_before_and_writes_nothing_by_halves(project: Any) -> None:
    desk = _desk_with_two_prompts(project)
    desk.write(
        "trouble.py",
        """
        import os
        import signal

        def trouble(request, is_proposal):
            if is_proposal and "Check which team" in request.messages[-1]["content"]:
                os.kill(os.getpid(), signal.SIGINT)
    """,
    )
    result = desk.run_apart("--optimize-prompts")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "interrupted: every reply that came is kept" in words(result)
    assert [*desk.frozen_files()] == [SNAPSHOT, BASELINE]
    assert stray_files(desk.path) == []
    first = desk.frozen_files()
    desk.write("trouble.py", "def trouble(request, is_proposal):\n    return None\n")
    assert desk.run_apart("--optimize-prompts").ret == 0
    assert first.items() < desk.frozen_files().items()
    assert CHECK_SNAPSHOT in desk.frozen_files()
