"""Metrics that are coroutines, under the plugins that run coroutines."""

from __future__ import annotations

from typing import Any

import pytest

ASYNC_PROMPT = '''
    @prompt
    async def aroute(ticket: str) -> Literal["billing", "bug", "account"]:
        """Decide which team should answer."""
'''


def async_metric(marker: str = "", fixture: str = "") -> str:
    return f"""
{ASYNC_PROMPT}
    {fixture}

    {marker}
    @pytest.mark.prompt_metric("tickets", threshold=0.75)
    async def test_metric(example):
        assert await aroute(ticket=example.ticket) == example.team
"""


@pytest.mark.parametrize(("mode", "marker"), [("strict", "@pytest.mark.asyncio"), ("auto", "")])
def test_a_coroutine_is_a_metric_under_pytest_asyncio(project: Any, mode: str, marker: str) -> None:
    project.ini(f"asyncio_mode = {mode}", "asyncio_default_fixture_loop_scope = function")
    project.tests(async_metric(marker))
    project.run(plugins="asyncio").assert_outcomes(passed=1)
    assert project.score() == 0.75


def test_a_coroutine_is_a_metric_under_anyio_on_both_backends(project: Any) -> None:
    project.tests(
        async_metric(
            "@pytest.mark.anyio",
            """
    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(request):
        return request.param
            """,
        )
    )
    project.run(plugins="anyio").assert_outcomes(passed=2)
    assert {name: report["verdict"]["score"] for name, report in project.figures().items()} == {
        "test_metric[asyncio]": 0.75,
        "test_metric[trio]": 0.75,
    }


@pytest.mark.parametrize(
    ("plugin", "fixture", "marker"),
    [
        ("asyncio", "import pytest_asyncio\n\n    @pytest_asyncio.fixture", "@pytest.mark.asyncio"),
        ("anyio", "@pytest.fixture", "@pytest.mark.anyio"),
    ],
)
def test_a_dataset_fixture_may_be_a_coroutine(project: Any, plugin: str, fixture: str, marker: str) -> None:
    if plugin == "asyncio":
        project.ini("asyncio_default_fixture_loop_scope = function")
    backend = "" if plugin == "asyncio" else "@pytest.fixture\n    def anyio_backend():\n        return 'asyncio'\n"
    project.tests(f"""
    {backend}
    {fixture}
    async def arows():
        return ROWS[:2]

    {marker}
    @pytest.mark.prompt_metric("arows")
    async def test_metric(example):
        assert example.ticket
    """)
    project.run(plugins=plugin).assert_outcomes(passed=1)
    assert len(project.rows()) == 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_rows_of_a_coroutine_run_together_in_one_loop(project: Any, backend: str) -> None:
    project.tests(f"""
        import anyio

        STATE = {{"here": 0}}

        @pytest.fixture
        def anyio_backend():
            return {backend!r}

        @pytest.fixture
        async def together():
            return anyio.Event()

        @pytest.mark.anyio
        @pytest.mark.prompt_metric("tickets")
        async def test_metric(example, together):
            STATE["here"] += 1
            if STATE["here"] == 4:
                together.set()
            with anyio.fail_after(30):
                await together.wait()
    """)
    project.run(plugins="anyio").assert_outcomes(passed=1)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_row_of_a_coroutine_that_takes_too_long_is_an_error(project: Any, backend: str) -> None:
    project.tests(f"""
        import anyio

        @pytest.fixture
        def anyio_backend():
            return {backend!r}

        @pytest.mark.anyio
        @pytest.mark.prompt_metric("tickets", example_timeout=0.2, threshold=0.0)
        async def test_metric(example):
            if example.id == "t2":
                await anyio.sleep(60)
    """)
    result = project.run(plugins="anyio")
    result.stdout.fnmatch_lines(["*1 error: took longer than example_timeout=0.2 seconds"])
    assert [row["score"] for row in project.figure()["rows"]] == [1.0, None, 1.0, 1.0]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_outcomes_of_a_coroutine_are_those_of_a_function(project: Any, backend: str) -> None:
    project.tests(f"""
{ASYNC_PROMPT}
    @pytest.fixture
    def anyio_backend():
        return {backend!r}

    @pytest.fixture
    def rows():
        return [{{"id": name}} for name in ("fails", "grades", "skips", "breaks", "misses")]

    @pytest.mark.anyio
    @pytest.mark.prompt_metric("rows", threshold=0.0)
    async def test_metric(example):
        match example.id:
            case "fails":
                assert False, "sorry"
            case "grades":
                return 0.25
            case "skips":
                pytest.skip("not this one")
            case "breaks":
                raise OSError("gone")
            case "misses":
                await aroute(ticket="a riddle")
    """)
    project.run(plugins="anyio").assert_outcomes(failed=1)
    statuses = {row_id: row["status"] for row_id, row in project.rows().items()}
    assert statuses == {
        "fails": "failed",
        "grades": "graded",
        "skips": "skipped",
        "breaks": "error",
        "misses": "format",
    }


def test_the_debugger_lands_in_a_coroutines_own_frame(project: Any) -> None:
    project.write(
        "recorder.py",
        """
        class Recorder:
            quitting = False
            def __init__(self, *args, **kwargs): ...
            def reset(self): ...
            def setup(self, frame, traceback):
                self.curframe = frame
            def interaction(self, frame, error):
                error = getattr(error, "__traceback__", error)  # an exception since Python 3.13
                while error.tb_next:
                    error = error.tb_next
                print("debugging", error.tb_frame.f_code.co_name, error.tb_frame.f_locals["example"].id)
    """,
    )
    project.ini("pythonpath = .")
    project.tests(
        async_metric("@pytest.mark.anyio", "@pytest.fixture\n    def anyio_backend():\n        return 'asyncio'")
    )
    result = project.run("--pdb", "--pdbcls=recorder:Recorder", "-s", plugins="anyio")
    result.stdout.fnmatch_lines(["debugging test_metric t4"])


def test_ctrl_c_in_a_coroutine_interrupts_the_session(project: Any) -> None:
    project.tests("""
        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        @pytest.mark.prompt_metric("tickets")
        async def test_metric(example):
            raise KeyboardInterrupt

        def test_never(): ...
    """)
    assert project.run_apart(plugins="anyio").ret == pytest.ExitCode.INTERRUPTED
