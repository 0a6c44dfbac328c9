"""Which tests become metrics, what they are called, and which fixtures and datasets they may use."""

from __future__ import annotations

import json
from textwrap import dedent, indent
from typing import Any

import pytest


def test_a_metric_keeps_its_own_node_id(project: Any) -> None:
    project.tests("""
        @pytest.mark.prompt_metric("tickets")
        def test_routes(example): ...

        @pytest.mark.prompt_metric("tickets", arg="ticket, team")
        def test_fields(ticket, team): ...
    """)
    result = project.run("--collect-only", "-q")
    result.stdout.fnmatch_lines(["test_desk.py::test_routes", "test_desk.py::test_fields"], consecutive=True)
    assert result.ret == 0


def test_a_test_is_called_once_for_every_row(project: Any) -> None:
    project.tests("""
        SEEN = []

        @pytest.mark.prompt_metric("tickets")
        def test_metric(example):
            SEEN.append(example.id)

        def test_what_it_saw():
            assert sorted(SEEN) == ["t1", "t2", "t3", "t4"]
    """)
    project.run().assert_outcomes(passed=2)


@pytest.mark.parametrize("scope", ["session", "package", "module", "class", "function"])
def test_a_fixture_of_any_scope_is_set_up_once_for_all_rows(project: Any, scope: str) -> None:
    project.tests(f"""
        EVENTS = []

        @pytest.fixture(scope={scope!r})
        def helper():
            EVENTS.append("up")
            yield "help"
            EVENTS.append("down")

        @pytest.mark.prompt_metric("tickets")
        def test_metric(example, helper):
            assert helper == "help"
            EVENTS.append("row")

        def test_order():
            assert [event for event in EVENTS if event != "down"] == ["up"] + ["row"] * 4
            assert EVENTS[-1] == ("down" if {scope!r} in ("class", "function") else "row")
    """)
    project.run().assert_outcomes(passed=2)


@pytest.mark.parametrize("scope", ["session", "package", "module", "class", "function"])
def test_a_dataset_fixture_may_have_any_scope(project: Any, scope: str) -> None:
    project.tests(f"""
        @pytest.fixture(scope={scope!r})
        def rows():
            return ROWS

        @pytest.mark.prompt_metric("rows")
        def test_metric(example):
            assert example.ticket
    """)
    project.run().assert_outcomes(passed=1)
    assert len(project.rows()) == 4


def test_parametrize_makes_one_metric_for_each_parameter(project: Any) -> None:
    project.tests("""
        @pytest.mark.parametrize("team", ["billing", "bug"])
        @pytest.mark.prompt_metric("tickets", threshold=0.1)
        def test_metric(example, team):
            assert example.team == team
    """)
    project.run().assert_outcomes(passed=2)
    scores = {name: report["verdict"]["score"] for name, report in project.figures().items()}
    assert scores == {"test_metric[billing]": 0.25, "test_metric[bug]": 0.5}


def test_a_parametrized_dataset_makes_one_metric_for_each_of_its_parameters(project: Any) -> None:
    project.tests("""
        @pytest.fixture(params=[1, 3], ids=["small", "large"])
        def some(request):
            return ROWS[: request.param]

        @pytest.mark.prompt_metric("some")
        def test_metric(example): ...
    """)
    project.run().assert_outcomes(passed=2)
    counts = {name: report["total_rows"] for name, report in project.figures().items()}
    assert counts == {"test_metric[small]": 1, "test_metric[large]": 3}


def test_a_dataset_may_be_chosen_by_an_indirect_parameter(project: Any) -> None:
    project.tests("""
        @pytest.fixture
        def some(request):
            return ROWS[: request.param]

        @pytest.mark.parametrize("some", [2], indirect=True)
        @pytest.mark.prompt_metric("some")
        def test_metric(example): ...
    """)
    project.run().assert_outcomes(passed=1)
    assert len(project.rows()) == 2


def test_a_dataset_may_be_a_direct_parameter(project: Any) -> None:
    project.tests("""
        @pytest.mark.parametrize("some", [ROWS[:1], ROWS[:3]], ids=["one", "three"])
        @pytest.mark.prompt_metric("some")
        def test_metric(example, some): ...
    """)
    project.run().assert_outcomes(passed=2)
    assert [report["total_rows"] for report in project.figures().values()] == [1, 3]


def test_methods_are_metrics_and_share_their_class(project: Any) -> None:
    project.tests("""
        class TestDesk:
            word = "refund"

            @pytest.mark.prompt_metric("tickets", threshold=0.5)
            def test_mentions(self, example):
                assert self.word in example.ticket

            @staticmethod
            @pytest.mark.prompt_metric("tickets")
            def test_static(example):
                assert example.team
    """)
    project.run("-v").assert_outcomes(passed=2)


@pytest.mark.parametrize(
    "module",
    [
        """
        pytestmark = pytest.mark.prompt_metric("tickets")

        def test_one(example): ...
        def test_two(example): ...
        """,
        """
        @pytest.mark.prompt_metric("tickets")
        class TestDesk:
            def test_one(self, example): ...
            def test_two(self, example): ...
        """,
        """
        class TestDesk:
            pytestmark = [pytest.mark.prompt_metric("tickets")]

            def test_one(self, example): ...
            def test_two(self, example): ...
        """,
    ],
    ids=["module", "class", "class-pytestmark"],
)
def test_a_marker_above_makes_metrics_of_all_tests_below(project: Any, module: str) -> None:
    project.tests(module)
    project.run().assert_outcomes(passed=2)
    assert {report["total_rows"] for report in project.figures().values()} == {4}


def test_the_marker_nearest_to_the_test_wins(project: Any) -> None:
    project.tests("""
        pytestmark = pytest.mark.prompt_metric("tickets", threshold=1.0)

        @pytest.fixture
        def few():
            return ROWS[:2]

        @pytest.mark.prompt_metric("few", threshold=0.5)
        def test_metric(example):
            assert example.id == "t1"
    """)
    project.run().assert_outcomes(passed=1)
    assert project.score() == 0.5


def test_several_arguments_take_the_fields_of_a_row(project: Any) -> None:
    project.tests("""
        @pytest.mark.prompt_metric("tickets", arg="ticket,team", threshold=0.75)
        def test_metric(team, ticket, tickets):
            assert len(tickets) == 4
            assert route(ticket=ticket) == team
    """)
    project.run().assert_outcomes(passed=1)
    assert project.score() == 0.75


def test_one_argument_of_another_name_takes_the_row(project: Any) -> None:
    project.tests("""
        @pytest.mark.prompt_metric("tickets", arg="case", threshold=0.75)
        def test_metric(case):
            assert route(ticket=case["ticket"]) == case.team
    """)
    project.run().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.jsonl", '{"ticket": "a", "n": "1"}\n\n{"ticket": "b", "n": "1"}\n'),
        ("rows.json", '[{"ticket": "a", "n": "1"}, {"ticket": "b", "n": "1"}]'),
        ("rows.csv", "ticket,n\na,1\nb,1\n"),
        ("data/rows.jsonl", '{"ticket": "a", "n": "1"}\n{"ticket": "b", "n": "1"}\n'),
    ],
)
def test_a_dataset_may_be_a_file_beside_the_test(project: Any, name: str, text: str) -> None:
    project.write(f"tests/{name}", text)
    project.tests(
        f"""
        @pytest.mark.prompt_metric({name!r})
        def test_metric(example):
            assert example["ticket"] in "ab" and example.n == "1"
        """,
        name="tests/test_desk.py",
    )
    project.run().assert_outcomes(passed=1)
    assert len(project.rows()) == 2


def test_load_dataset_looks_beside_the_file_that_calls_it(project: Any) -> None:
    project.write("tests/rows.jsonl", '{"ticket": "a"}\n')
    project.tests(
        """
        @pytest.fixture(scope="session")
        def rows():
            return load_dataset("rows.jsonl")

        @pytest.mark.prompt_metric("rows")
        def test_metric(example): ...
        """,
        name="tests/test_desk.py",
    )
    project.run().assert_outcomes(passed=1)


def test_rows_may_be_of_any_type_with_named_fields(project: Any) -> None:
    project.tests("""
        from collections import namedtuple
        from dataclasses import dataclass
        from pydantic import BaseModel

        @dataclass
        class Data:
            ticket: str
            team: str

        class Model(BaseModel):
            ticket: str
            team: str

        Named = namedtuple("Named", "ticket team")

        @pytest.fixture
        def rows():
            kinds = [dict, Data, Example, Model, Named]
            return [kind(ticket=f"refund {kind.__name__}", team="billing") for kind in kinds]

        @pytest.mark.prompt_metric("rows")
        def test_metric(example):
            assert route(ticket=example.ticket) == example["team"]
    """)
    project.run().assert_outcomes(passed=1)
    assert len(project.rows()) == 5


def test_subclasses_may_each_name_a_dataset_for_an_inherited_test(project: Any) -> None:
    project.tests("""
        class Shared:
            def test_metric(self, example):
                assert example.ticket == self.ticket

            @pytest.mark.filterwarnings("error")
            def test_with_a_mark_of_its_own(self, example):
                assert example.ticket == self.ticket

        @pytest.mark.prompt_metric("first")
        class TestFirst(Shared):
            ticket = "a"

            @pytest.fixture
            def first(self):
                return [{"ticket": "a"}]

        @pytest.mark.prompt_metric("second")
        class TestSecond(Shared):
            ticket = "b"

            @pytest.fixture
            def second(self):
                return [{"ticket": "b"}]
    """)
    project.run().assert_outcomes(passed=4)


def test_a_metric_may_change_the_row_it_was_given(project: Any) -> None:
    project.tests("""
        @pytest.fixture
        def rows():
            return [{"words": ["a"]}, {"id": "own", "words": ["b"]}]

        @pytest.mark.prompt_metric("rows")
        def test_metric(example):
            example.words.append("changed")
    """)
    project.run().assert_outcomes(passed=1)
    before = {id_: row["digest"] for id_, row in project.rows().items()}
    project.run().assert_outcomes(passed=1)
    assert {id_: row["digest"] for id_, row in project.rows().items()} == before


def test_selecting_by_name_and_by_marker_works_on_metrics(project: Any) -> None:
    project.tests("""
        @pytest.mark.prompt_metric("tickets")
        def test_one(example): ...

        @pytest.mark.prompt_metric("tickets")
        def test_two(example): ...

        def test_plain(): ...
    """)
    project.run("-k", "two").assert_outcomes(passed=1, deselected=2)
    project.run("-m", "prompt_metric").assert_outcomes(passed=2, deselected=1)
    project.run("-m", "not prompt_metric").assert_outcomes(passed=1, deselected=2)
    assert project.figures() == {}


def test_several_models_make_one_item_for_each(project: Any) -> None:
    project.tests("""
        @pytest.mark.prompt_metric("tickets", threshold=0.5)
        def test_metric(example):
            assert route(ticket=example.ticket) == example.team
    """)
    models = ("--prompt-model", "scripted/desk", "--prompt-model", "scripted/contrary")
    result = project.run("--collect-only", "-q", *models)
    result.stdout.fnmatch_lines(["test_desk.py::test_metric[[]scripted/desk[]]"])
    result.stdout.fnmatch_lines(["test_desk.py::test_metric[[]scripted/contrary[]]"])
    project.run(*models).assert_outcomes(passed=2)
    scores = {report["model"]: report["verdict"]["score"] for report in project.figures().values()}
    assert scores == {"scripted/desk": 0.75, "scripted/contrary": 0.5}


def test_metrics_and_strict_markers_agree(project: Any) -> None:
    project.tests("""
        @pytest.mark.prompt_metric("tickets")
        def test_metric(example): ...
    """)
    project.run("--strict-markers").assert_outcomes(passed=1)


def test_parameters_may_hold_two_colons_and_keep_their_names_and_baselines(project: Any) -> None:
    project.tests("""
        class TestDesk:
            @pytest.mark.parametrize("language", ["a::b", "c::b", "a.b"])
            @pytest.mark.prompt_metric("tickets", threshold=0.0)
            def test_routes(self, example, language):
                route(ticket=example.ticket)
    """)
    result = project.run("--prompt-bless", "--prompt-report", "all.json")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["test_routes[[]a::b] *", "test_routes[[]c::b] *", "test_routes[[]a.b] *"])
    metrics = json.loads((project.path / "all.json").read_text(encoding="utf-8"))["metrics"]
    assert [metric["owner"] for metric in metrics] == [
        f"test_desk.TestDesk.test_routes[{language}]" for language in ("a::b", "c::b", "a.b")
    ]
    assert len({metric["baseline"]["path"] for metric in metrics}) == 3


def test_two_metrics_that_would_share_a_baseline_are_a_collection_error_that_names_both(project: Any) -> None:
    metric = """
        @pytest.mark.prompt_metric("tickets")
        def test_routes({}example): ...
    """
    project.tests("class TestA:\n" + indent(dedent(metric.format("self, ")), "    "))
    for source, name in (("test_desk.py", "test_desk.TestA.py"),):
        text = (project.path / source).read_text(encoding="utf-8")
        (project.path / name).write_text(
            text.replace("class TestA:", "if True:").replace("self, ", ""), encoding="utf-8"
        )
    result = project.run("--import-mode=importlib")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*test_desk.py::TestA::test_routes*would share one baseline*rename one of the two*"])
    result.stdout.fnmatch_lines(["*test_desk.TestA.py::test_routes*would share one baseline*"])


@pytest.mark.parametrize("arguments", [(), ("-v",)])
def test_nothing_that_is_printed_of_rows_is_a_command_to_githubs_runner(
    project: Any, arguments: tuple[str, ...]
) -> None:
    project.tests("""
        ROWS[:] = [
            {"id": f"{start}1", "ticket": f"{start}of a row", "team": "bug"}
            for start in ("::error file=a::", "##[error]", "  ::set-output name=a::", "x\\r::error::")
        ]

        @pytest.mark.prompt_metric("tickets", threshold=0.9, must_pass=["##[error]1"])
        def test_metric(example):
            route(ticket=example.ticket)
            pytest.fail("##[group]" if example.id.startswith("#") else "::stop-commands::x")
    """)
    lines = project.run(*arguments).stdout.str().replace("\r", "\n").splitlines()
    assert any(": :error file=a::" in line for line in lines)
    assert [line for line in lines if line.lstrip().startswith("::") or "##[" in line] == []
