"""A metric that does nothing but raise is errored at once, whatever the size of its dataset and of the budget."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Project

MANY = """
    @pytest.fixture(scope="session")
    def many():
        return [{"id": f"r{n}", "ticket": "a refund please", "team": "billing"} for n in range(200)]
"""


@pytest.mark.parametrize(("kind", "plugins", "mark"), [("def", "", ""), ("async def", "anyio", "@pytest.mark.anyio")])
def test_a_metric_that_always_raises_is_errored_after_a_few_rows(
    project: Project, kind: str, plugins: str, mark: str
) -> None:
    project.tests(
        MANY
        + f"""
    {mark}
    @pytest.mark.prompt_metric("many", concurrency=4)
    {kind} test_raises(example):
        raise KeyError("boom")
    """
    )
    result = project.run("-k", "not trio", plugins=plugins)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    report = project.figure()
    assert report["verdict"]["outcome"] == "errored"
    assert 3 <= len(report["rows"]) <= 6  # three that raised, and those that had begun
    result.stdout.fnmatch_lines(["*stopped after * rows, because the first ones raised*"])


def test_a_metric_that_raises_on_some_rows_is_run_to_its_end(project: Project) -> None:
    project.tests(
        MANY
        + """
    @pytest.mark.prompt_metric("many", concurrency=1)
    def test_raises(example):
        if example["id"] != "r0":
            raise KeyError("boom")
    """
    )
    project.run()
    assert len(project.figure()["rows"]) == 200


def test_rows_that_a_provider_failed_do_not_stop_a_metric(project: Project) -> None:
    project.tests(
        """
    @pytest.fixture(scope="session")
    def faulty():
        outage = [{"id": f"r{n}", "ticket": f"outage {n}", "team": "bug"} for n in range(20)]
        return [*outage, {"id": "last", "ticket": "the crash", "team": "bug"}]

    @pytest.mark.prompt_metric("faulty", concurrency=1)
    def test_routes(example):
        assert route(ticket=example["ticket"]) == example["team"]
    """
    )
    project.run()
    assert project.rows()["last"]["score"] == 1.0  # it may be answered from the store, or be paid and kept


def test_a_search_stops_at_the_first_row_that_raises_under_the_source(project: Project) -> None:
    project.tests(
        MANY
        + """
    ASKED = []

    @pytest.mark.prompt_metric("many", concurrency=1)
    def test_raises(example):
        ASKED.append(example["id"])
        route(ticket=example["ticket"])
        print("row", len(ASKED))
        raise KeyError("boom")
    """
    )
    result = project.run("--optimize-prompts", "-s")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*under the source: KeyError: 'boom'*"])
    result.stdout.no_fnmatch_line("row 2")
