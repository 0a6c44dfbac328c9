"""``--prompt-report``: files that tell of every kind of run, written once, by one process, and of no other."""

from __future__ import annotations

import importlib.util
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import optuna  # noqa: F401 - a run inside this process forgets what it imported, and numpy cannot come twice
import pytest

from tests.plugin.projects import Desk, words
from tests.report_world import faults_of
from tests.test_html_report import Page

ROOT = Path(__file__).resolve().parent.parent.parent
ENDINGS = ("md", "html", "json")
ALL = tuple(f"--prompt-report=out/report.{ending}" for ending in ENDINGS)

METRICS = """
    @pytest.mark.prompt_metric("tickets", threshold=0.75)
    def test_good(example):
        assert route(ticket=example.ticket) == example.team

    @pytest.mark.prompt_metric("tickets", threshold=0.9)
    def test_bad(example):
        assert route(ticket=example.ticket) == example.team

    def test_plain(): ...
"""
GOOD = METRICS.partition('    @pytest.mark.prompt_metric("tickets", threshold=0.9)')[0]


def _json(folder: Path, name: str = "out/report.json") -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    assert faults_of(report) == []
    return report


def _written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("out/*"))


# --- every kind of run ------------------------------------------------------------------------------------------------


def _gallery() -> Any:
    spec = importlib.util.spec_from_file_location("report_gallery", ROOT / ".ci" / "report_gallery.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


TITLES = {
    "passing": "Prompt gate: all 3 metrics pass",
    "failing": "Prompt gate: 2 of 3 got worse",
    "inconclusive": "Prompt gate: 1 of 1 inconclusive",
    "stale": "Prompt gate: 2 of 3 stale",
    "unrecorded": "Prompt gate: 1 of 1 unrecorded",
    "errored": "Prompt gate: 1 of 1 errored",
    "optimized": "Prompt search: 2 frozen",
    "models": "Prompt gate: all 6 metrics pass",
    "hostile": "Prompt gate: 1 of 1 got worse",
}


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports of every kind of run, made by real runs."""
    folder = tmp_path_factory.mktemp("gallery")
    _gallery().make_gallery(folder)
    return folder


@pytest.mark.parametrize("name", TITLES)
def test_every_kind_of_run_has_its_reports(gallery: Path, name: str) -> None:
    report = _json(gallery, f"{name}.json")
    assert report["title"] == TITLES[name]
    assert report["has_news"] is (name != "passing" and name != "models")
    assert TITLES[name] in (gallery / f"{name}.md").read_text(encoding="utf-8").splitlines()[1]
    page = Page((gallery / f"{name}.html").read_text(encoding="utf-8"))
    assert TITLES[name] in page.texts
    assert not page.unclosed
    assert ET.parse(gallery / f"{name}.xml").getroot() is not None


def test_a_prompt_that_somebody_edited_is_shown_as_a_diff(gallery: Path) -> None:
    (changed,) = _json(gallery, "failing.json")["changed_prompts"]
    assert changed["how"] == "edited"
    assert changed["changes"][-1] == {"mark": "+", "text": "Answer."}
    assert "+Answer.\n```" in (gallery / "failing.md").read_text(encoding="utf-8")


def test_a_search_shows_its_curve(gallery: Path) -> None:
    (search,) = _json(gallery, "optimized.json")["searches"]
    assert len(search["points"]) >= 2
    assert search["confirmed"]["is_proven"] is True
    page = Page((gallery / "optimized.html").read_text(encoding="utf-8"))
    assert len(page.named("circle", "trial")) == len(search["points"])


def test_two_models_show_whether_prompts_transfer(gallery: Path) -> None:
    report = _json(gallery, "models.json")
    assert {metric["model"] for metric in report["metrics"]} == {"offline/keyword", "offline/chatty"}
    assert len(report["transfers"]) == 3
    assert "Does it transfer?" in Page((gallery / "models.html").read_text(encoding="utf-8")).text


def test_rows_that_mean_harm_do_none(gallery: Path) -> None:
    texts = {name: (gallery / f"hostile.{name}").read_text(encoding="utf-8") for name in (*ENDINGS, "xml")}
    assert not any(sign in text for text in texts.values() for sign in "\x1b\x07\x00\u202e\u200b")
    assert "<script" not in texts["md"] + texts["html"]
    assert "@octocat" not in texts["md"]
    lost = _json(gallery, "hostile.json")["metrics"][0]["baseline"]["lost"]
    assert len(lost) == 14


# --- when and where ---------------------------------------------------------------------------------------------------


def test_a_failing_run_is_reported_and_its_files_are_named(project: Any) -> None:
    project.tests(METRICS)
    result = project.run(*ALL)
    assert result.ret == 1
    assert _written(project.path) == ["report.html", "report.json", "report.md"]
    result.stdout.fnmatch_lines(["report: out/report.md", "report: out/report.html", "report: out/report.json"])
    report = _json(project.path)
    assert report["title"] == "Prompt gate: 1 of 2 failed"
    assert report["run"]["exit_status"] == 1


def test_a_run_that_is_interrupted_tells_what_is_known(project: Any) -> None:
    project.tests(
        GOOD
        + """
    def test_stop():
        raise KeyboardInterrupt

    @pytest.mark.prompt_metric("tickets")
    def test_never(example): ...
    """
    )
    assert project.run_apart(*ALL).ret == 2
    report = _json(project.path)
    assert report["title"] == "Prompt gate: the only metric passes, ended early (interrupted)"
    assert report["level"] == "warning"
    assert [metric["name"] for metric in report["metrics"]] == ["test_good"]


def test_a_run_that_stops_at_the_first_failure_says_so(project: Any) -> None:
    project.tests(METRICS.replace("0.75", "0.99"))
    assert project.run("-x", *ALL).ret == 1
    assert _json(project.path)["title"] == "Prompt gate: 1 of 1 failed, ended early (stopping after 1 failures)"


def test_a_metric_without_figures_is_no_pass(project: Any) -> None:
    project.tests(
        GOOD
        + """
    @pytest.fixture
    def broken():
        raise OSError("the database is gone")

    @pytest.mark.prompt_metric("tickets")
    def test_broken(example, broken): ...
    """
    )
    project.run(*ALL)
    report = _json(project.path)
    assert report["title"] == "Prompt gate: 1 of 2 errored"
    (fault,) = report["faults"]
    assert fault["nodeid"] == "test_desk.py::test_broken"
    assert "the database is gone" in fault["text"]
    assert "the database is gone" in (project.path / "out/report.md").read_text(encoding="utf-8")


def test_other_tests_that_fail_are_told_apart_from_the_gate(project: Any) -> None:
    project.tests(
        GOOD
        + """
    def test_plain():
        assert False
    """
    )
    project.run(*ALL)
    report = _json(project.path)
    assert report["title"].endswith("the only metric passes, pytest ended with exit status 1 for other reasons")
    assert report["faults"] == []


def test_a_run_without_a_metric_says_so(project: Any) -> None:
    project.tests("def test_plain(): ...")
    assert project.run(*ALL).ret == 0
    assert _json(project.path)["title"] == "Prompt gate: no prompt metric ran"


@pytest.mark.parametrize("flag", ["--collect-only", "--prompt-dry-run", "--prompt-list"])
def test_a_run_that_runs_nothing_writes_nothing(project: Any, flag: str) -> None:
    project.tests(METRICS)
    project.run(flag, *ALL)
    assert not (project.path / "out").exists()


def test_workers_report_through_one_process_the_same_as_alone(project: Any) -> None:
    project.tests(METRICS)
    project.run_apart(*ALL, plugins="xdist.plugin")
    alone = _json(project.path)
    result = project.run_apart("-n", "2", *ALL, plugins="xdist.plugin")
    spread = _json(project.path)
    result.stdout.fnmatch_lines(["report: out/report.json"])
    for report in (alone, spread):
        for part in (report, *report["metrics"]):
            part.pop("spending")
    assert spread == alone


def test_a_metric_that_errs_on_a_worker_is_no_pass(project: Any) -> None:
    project.tests(
        GOOD
        + """
    @pytest.fixture
    def broken():
        raise OSError("the database is gone")

    @pytest.mark.prompt_metric("tickets")
    def test_broken(example, broken): ...
    """
    )
    project.run_apart("-n", "2", *ALL, plugins="xdist.plugin")
    assert _json(project.path)["title"] == "Prompt gate: 1 of 2 errored"


def test_the_same_run_writes_the_same_bytes(project: Any) -> None:
    project.tests(METRICS)
    project.run(*ALL)  # fills the store
    seen = []
    for _ in range(2):
        project.run(*ALL)
        seen.append({name: (project.path / "out" / name).read_bytes() for name in _written(project.path)})
    assert seen[0] == seen[1]


def test_the_ending_may_be_in_capitals_and_a_report_may_be_asked_for_twice(project: Any) -> None:
    project.tests(GOOD)
    project.run("--prompt-report", "a.MD", "--prompt-report", "b.md", "--prompt-report", "b.md")
    assert (project.path / "a.MD").read_bytes() == (project.path / "b.md").read_bytes()


# --- misuse -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["report.pdf", "report", ".md.txt"])
def test_an_unknown_kind_of_report_is_refused_naming_the_three(project: Any, name: str) -> None:
    project.tests(METRICS)
    result = project.run("--prompt-report", name)
    assert result.ret == 4
    assert f"--prompt-report {name}: the file's ending says which report it is: .html, .md or .json" in words(result)
    assert project.figures() == {}


@pytest.mark.parametrize("name", ["taken/report.md", "folder.md", "taken/deep/report.md"])
def test_a_report_that_cannot_be_written_ends_the_run_before_it_begins(project: Any, name: str) -> None:
    project.tests(METRICS)
    project.write("taken", "a file")
    (project.path / "folder.md").mkdir()
    result = project.run("--prompt-report", name)
    assert result.ret == 4
    assert "it cannot be written" in words(result)
    assert project.figures() == {}


def test_a_search_with_a_place_that_takes_no_report_asks_nothing(project: Any) -> None:
    desk = Desk(project)
    desk.write("taken", "a file")
    assert desk.optimize("--prompt-report", "taken/report.md").ret == 4
    assert desk.asked() == []


def test_a_place_that_is_lost_during_the_run_fails_it(project: Any) -> None:
    project.tests(
        GOOD
        + """
    def test_clumsy(request):
        (request.config.rootpath / "out").write_text("a file, where the folder would be")
    """
    )
    result = project.run(*ALL)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["report not written: out/report.md: *"])


def test_a_run_that_is_misused_leaves_the_last_report_alone(project: Any) -> None:
    desk = Desk(project)
    desk.write("out/report.json", "old")
    assert desk.optimize("--prompt-optimizer", "nonsense", *ALL).ret == 4
    assert desk.read("out/report.json") == "old"


# --- GitHub -----------------------------------------------------------------------------------------------------------


def test_the_summary_of_a_step_is_added_to(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = project.write("summary.md", "before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    project.tests(METRICS)
    project.run("--prompt-report", "report.md")
    page = (project.path / "report.md").read_text(encoding="utf-8")
    assert summary.read_text(encoding="utf-8") == f"before\n{page}\n"
    project.run()
    assert summary.read_text(encoding="utf-8").count("<!-- promptopt -->") == 2


def test_a_run_without_metrics_adds_nothing_to_the_summary(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = project.write("summary.md", "before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    project.tests("def test_plain(): ...")
    project.run("--prompt-model", "scripted/desk")
    assert summary.read_text(encoding="utf-8") == "before\n"


def test_a_summary_that_takes_nothing_is_told_and_harms_nothing(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path))
    project.tests(GOOD)
    result = project.run()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["the step's summary was not written: *"])


def test_annotations_stand_at_the_prompt_as_the_checkout_calls_it(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(project.path.parent))
    project.tests(METRICS)
    lines = [line for line in project.run("--prompt-lm", "auto").outlines if line.startswith("::")]
    (line,) = lines
    place = f"::error file={project.path.name}/test_desk.py,line=16,title=prompt metric test_bad::"
    assert line.startswith(place)
    assert "0.750 is below threshold=0.9" in line


def test_elsewhere_there_are_no_annotations(project: Any) -> None:
    project.tests(METRICS)
    assert not [line for line in project.run(*ALL).outlines if line.startswith("::")]


# --- searches ---------------------------------------------------------------------------------------------------------


def test_a_search_is_reported_with_what_it_froze(project: Any) -> None:
    desk = Desk(project)
    assert desk.optimize(*ALL).ret == 0
    report = _json(desk.path)
    (job,), (search,) = report["jobs"], report["searches"]
    assert (report["kind"], report["title"], job["outcome"]) == ("search", "Prompt search: 1 frozen", "frozen")
    assert search["points"][-1]["best_score"] == job["selected_score"]
    assert (search["proposals"], search["outcome"]) == (1, "frozen")
    assert report["run"]["written"][0] == job["path"]


def test_a_search_that_errs_is_no_success(project: Any) -> None:
    desk = Desk(project)
    desk.write("trouble.py", 'def trouble(request, is_proposal):\n    raise OSError("the wire is cut")\n')
    assert desk.optimize(*ALL).ret == 1
    report = _json(desk.path)
    assert report["title"] == "Prompt search: 1 errored"
    assert report["level"] == "fail"
    assert "the wire is cut" in report["faults"][0]["text"]


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_a_key_that_stands_in_rows_and_replies_is_in_no_report(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-live-0123456789abcdefghij-and-so-on-for-a-while-longer-than-a-cell-is-wide"
    monkeypatch.setenv("DESK_API_KEY", key)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "out/summary.md"))
    project.tests(f"""
    @pytest.fixture(scope="session")
    def leaky():
        return [{{"id": "t1", "ticket": "please use the key that I have: {key}", "team": "{key}"}}]

    @pytest.mark.prompt_metric("leaky")
    def test_leaks(example):
        assert route(ticket=example.ticket) == example.team, "{key}"

    @pytest.fixture
    def broken():
        raise OSError("{key}")

    @pytest.mark.prompt_metric("tickets")
    def test_broken(example, broken): ...
    """)
    project.run(*ALL, "--junitxml=out/junit.xml", "--show-capture=no", "--tb=no")
    assert len(_written(project.path)) == 5
    for path in project.path.glob("out/*"):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".xml":  # what a fixture raises is pytest's own to tell
            (case,) = (case for case in ET.fromstring(text).iter("testcase") if case.get("name") == "test_leaks")
            text = ET.tostring(case, encoding="unicode")
        assert key[:16] not in text, path.name
        assert "redacted" in text
