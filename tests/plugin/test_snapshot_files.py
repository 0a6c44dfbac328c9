"""Files that cannot be read or written, options that cannot be meant: said in words, before a call, nothing lost."""

from __future__ import annotations

from typing import Any

import pytest

from tests.plugin.projects import BASELINE, SNAPSHOT, Desk, words


def _unclosed(text: str) -> tuple[str, int]:
    return text.replace("format = 1", 'format = "1', 1), 1


def _merged(text: str) -> tuple[str, int]:
    return "<<<<<<< HEAD\n" + text + "=======\n>>>>>>> theirs\n", 1


def _unknown_key(text: str) -> tuple[str, int]:
    lines = text.splitlines(keepends=True)
    return "".join([*lines[:3], "colour = 3\n", *lines[3:]]), 4


def _duplicate_key(text: str) -> tuple[str, int]:
    lines = text.splitlines(keepends=True)
    return "".join([*lines[:3], lines[2], *lines[3:]]), 4


def _unknown_format(text: str) -> tuple[str, int]:
    return text.replace("format = 1", "format = 99", 1), 1


SPOILERS = (_unclosed, _merged, _unknown_key, _duplicate_key, _unknown_format)


@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize("name", [SNAPSHOT, BASELINE])
def test_a_file_that_cannot_be_read_is_named_with_its_line_and_left_as_it_is(
    project: Any, name: str, spoil: Any
) -> None:
    desk = Desk(project)
    desk.freeze()
    text, line = spoil(desk.read(name))
    (desk.path / name).write_text(text, encoding="utf-8")
    files = desk.frozen_files()
    for result in (desk.run(), desk.run("--prompt-bless"), desk.optimize()):
        assert result.ret in (1, 4)
        told = words(result)
        assert f"{name}:{line}" in told or (name in told and f"line {line}" in told)
        assert "INTERNALERROR" not in told
        assert "pytest_promptopt/" not in told
        assert desk.frozen_files() == files


@pytest.mark.parametrize("name", [SNAPSHOT, BASELINE])
def test_bytes_that_are_no_text_are_named_and_left_as_they_are(project: Any, name: str) -> None:
    desk = Desk(project)
    desk.freeze()
    (desk.path / name).write_bytes(b"\xff\xfe\x00")
    for result in (desk.run(), desk.optimize()):
        assert result.ret in (1, 4)
        assert name in words(result)
        assert (desk.path / name).read_bytes() == b"\xff\xfe\x00"


def test_a_snapshot_under_another_ones_name_is_an_error_and_not_used(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    desk.replace(SNAPSHOT, 'prompt = "desk.route"', 'prompt = "desk.other"')
    result = desk.run()
    assert result.ret == 1
    assert "desk.other" in words(result)


def test_windows_line_ends_are_no_edit(project: Any) -> None:
    desk = Desk(project)
    desk.freeze()
    for name, content in desk.frozen_files().items():
        (desk.path / name).write_bytes(content.replace(b"\n", b"\r\n"))
    files = desk.frozen_files()
    assert desk.run().ret == 0
    assert desk.figure()["prompts"][0]["standing"] == "frozen"
    assert desk.optimize().ret == 0
    assert desk.frozen_files() == files


@pytest.mark.parametrize("place", ["__prompts__", "tests/__prompts__"])
def test_a_file_in_the_place_of_a_folder_is_refused_before_any_call(project: Any, place: str) -> None:
    desk = Desk(project)
    desk.write("tests/test_desk.py", desk.read("test_desk.py"))
    (desk.path / "test_desk.py").unlink()
    (desk.path / "tickets.jsonl").rename(desk.path / "tests" / "tickets.jsonl")
    desk.write(place, "I was here first.\n")
    result = desk.optimize()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert desk.asked() == []
    assert f"{place} is not a folder" in words(result)
    assert desk.read(place) == "I was here first.\n"


def test_a_prompt_that_lives_outside_the_project_is_refused_before_any_call(
    project: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(project)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (desk.path / "desk.py").rename(elsewhere / "desk.py")
    monkeypatch.syspath_prepend(elsewhere)
    result = desk.optimize("--prompt", "route")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert desk.asked() == []
    assert "is outside" in words(result)
    assert not (elsewhere / "__prompts__").exists()


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--prompt-optimizer", "corpo"], "Unknown optimizer 'corpo'. Did you mean 'copro'?"),
        (["--prompt-set", "copro.breath=3"], "no setting 'breath'. Did you mean 'breadth'?"),
        (["--prompt-set", "copro.breadth=many"], "copro.breadth must be a whole number, not 'many'"),
        (["--prompt-set", "copro.breadth=1"], "copro.breadth"),
        (["--prompt-set", "breadth=3"], "write it as NAME.key=value"),
        (["--prompt-model", "offline/nobody"], "offline/nobody"),
        (["--prompt-model", "nobody"], "nobody"),
        (["--prompt-proposer", "offline/nobody"], "offline/nobody"),
        (["--prompt-budget", "lots"], "--prompt-budget lots"),
        (["--prompt-budget", "0"], "--prompt-budget 0"),
        (["--prompt-max-cost", "cheap"], "--prompt-max-cost cheap"),
        (["--prompt-seed", "x"], "--prompt-seed x"),
    ],
)
def test_an_option_that_cannot_be_meant_ends_with_exit_status_4_before_any_call(
    project: Any, arguments: list[str], told: str
) -> None:
    desk = Desk(project)
    result = desk.optimize(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert told in words(result)
    assert "Traceback" not in words(result)
    assert desk.asked() == []
    assert desk.frozen_files() == {}


def test_a_setting_for_a_strategy_that_is_not_there_is_refused(project: Any) -> None:
    desk = Desk(project)
    result = desk.optimize("--prompt-set", "corpo.breadth=3")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "corpo" in words(result)


def test_no_model_at_all_ends_with_exit_status_4_and_the_ways_to_name_one(project: Any) -> None:
    desk = Desk(project)
    desk.ini(model="")
    result = desk.optimize()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "no model is configured: name one with --prompt-model" in words(result)


def test_an_unreadable_pyproject_is_named(project: Any) -> None:
    desk = Desk(project)
    desk.write("pyproject.toml", "[tool.pytest-promptopt.copro\n")
    result = desk.optimize()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "pyproject.toml" in words(result)
    assert "Traceback" not in words(result)


@pytest.mark.parametrize("flags", [("-n", "2"), ("-n2",), ("--numprocesses=2",)])
def test_typed_workers_are_refused(project: Any, flags: tuple[str, ...]) -> None:
    desk = Desk(project)
    result = desk.run_apart("--optimize-prompts", *flags, plugins="xdist")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "leave out -n" in words(result)
    assert desk.asked() == []


def test_workers_from_addopts_are_switched_off_with_one_line(project: Any) -> None:
    desk = Desk(project)
    desk.ini("addopts = -n 2")
    result = desk.run_apart("--optimize-prompts", plugins="xdist")
    assert result.ret == 0
    assert words(result).count("-n from addopts is switched off") == 1
    assert SNAPSHOT in desk.frozen_files()


def test_a_search_with_a_remote_model_in_ci_has_to_name_its_mode(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(project)
    desk.make_remote()
    monkeypatch.setenv("CI", "1")
    result = desk.optimize()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert desk.asked() == []
    assert "--prompt-lm" in words(result)
    assert desk.optimize("--prompt-lm", "auto").ret == 0
    assert SNAPSHOT in desk.frozen_files()


def test_a_search_with_a_simulator_in_ci_needs_no_mode(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(project)
    monkeypatch.setenv("CI", "1")
    assert desk.optimize().ret == 0
    assert SNAPSHOT in desk.frozen_files()
