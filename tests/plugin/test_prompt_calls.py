"""A prompt called inside a run: on which model, as which compiled prompt, and from which threads."""

from __future__ import annotations

from typing import Any

import pytest

from tests.plugin.projects import SNAPSHOT, Desk, words

WALK = """
    from pytest_promptopt import using_model

    @prompt(model="scripted/pinned")
    def pinned(ticket: str) -> str:
        \"\"\"Answer.\"\"\"

    def test_models():
        with using_model("scripted/used"):
            used = route.snapshot.model
            inside = pinned.snapshot.model
        print("MODELS", inside, used, route.snapshot.model)
"""

THREADS = """
from concurrent.futures import ThreadPoolExecutor


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.mark.prompt_metric("tickets", threshold=0.8)
def test_routes(example, pool, promptopt):
    ask = CARRIED(lambda: route(ticket=example["ticket"]))
    assert pool.submit(ask).result(timeout=30) == example["team"]
"""


def _models(project: Any, *arguments: str) -> list[str]:
    result = project.run("-s", *arguments)
    result.assert_outcomes(passed=1)
    (line,) = [line for line in result.stdout.lines if "MODELS " in line]
    return str(line).partition("MODELS ")[2].split()


def test_the_strongest_word_names_the_model(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project.ini()
    project.tests(WALK)
    option = ("--prompt-model", "scripted/option")
    monkeypatch.setenv("PROMPTOPT_MODEL", "scripted/environment")
    with monkeypatch.context() as only_here:
        from pytest_promptopt.prompts import runtime

        only_here.setattr(runtime, "_production", type(runtime._production)())  # ``configure`` lasts as long as we do
        project.conftest("import pytest_promptopt; pytest_promptopt.configure(model='scripted/configured')")
        assert _models(project, *option) == ["scripted/pinned", "scripted/used", "scripted/option"]
        assert _models(project)[-1] == "scripted/environment"
        monkeypatch.delenv("PROMPTOPT_MODEL")
        assert _models(project)[-1] == "scripted/configured"
    project.conftest("")
    assert _models(project)[-1] == "scripted/desk"


def test_the_parts_of_a_call_serve_those_who_call_the_model_themselves(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    desk.write(
        "test_parts.py",
        """
        from desk import route

        def test_parts():
            assert route.snapshot.standing == "frozen"
            assert route.snapshot.is_frozen
            assert route.snapshot.model == "scripted/learner"
            assert route.snapshot.path.name == "desk.route@scripted-learner.toml"
            messages = route.messages(ticket="where is my refund")
            assert messages[0]["content"].startswith(route.snapshot.compiled.instruction)
            assert messages[-1] == {"role": "user", "content": "where is my refund"}
            assert route.parse(" Billing ") == "billing"

        def test_predict():
            prediction = route.predict(ticket="where is my refund")
            assert prediction.value == prediction.text == route(ticket="where is my refund") == "billing"
            assert prediction.model == "scripted/learner"
            assert not prediction.is_replayed
            assert route.predict(ticket="where is my refund").is_replayed
        """,
    )
    desk.run("test_parts.py").assert_outcomes(passed=2)


def test_the_parts_of_a_call_know_the_candidate_of_a_search(project: Any) -> None:
    desk = Desk(project)
    desk.replace("test_desk.py", "    assert route(", "    see(route, example)\n    assert route(")
    desk.replace(
        "test_desk.py",
        "from pytest_promptopt import load_dataset",
        """from pytest_promptopt import load_dataset
from pytest_promptopt.prompts.active import current_evaluation


def see(route, example):
    candidate = current_evaluation().candidate[route.name]
    system = route.messages(ticket=example["ticket"])[0]["content"]
    with open("seen.txt", "a") as file:
        file.write(f"{system.startswith(candidate.instruction)} {'Choose billing' in system}\\n")
""",
    )
    desk.freeze()
    assert set(desk.read("seen.txt").splitlines()) == {"True False", "True True"}


def test_a_call_from_a_thread_that_carries_no_candidate_is_an_error_and_no_score(project: Any) -> None:
    desk = Desk(project)
    metric = desk.read("test_desk.py").partition("@pytest.mark.prompt_metric")[0]
    desk.write("test_desk.py", metric + THREADS.replace("CARRIED", ""))
    result = desk.optimize()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert (
        "desk.route was called while a candidate is under evaluation, by code that does not carry it. "
        "Hand a thread that the plugin did not start promptopt.propagate(function), from the fixture promptopt"
    ) in words(result)
    assert desk.frozen_files() == {}


def test_a_thread_that_was_handed_the_candidate_takes_part_in_the_search(project: Any) -> None:
    desk = Desk(project)
    metric = desk.read("test_desk.py").partition("@pytest.mark.prompt_metric")[0]
    desk.write("test_desk.py", metric + THREADS.replace("CARRIED", "promptopt.propagate"))
    result = desk.optimize()
    assert result.ret == 0
    assert SNAPSHOT in desk.frozen_files()
    assert desk.jobs()["desk.route"]["sealed_after"] == 1.0


def test_a_plain_run_may_call_prompts_from_any_thread(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    metric = desk.read("test_desk.py").partition("@pytest.mark.prompt_metric")[0]
    desk.write("test_desk.py", metric + THREADS.replace("CARRIED", ""))
    desk.run().assert_outcomes(passed=1)
