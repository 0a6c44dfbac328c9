"""What bad input gets: clear words, the right exit status, and never a stack trace of ours."""

from __future__ import annotations

from typing import Any

import pytest

METRIC = """
    @pytest.mark.prompt_metric("tickets", threshold=0.1)
    def test_metric(example):
        assert route(ticket=example.ticket) == example.team
"""


def expect(result: pytest.RunResult, exit_code: pytest.ExitCode, *words: str) -> None:
    """The exit code, the words on one stream or the other, and no line of our source."""
    output = result.stdout.str() + "\n" + "\n".join(result.stderr.lines)
    assert result.ret == exit_code, output
    for text in words:
        assert text in " ".join(output.split()), text
    for trace in ("pytest_promptopt/", "INTERNALERROR", "Traceback"):
        assert trace not in output


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (
            """
            @pytest.mark.prompt_metric("nowhere")
            def test_metric(example): ...
            """,
            [
                "test_desk.py::test_metric: there is no fixture 'nowhere' for its dataset",
                'prompt_metric("nowhere.jsonl")',
            ],
        ),
        (
            """
            @pytest.mark.prompt_metric("nowhere.jsonl")
            def test_metric(example): ...
            """,
            ["test_desk.py::test_metric: the dataset nowhere.jsonl is not there"],
        ),
        (
            """
            @pytest.mark.prompt_metric("tickets", treshold=0.5)
            def test_metric(example): ...
            """,
            ["prompt_metric has no keyword treshold; it takes arg, concurrency, dataset,"],
        ),
        (
            """
            @pytest.mark.prompt_metric
            def test_metric(example): ...
            """,
            ["prompt_metric takes one dataset, a fixture's name or a file"],
        ),
        (
            """
            @pytest.mark.prompt_metric("tickets", threshold=85)
            def test_metric(example): ...
            """,
            ["prompt_metric: threshold=85 is out of its range"],
        ),
        (
            """
            @pytest.mark.prompt_metric("tickets", must_pass=7)
            def test_metric(example): ...
            """,
            ["prompt_metric: must_pass=7"],
        ),
        (
            """
            @pytest.mark.prompt_metric("tickets", arg=["ticket", "team"])
            def test_metric(ticket, team): ...
            """,
            ["prompt_metric: arg=['ticket', 'team']"],
        ),
        (
            """
            @pytest.mark.prompt_metric("tickets", example_timeout=0)
            def test_metric(example): ...
            """,
            ["prompt_metric: example_timeout=0"],
        ),
        (
            """
            @pytest.mark.prompt_metric("tickets", repeats=True)
            def test_metric(example): ...
            """,
            ["prompt_metric: repeats=True"],
        ),
        (
            """
            @pytest.mark.prompt_metric("tickets", group=3)
            def test_metric(example): ...
            """,
            ["prompt_metric: group=3"],
        ),
        (
            """
            @pytest.mark.prompt_metric("tickets")
            def test_metric(row): ...
            """,
            ["the metric has no parameter example to take the row; write def test_metric(example, …)"],
        ),
        (
            """
            @pytest.fixture
            def helper(example):
                return example

            @pytest.mark.prompt_metric("tickets")
            def test_metric(example, helper): ...
            """,
            ["the fixture 'helper' asks for 'example', but fixtures are set up once, before any row is there"],
        ),
        (
            """
            import unittest

            class TestCase(unittest.TestCase):
                @pytest.mark.prompt_metric("tickets")
                def test_metric(self): ...
            """,
            ["prompt_metric does not work on unittest.TestCase methods", "make it a function"],
        ),
        (
            """
            @pytest.mark.prompt_metric("tickets")
            @pytest.mark.parametrize("example", [1, 2])
            def test_metric(example): ...
            """,
            ["example"],
        ),
    ],
)
def test_misuse_of_the_marker_is_a_collection_error_in_our_words(project: Any, metric: str, words: list[str]) -> None:
    project.tests(metric)
    expect(project.run(), pytest.ExitCode.INTERRUPTED, *words)


def test_every_misuse_of_a_module_is_told_at_once(project: Any) -> None:
    project.tests("""
        @pytest.mark.prompt_metric("nowhere")
        def test_one(example): ...

        @pytest.mark.prompt_metric("tickets")
        def test_two(): ...
    """)
    expect(project.run(), pytest.ExitCode.INTERRUPTED, "test_one: there is no fixture", "test_two: the metric has no")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("[]", "no row to judge: the dataset is empty"),
        ("None", "dataset 'rows' is a NoneType; it must be a list of dict, dataclass or Example"),
        ("{'a': 1}", "dataset 'rows' is a dict; it must be a list"),
        ("'text'", "dataset 'rows' is a str; it must be a list"),
        ("[{'a': 1}, 7]", "dataset 'rows': row 2 is a int; it must be a dict, dataclass or Example"),
        ("(row for row in ROWS)", "dataset 'rows' is a generator, which can be read only once; make it a list"),
        (
            "[{'id': 'x'}, {'id': 'y'}, {'id': 'x'}]",
            "dataset 'rows': rows 1 and 3 both have the id 'x'; ids must differ",
        ),
        ("[{'tool': object()}]", "field 'tool' holds a object, which has no stable text to know the row by"),
    ],
)
def test_rows_that_cannot_be_rows_fail_in_our_words(project: Any, rows: str, words: str) -> None:
    project.tests(f"""
        @pytest.fixture
        def rows():
            return {rows}

        @pytest.mark.prompt_metric("rows")
        def test_metric(example): ...
    """)
    expect(project.run(), pytest.ExitCode.TESTS_FAILED, words)


@pytest.mark.parametrize("how", ["path", "fixture"])
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "rows.jsonl",
            b'{"a": 1}\n{"a": \n\n[1]\n',
            ["rows.jsonl: every line must be one JSON object; line 2:", "line 4:"],
        ),
        ("rows.jsonl", b'{"a": "\xff"}\n', ["rows.jsonl: cannot be read as UTF-8 text"]),
        ("rows.jsonl", b'{"id": 1}\n{"id": 2}\n{"id": 1}\n', ["rows.jsonl: rows 1 and 3 both have the id 1"]),
        ("rows.json", b'{"a": 1}', ["rows.json: must hold one JSON list of objects"]),
        ("rows.json", b"[", ["rows.json: not JSON ("]),
        ("rows.csv", b"a,b\n1,2\n1\n", ["rows.csv: line 3 does not have the columns of the first line (a, b)"]),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_its_line(
    project: Any, how: str, name: str, content: bytes, words: list[str]
) -> None:
    (project.path / name).write_bytes(content)
    dataset = name if how == "path" else "rows"
    project.tests(f"""
        @pytest.fixture
        def rows():
            return load_dataset({name!r})

        @pytest.mark.prompt_metric({dataset!r})
        def test_metric(example): ...
    """)
    expect(project.run(), pytest.ExitCode.TESTS_FAILED, *words)


def test_load_dataset_names_the_file_that_is_missing(project: Any) -> None:
    project.tests("""
        @pytest.fixture
        def rows():
            return load_dataset("nowhere.jsonl")

        @pytest.mark.prompt_metric("rows")
        def test_metric(example): ...
    """)
    expect(
        project.run(), pytest.ExitCode.TESTS_FAILED, "nowhere.jsonl: no such file; a relative path is looked up beside"
    )


def test_must_pass_that_names_no_row_is_refused(project: Any) -> None:
    project.tests("""
        @pytest.mark.prompt_metric("tickets", must_pass=["t1", "t9"])
        def test_metric(example): ...
    """)
    expect(project.run(), pytest.ExitCode.TESTS_FAILED, "must_pass names rows that the dataset does not have: t9")


def test_a_field_that_a_row_lacks_is_an_error_of_that_row(project: Any) -> None:
    project.tests("""
        @pytest.mark.prompt_metric("tickets", arg="ticket,colour")
        def test_metric(ticket, colour): ...
    """)
    expect(project.run(), pytest.ExitCode.TESTS_FAILED, "has no field 'colour'; it has id, ticket, team")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt-lm", "reply"], "--prompt-lm reply: it is one of auto, replay, live, record, rerecord"),
        (["--prompt-budget", "lots"], '--prompt-budget lots: a number of LM calls, 1 or more, or "none"'),
        (["--prompt-budget", "0"], "--prompt-budget 0: a number of LM calls"),
        (["--prompt-max-cost", "-1"], "--prompt-max-cost -1: an amount of US dollars"),
        (["--prompt-strict", "stail"], "--prompt-strict stail: choose from stale, orphan"),
        (["--prompt-seed", "dice"], "--prompt-seed dice: a whole number"),
        (["--prompt-concurrency", "0"], "--prompt-concurrency 0: a whole number, 1 or more"),
        (["-o", "promptopt_split=30/30"], "promptopt_split = 30/30: shares of train, val and test"),
        (["-o", "promptopt_sealed_rows=few"], "promptopt_sealed_rows = few: a whole number"),
        (["-o", "promptopt_freeze_alpha=5"], "promptopt_freeze_alpha = 5: a number between 0 and 1"),
        (["--prompt-set", "breadth=5"], "--prompt-set breadth=5: write it as NAME.key=value"),
        (["--optimize-prompts", "--prompt-optimizer", "magic"], "magic"),
        (["--optimize-prompts", "--prompt-model", "offline/nobody"], "offline/nobody"),
    ],
)
@pytest.mark.parametrize("has_model", [True, False], ids=["ini-model", "no-ini-model"])
def test_an_option_that_cannot_be_meant_is_a_usage_error(
    project: Any, arguments: list[str], words: str, has_model: bool
) -> None:
    if not has_model:
        project.pytester.makeini("[pytest]\n")
        arguments = [*arguments, *([] if "--prompt-model" in arguments else ["--prompt-model", "offline/keyword"])]
    project.tests(METRIC)
    expect(project.run(*arguments), pytest.ExitCode.USAGE_ERROR, words)


def test_bad_options_do_not_disturb_a_project_without_prompts(project: Any) -> None:
    project.write("test_plain.py", "def test_plain(): ...\n")
    assert project.run().ret == pytest.ExitCode.OK


def test_a_bad_setting_met_first_at_collection_is_a_usage_error(project: Any) -> None:
    project.pytester.makeini("[pytest]\npromptopt_seed = dice\n")
    project.tests(METRIC)
    expect(project.run(), pytest.ExitCode.USAGE_ERROR, "dice: a whole number")


def test_broken_toml_of_the_project_is_named(project: Any) -> None:
    project.write("pyproject.toml", "[tool.pytest-promptopt\n")
    project.tests(METRIC)
    expect(project.run(), pytest.ExitCode.USAGE_ERROR, "pyproject.toml")


@pytest.mark.parametrize("model", ["offline/nobody", "nobody"])
def test_an_unknown_model_is_an_error_and_never_a_score(project: Any, model: str) -> None:
    project.tests(METRIC)
    result = project.run("--prompt-model", model)
    expect(result, pytest.ExitCode.TESTS_FAILED, model, "offline/keyword")
    assert project.score() is None


def test_two_prompts_of_one_name_run_and_a_search_tells_both_places(project: Any) -> None:
    project.tests(METRIC)
    project.write(
        "test_other.py",
        """
        from pytest_promptopt import prompt
        import pytest

        @prompt(name="test_desk.route")
        def route(ticket: str) -> str:
            "Another one."

        @pytest.mark.prompt_metric("rows")
        def test_metric(example): ...

        @pytest.fixture
        def rows():
            return [{"a": 1}]
        """,
    )
    assert project.run().ret == pytest.ExitCode.OK
    expect(
        project.run("--optimize-prompts"),
        pytest.ExitCode.USAGE_ERROR,
        "two prompts are called test_desk.route",
        "test_other.py",
        "give one",
    )


def test_a_prompt_that_cannot_be_read_is_a_collection_error(project: Any) -> None:
    project.tests("""
        @prompt
        def nothing(ticket: str) -> str: ...
    """)
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*SignatureError: *nothing*docstring*"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("format = 1\n<<<<<<< HEAD\n", "test_desk.test_metric@scripted-desk.toml"),
        ("format = 99\n", "format"),
        ("colour = 'red'\n", "test_desk.test_metric@scripted-desk.toml"),
    ],
)
def test_a_broken_baseline_is_named_and_left_as_it_is(project: Any, text: str, words: str) -> None:
    project.tests(METRIC)
    path = project.write("__prompts__/test_desk.test_metric@scripted-desk.toml", text)
    expect(project.run(), pytest.ExitCode.TESTS_FAILED, words)
    expect(project.run("--prompt-bless"), pytest.ExitCode.TESTS_FAILED, words)
    assert path.read_text() == text


def test_a_broken_snapshot_is_named_and_left_as_it_is(project: Any) -> None:
    project.tests(METRIC)
    path = project.write("__prompts__/test_desk.route@scripted-desk.toml", "format = 1\n=======\n")
    expect(project.run(), pytest.ExitCode.TESTS_FAILED, "test_desk.route@scripted-desk.toml")
    assert path.read_text() == "format = 1\n=======\n"


def test_a_split_field_that_names_no_side_is_told_with_its_row(project: Any) -> None:
    project.tests("""
        @pytest.fixture
        def rows():
            return [{"id": str(n), "ticket": "refund", "team": "billing", "split": "tost"} for n in range(30)]

        @pytest.mark.prompt_metric("rows")
        def test_metric(example):
            assert route(ticket=example.ticket) == example.team
    """)
    expect(project.run("--optimize-prompts"), pytest.ExitCode.TESTS_FAILED, "split='tost' is none of train, val, test")
