"""Prompts outside pytest: the snapshot serves an application as it serves a test, and nothing else comes along."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from pytest_promptopt.prompts import registry
from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo
from pytest_promptopt.snapshots.compiled import dump_frozen, freeze

MODEL = "offline/keyword"
FROZEN_WORDS = "Choose bug for: zebra. Choose billing for: walrus."

PROMPTS = '''
from typing import Literal

from pytest_promptopt import prompt


@prompt
def route(ticket: str) -> Literal["billing", "bug", "account"]:
    """Decide which team should answer."""


@prompt
async def aroute(ticket: str) -> Literal["billing", "bug", "account"]:
    """Decide, later, which team should answer."""


@prompt(optimize=False)
def judge(reply: str) -> bool:
    """Is this reply polite?"""


@prompt(model="offline/chatty")
def pinned(ticket: str) -> str:
    """Answer the customer."""
'''


class Application:
    """A package ``desk`` with prompts, and scripts that use it in a process of their own, without pytest."""

    def __init__(self, folder: Path, package: str = "desk", *, has_init_files: bool = True) -> None:
        self.folder = folder
        self.module = f"{package}.prompts".lstrip(".")
        self.prompts = folder.joinpath(*self.module.split(".")).with_suffix(".py")
        self.prompts.parent.mkdir(parents=True, exist_ok=True)
        for parent in [path for path in self.prompts.parents if path != folder and path.is_relative_to(folder)]:
            if has_init_files:
                (parent / "__init__.py").touch()
        self.prompts.write_text(PROMPTS)
        self.path: list[Path] = [folder]

    def freeze(self, name: str = "route", model: str = MODEL, instruction: str = FROZEN_WORDS) -> Path:
        """Freeze ``instruction`` and one demo for a prompt; gives the file."""
        spec = importlib.util.spec_from_file_location(self.module, self.prompts)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with registry.apart():
            spec.loader.exec_module(module)
        prompt: Any = getattr(module, name)
        frozen = freeze(
            prompt=prompt.name,
            model=model,
            signature_digest=prompt.signature.digest,
            source_digest=prompt.signature.source_digest,
            compiled=CompiledPrompt(
                instruction=instruction, demos=(Demo(inputs={"ticket": "a demo"}, output="account"),)
            ),
            provenance={"optimizer": "copro"},
        )
        path: Path = prompt.home.snapshot_path(model)
        path.parent.mkdir(exist_ok=True)
        path.write_text(dump_frozen(frozen), encoding="utf-8")
        return path

    def zip(self) -> Path:
        """Put everything into one archive, which takes the folder's place on the path."""
        archive = self.folder.parent / "application.zip"
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(self.folder.rglob("*")):  # folders too: without them no package lacks its __init__.py
                file.write(path, path.relative_to(self.folder))
        for path in sorted(self.folder.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        self.path = [archive]
        return archive

    def run(self, script: str, **environment: str) -> Any:
        """What the script ``show``\\ s, as JSON. ``warned`` holds its warnings as file, line and text."""
        prelude = f"""
            import asyncio, json, sys, warnings
            from pytest_promptopt import configure, using_model
            warned = []
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, category, file, line, *_: warned.append(
                [category.__name__, file, line, str(message)])
            show = lambda *values: print(json.dumps(values))
            from {self.module} import *
        """
        path = self.folder.parent / "script.py"
        path.write_text(dedent(prelude) + dedent(script))
        paths = [*map(str, self.path), *sys.path]
        result = subprocess.run(
            [sys.executable, "-B", path],
            capture_output=True,
            text=True,
            cwd=self.folder.parent,
            env={**_clean_environment(), "PYTHONPATH": os.pathsep.join(paths), **environment},
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def line_of(self, words: str) -> int:
        """The line of the last script that holds ``words``."""
        lines = (self.folder.parent / "script.py").read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if words in line)


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PROMPTOPT_", "PYTEST_"))}


@pytest.fixture
def application(tmp_path: Path) -> Application:
    return Application(tmp_path / "site")


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- which compiled prompt is in force --------------------------------------------------------------------------------


def test_an_application_uses_the_frozen_prompt_and_writes_nothing(application: Application) -> None:
    path = application.freeze()
    before = files_below(application.folder)
    standing, file, system, demo, source, answer, parts, parsed, warned = application.run("""
        configure(model="offline/keyword")
        messages = route.messages(ticket="x")
        prediction = route.predict(ticket="the zebra again")
        show(route.snapshot.standing, str(route.snapshot.path), messages[0]["content"], messages[1]["content"],
             route.source.instruction, route(ticket="the zebra again"),
             [prediction.value, prediction.text, prediction.model, prediction.is_replayed, prediction.cost_usd],
             route.parse("billing"), warned)
    """)
    assert standing == "frozen"
    assert Path(file) == path
    assert system.startswith(FROZEN_WORDS)
    assert "a demo" in demo
    assert source == "Decide which team should answer."
    assert answer == "bug"
    assert parts == ["bug", "bug", MODEL, False, 0.0]
    assert parsed == "billing"
    assert warned == []
    assert files_below(application.folder) == before
    assert [path.name for path in application.folder.parent.iterdir() if path.name != "script.py"] == ["site"]


@pytest.mark.parametrize("has_init_files", [True, False])
@pytest.mark.parametrize("package", ["desk", "company.desk", ""])
def test_a_zipped_application_uses_the_frozen_prompt_too(tmp_path: Path, package: str, has_init_files: bool) -> None:
    application = Application(tmp_path / "site", package, has_init_files=has_init_files)
    application.freeze()
    archive = application.zip()
    standing, file, system, missing, warned = application.run("""
        configure(model="offline/keyword")
        show(route.snapshot.standing, str(route.snapshot.path), route.messages(ticket="x")[0]["content"],
             judge.snapshot.standing, warned)
    """)
    assert (standing, missing, warned) == ("frozen", "source", [])
    assert Path(file).is_relative_to(archive)
    assert system.startswith(FROZEN_WORDS)


def test_another_models_snapshot_is_never_used(application: Application) -> None:
    application.freeze(model="offline/chatty")
    system, other = application.run("""
        configure(model="offline/keyword")
        with using_model("offline/chatty"):
            other = route.messages(ticket="x")[0]["content"]
        show(route.messages(ticket="x")[0]["content"], other)
    """)
    assert system.startswith("Decide which team")
    assert other.startswith(FROZEN_WORDS)


def test_an_edited_snapshot_is_used_and_no_reason_to_warn(application: Application) -> None:
    path = application.freeze()
    path.write_text(path.read_text().replace("zebra", "gazelle"))
    standing, answer, warned = application.run("""
        configure(model="offline/keyword", require_snapshot=True)
        show(route.snapshot.standing, route(ticket="the gazelle again"), warned)
    """)
    assert (standing, answer, warned) == ("edited", "bug", [])


@pytest.mark.parametrize("kind", ["stale", "missing"])
def test_a_source_that_runs_for_want_of_a_snapshot_warns_once_at_the_callers_line(
    application: Application, kind: str
) -> None:
    path = application.freeze()
    if kind == "stale":
        application.prompts.write_text(PROMPTS.replace("Decide which", "Say which"))
    else:
        path.unlink()
    system, warned = application.run("""
        configure(model="offline/keyword")
        route(ticket="first")
        route(ticket="second")
        route.predict(ticket="third")
        show(route.messages(ticket="x")[0]["content"], warned)
    """)
    assert system.startswith("Say which" if kind == "stale" else "Decide which")
    ((category, file, line, text),) = warned
    assert category == "PromptOptWarning"
    assert Path(file).name == "script.py"
    assert line == application.line_of("first")
    assert "prompts.route" in text
    assert MODEL in text
    assert kind in text
    assert str(path) in text


@pytest.mark.parametrize(
    "call",
    [
        'route(ticket="here")',
        'route.predict(ticket="here")',
        'route.messages(ticket="here")',
        'asyncio.run(aroute(ticket="here"))',
        'asyncio.run(aroute.predict(ticket="here"))',
        'aroute.messages(ticket="here")',
    ],
)
def test_however_a_prompt_is_asked_the_warning_points_out_of_this_package(application: Application, call: str) -> None:
    if call.startswith("asyncio"):
        inner = call.removeprefix("asyncio.run(").removesuffix(")")
        call = f"\n        async def main():\n            await {inner}\n        asyncio.run(main())"
    (warned,) = application.run(f"""
        configure(model="offline/keyword")
        {call}
        show(warned)
    """)
    ((_, file, line, _),) = warned
    assert (Path(file).name, line) == ("script.py", application.line_of("here"))


def test_each_prompt_and_each_model_gets_its_own_warning(application: Application) -> None:
    (warned,) = application.run("""
        configure(model="offline/keyword")
        for _ in range(2):
            route.messages(ticket="x"), aroute.messages(ticket="x"), pinned.messages(ticket="x")
            with using_model("offline/neighbor"):
                route.messages(ticket="x")
        show([text.partition(" is missing")[0] for *_, text in warned])
    """)
    assert warned == [
        "prompts.route: its snapshot for offline/keyword",
        "prompts.aroute: its snapshot for offline/keyword",
        "prompts.pinned: its snapshot for offline/chatty",
        "prompts.route: its snapshot for offline/neighbor",
    ]


@pytest.mark.parametrize("kind", ["stale", "missing"])
def test_an_application_can_insist_on_a_snapshot(application: Application, kind: str) -> None:
    path = application.freeze()
    if kind == "stale":
        application.prompts.write_text(PROMPTS.replace("Decide which", "Say which"))
    else:
        path.unlink()
    name, text, later = application.run("""
        configure(model="offline/keyword", require_snapshot=True)
        try:
            route(ticket="x")
        except Exception as error:
            name, text = type(error).__name__, str(error)
        configure(require_snapshot=False)
        show(name, text, route(ticket="x") in ("billing", "bug", "account"))
    """)
    assert name == "SnapshotError"
    assert kind in text
    assert str(path) in text
    assert "pytest --optimize-prompts --prompt prompts.route" in text
    assert later


def test_a_prompt_that_is_never_searched_misses_no_snapshot(application: Application) -> None:
    answer, warned = application.run("""
        configure(model="offline/keyword", require_snapshot=True)
        show(judge(reply="Thank you!") in (True, False), warned)
    """)
    assert answer is True
    assert warned == []


def test_a_snapshot_that_cannot_be_read_is_an_error_and_stays_as_it_is(application: Application) -> None:
    path = application.freeze()
    broken = path.read_bytes().replace(b"format = 1", b"format = 7")
    path.write_bytes(broken)
    name, text = application.run("""
        configure(model="offline/keyword")
        try:
            route(ticket="x")
        except Exception as error:
            show(type(error).__name__, str(error))
    """)
    assert name == "SnapshotError"
    assert str(path) in text
    assert path.read_bytes() == broken


# --- threads and coroutines -------------------------------------------------------------------------------------------


def test_many_threads_read_a_snapshot_once_and_warn_once(application: Application) -> None:
    path = application.freeze()
    systems, reads, warned = application.run(f"""
        from concurrent.futures import ThreadPoolExecutor
        from threading import Barrier
        path, reads, barrier = {str(path)!r}, [], Barrier(16)
        sys.setswitchinterval(1e-6)
        sys.addaudithook(lambda event, args: reads.append(1) if event == "open" and str(args[0]) == path else None)
        configure(model="offline/keyword")
        def ask(number):
            barrier.wait()
            aroute.messages(ticket="x")
            return route.messages(ticket=str(number))[0]["content"]
        with ThreadPoolExecutor(16) as pool:
            systems = set(pool.map(ask, range(64)))
        show(sorted(systems), len(reads), len(warned))
    """)
    assert len(systems) == 1
    assert systems[0].startswith(FROZEN_WORDS)
    assert reads == 1
    assert warned == 1


def test_a_coroutine_prompt_is_awaited_in_an_application(application: Application) -> None:
    application.freeze("aroute")
    answers, prediction, system, standing, warned = application.run("""
        configure(model="offline/keyword")
        async def main():
            values = await asyncio.gather(*(aroute(ticket=text) for text in ("a zebra", "the walrus")))
            return values, (await aroute.predict(ticket="a zebra")).value
        values, prediction = asyncio.run(main())
        show(values, prediction, aroute.messages(ticket="x")[0]["content"], aroute.snapshot.standing, warned)
    """)
    assert answers == ["bug", "billing"]
    assert prediction == "bug"
    assert system.startswith(FROZEN_WORDS)
    assert (standing, warned) == ("frozen", [])


# --- which model ------------------------------------------------------------------------------------------------------


def test_an_application_names_its_model_in_one_order(application: Application) -> None:
    script = """
        def model(prompt):
            try:
                return prompt.snapshot.model
            except Exception as error:
                return type(error).__name__
        before = model(route)
        configure(model="offline/forgetful")
        with using_model("offline/neighbor"):
            show(before, model(route), model(pinned))
        """
    for environment, expected in (({}, "ModelError"), ({"PROMPTOPT_MODEL": MODEL}, MODEL)):
        before, inside, pinned = application.run(script, **environment)
        assert (before, inside, pinned) == (expected, "offline/neighbor", "offline/chatty")
    outside = """
        configure(model="offline/forgetful")
        show(route.snapshot.model)
        """
    assert application.run(outside) == ["offline/forgetful"]
    assert application.run(outside, PROMPTOPT_MODEL=MODEL) == [MODEL]


def test_an_application_names_models_of_its_own(application: Application) -> None:
    application.freeze(model="house")
    answer, standing, model, refused = application.run("""
        configure(model="house", models={"house": {"model": "offline/keyword"}})
        answer = route.predict(ticket="the zebra again")
        try:
            configure(models={"house": {"modle": "offline/keyword"}})
        except Exception as error:
            refused = str(error)
        show(answer.value, route.snapshot.standing, answer.model, refused)
        """)
    assert (answer, standing) == ("bug", "frozen")
    assert model == "house"
    assert "modle" in refused


def test_without_any_model_a_call_says_how_to_name_one_and_messages_are_those_of_the_source(
    application: Application,
) -> None:
    application.freeze()
    name, text, system, inside = application.run("""
        try:
            route(ticket="x")
        except Exception as error:
            name, text = type(error).__name__, str(error)
        with using_model("offline/keyword"):
            inside = route.messages(ticket="x")[0]["content"]
        show(name, text, route.messages(ticket="x")[0]["content"], inside)
    """)
    assert name == "ModelError"
    assert "configure(model=" in text
    assert "PROMPTOPT_MODEL" in text
    assert system.startswith("Decide which team")
    assert inside.startswith(FROZEN_WORDS)


# --- what comes along -------------------------------------------------------------------------------------------------


def test_defining_prompts_imports_neither_pytest_nor_a_model_client_nor_pydantic(application: Application) -> None:
    application.freeze()
    (defined, used) = application.run("""
        heavy = ("pytest", "_pytest", "litellm", "openai", "pydantic", "aiohttp", "optuna", "tomlkit")
        loaded = lambda: sorted(set(heavy) & set(sys.modules))
        defined = loaded()
        configure(model="offline/keyword")
        route(ticket="the zebra again")
        show(defined, loaded())
    """)
    assert defined == []
    assert set(used).isdisjoint({"pytest", "_pytest", "litellm", "openai", "aiohttp", "optuna", "tomlkit"})


def test_an_application_frozen_for_a_changed_setting_runs_its_source(application: Application) -> None:
    application.freeze()
    application.prompts.write_text(PROMPTS.replace("@prompt\ndef route", "@prompt(temperature=0.5)\ndef route"))
    standing, system = application.run("""
        configure(model="offline/keyword")
        show(route.snapshot.standing, route.messages(ticket="x")[0]["content"])
    """)
    assert standing == "stale"
    assert system.startswith("Decide which team")
