"""The example project as a wheel, installed elsewhere: what was frozen serves there too, and nothing is written."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import pytest_promptopt
from pytest_promptopt.lms.models import DEFAULT_TIMEOUT_SECONDS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/production.md").read_text(encoding="utf-8")
SNAPSHOTS = "support/__prompts__"
ROUTE = f"{SNAPSHOTS}/prompts.route@offline-keyword.toml"
HELLO = "Sort this into billing or bug:\n\n  {ticket}\n"
DOCSTRING = "Decide which team should answer this support ticket."

LATER = f'''
"""A coroutine prompt and a text in a file of its own, which the example project has none of."""

from pytest_promptopt import prompt, text_prompt
from support.prompts import Team

HELLO = text_prompt("later.hello", file="hello.txt")


@prompt
async def route_later(ticket: str) -> Team:
    """{DOCSTRING}"""
'''

WATCH = """
import json, os, sys, warnings
opened, written = [], []
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
           "tempfile.mkstemp", "tempfile.mkdtemp", "sqlite3.connect", "socket.connect", "subprocess.Popen", "os.system"}
def watch(event, args):
    if event == "open":
        opened.append(str(args[0]))
        if isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
            written.append(str(args[0]))
    elif event in CHANGES:
        written.append(f"{event} {args[0]}")
sys.addaudithook(watch)

warned = []
warnings.simplefilter("always")
warnings.showwarning = lambda message, category, *_: warned.append(f"{category.__name__}: {message}")
tickets = json.loads(sys.argv[1])
report = {}
"""

TELL = """
report.update(warned=warned, opened=opened, written=written, imported=sorted(sys.modules))
print(json.dumps(report))
"""

UNWANTED = ("pytest", "_pytest", "litellm", "openai", "aiohttp", "optuna", "hypothesis", "tomlkit", "tabulate", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A place from which Python imports ``support``, and an empty folder elsewhere in which it runs."""

    path: Path
    elsewhere: Path
    tickets: tuple[str, ...]

    def python(self, file: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``file`` as an application's process: none of our source tree on the path but the package."""
        home = Path(pytest_promptopt.__file__).parent.parent
        return subprocess.run(
            [sys.executable, *arguments, file, json.dumps(self.tickets)],
            capture_output=True,
            encoding="utf-8",
            cwd=self.elsewhere,
            env={**_bare_environment(self.elsewhere), "PYTHONPATH": f"{self.path}{os.pathsep}{home}", **environment},
            check=False,
        )

    def run(self, script: str, *arguments: str) -> dict[str, Any]:
        """What ``script`` put into ``report``, with its warnings, opened files and imported modules.

        Whatever it does: no file is opened for writing, nothing is made, no connection opened, and neither pytest nor a
        client library imported.
        """
        file = self.elsewhere.parent / "script.py"
        file.write_text(WATCH + dedent(script) + TELL, encoding="utf-8")
        done = self.python(file, *arguments)
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        assert report["written"] == []
        assert set(report["imported"]).isdisjoint(UNWANTED)
        assert list(self.elsewhere.iterdir()) == []
        return report


def _bare_environment(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    return {**kept, "HOME": str(home), "USERPROFILE": str(home), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}


def _copy_project(folder: Path) -> Path:
    """The example project with demos in its snapshots, two prompts more, and what a developer's folder collects."""
    shutil.copytree(ROOT / "example_project", folder, ignore=shutil.ignore_patterns("__pycache__", "__prompts__", ".*"))
    _freeze(folder)
    (folder / "support/later.py").write_text(LATER, encoding="utf-8")
    (folder / "support/hello.txt").write_text(HELLO, encoding="utf-8", newline="\n")
    frozen = (folder / ROUTE).read_text(encoding="utf-8").replace('"prompts.route"', '"later.route_later"', 1)
    (folder / SNAPSHOTS / "later.route_later@offline-keyword.toml").write_text(frozen, encoding="utf-8", newline="\n")
    for debris in ("support/__pycache__/prompts.cpython-311.pyc", ".promptopt/store.sqlite", ".pytest_cache/README.md"):
        (folder / debris).parent.mkdir()
        (folder / debris).write_text("debris")
    return folder


def _freeze(project: Path) -> None:
    """What ``mipro`` finds, for it shows demos; the store and the caches that this leaves are not the project's."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--optimize-prompts"]
    environment = {**_bare_environment(project), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [
            *command,
            "--prompt-optimizer",
            "mipro",
            "--prompt-model",
            "offline/keyword",
            "--prompt-model",
            "offline/chatty",
        ],
        cwd=project,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout  # 1 where a score stays below its threshold
    shutil.rmtree(project / ".promptopt")


def _build(project: Path, folder: Path) -> Path:
    command: list[str | Path] = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    done = subprocess.run(command, cwd=project, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def _install(wheel: Path, folder: Path) -> Path:
    """Install with pip, or where an environment has none, as pip would lay a pure wheel out."""
    if importlib.util.find_spec("pip") is None:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        return folder
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "install", "-q"]
    command: list[str | Path] = [*pip, "--no-deps", "--no-index", "--target", folder, wheel]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return folder


def _set_writable(folder: Path, *, is_writable: bool) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755 if is_writable else 0o555)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _copy_project(tmp_path_factory.mktemp("home") / "desk")


@pytest.fixture(scope="session")
def wheel(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(project, project.parent / "dist")


@pytest.fixture(scope="session")
def bare_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is built when ``__prompts__`` never reached the machine that builds."""
    project = _copy_project(tmp_path_factory.mktemp("home") / "desk")
    shutil.rmtree(project / SNAPSHOTS)
    return _build(project, project.parent / "dist")


@pytest.fixture(scope="session")
def site_packages(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The wheel, installed where nobody may write."""
    folder = _install(wheel, tmp_path_factory.mktemp("application") / "site-packages")
    _set_writable(folder, is_writable=False)
    yield folder
    _set_writable(folder, is_writable=True)


@pytest.fixture(scope="session")
def tickets(project: Path) -> tuple[str, ...]:
    lines = (project / "tests/tickets.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line)["ticket"] for line in lines[:40])


@pytest.fixture
def site(tmp_path: Path, tickets: tuple[str, ...]) -> Iterator[Callable[[Path], Site]]:
    """Makes a site of a folder or an archive; it runs in, and calls home, an empty folder where nobody may write."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    _set_writable(elsewhere, is_writable=False)
    yield lambda path: Site(path=path, elsewhere=elsewhere, tickets=tickets)
    _set_writable(elsewhere, is_writable=True)


@pytest.fixture
def installed(site: Callable[[Path], Site], site_packages: Path) -> Site:
    return site(site_packages)


@pytest.fixture
def bare(site: Callable[[Path], Site], bare_wheel: Path) -> Site:
    return site(bare_wheel)  # zipped, because an installed one differs in nothing that matters here


@pytest.fixture
def spoiled(site: Callable[[Path], Site], site_packages: Path, tmp_path: Path) -> Site:
    """An installation in which somebody may change what they like."""
    copy = shutil.copytree(site_packages, tmp_path / "site-packages")
    _set_writable(copy, is_writable=True)
    return site(copy)


@pytest.fixture
def stale(spoiled: Site) -> Site:
    """An installation in which somebody changed one docstring."""
    source = spoiled.path / "support/prompts.py"
    source.write_text(source.read_text(encoding="utf-8").replace("Decide which", "Say which"), encoding="utf-8")
    return spoiled


@pytest.fixture(scope="session")
def answers_at_home(
    project: Path, tickets: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> list[list[str]]:
    """What the application answers where it was developed."""
    elsewhere = tmp_path_factory.mktemp("at-home") / "elsewhere"
    elsewhere.mkdir()
    return list(Site(path=project, elsewhere=elsewhere, tickets=tickets).run(ANSWER)["answers"])


HELPERS = """
from pytest_promptopt import FormatError, configure
from support.desk import triage
from support.prompts import priority, route
def answer_to(ticket):
    try:
        answer = triage(ticket)
    except FormatError:
        return "unreadable"
    return [answer.team, answer.priority]
"""

ANSWER = f"""{HELPERS}
configure(model="offline/keyword")
report["answers"] = [answer_to(ticket) for ticket in tickets]
report["standings"] = [route.snapshot.standing, priority.snapshot.standing]
report["path"] = str(route.snapshot.path)
report["messages"] = [message["content"] for message in route.messages(ticket="x")]
"""

ANSWER_IN_THREADS = f"""{HELPERS}
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
sys.setswitchinterval(1e-6)
configure(model="offline/keyword")
start = Barrier(32)
def answer_number(number):
    if number < 32:
        start.wait(60)
    return answer_to(tickets[number % len(tickets)])
with ThreadPoolExecutor(32) as pool:
    report["answers"] = list(pool.map(answer_number, range(200)))
"""


def _documented(name: str, kind: str = "file") -> str:
    """The block of docs/production.md below the mark of this name."""
    match = re.search(rf"<!-- {kind}: {re.escape(name)} -->\n```\w+\n(.*?)```\n", PAGE, re.DOTALL)
    assert match is not None, f"docs/production.md has no {kind} {name}"
    return match[1]


# --- what is in the wheel ---------------------------------------------------------------------------------------------


def test_the_wheel_holds_the_package_with_its_snapshots_and_neither_tests_nor_caches(
    wheel: Path, project: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("METADATA")]
    package = [path for path in (project / "support").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert held == {path.relative_to(project).as_posix(): path.read_bytes() for path in package}
    assert ROUTE in held
    assert "Requires-Dist: pytest-promptopt\n" in metadata


# --- with its snapshots -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("-O",)], ids=["plain", "optimized"])
@pytest.mark.parametrize("form", ["installed", "zipped"])
def test_frozen_prompts_answer_elsewhere_as_they_did_at_home(
    site: Any, form: str, options: tuple[str, ...], site_packages: Path, wheel: Path, answers_at_home: list[list[str]]
) -> None:
    path = site_packages if form == "installed" else wheel
    report = site(path).run(ANSWER, *options)
    frozen = tomllib.loads((site_packages / ROUTE).read_text(encoding="utf-8"))
    system, *shown, asked = report["messages"]
    assert report["standings"] == ["frozen", "frozen"]
    assert Path(report["path"]) == path / ROUTE
    assert system.startswith(frozen["instruction"])
    assert [shown[index] for index in range(1, len(shown), 2)] == [demo["output"] for demo in frozen["demos"]]
    assert "x" in asked
    assert report["answers"] == answers_at_home
    assert report["warned"] == []


def test_what_was_frozen_makes_a_difference(bare: Site, answers_at_home: list[list[str]]) -> None:
    report = bare.run(ANSWER)
    assert report["standings"] == ["source", "source"]
    assert report["answers"] != answers_at_home


@pytest.mark.parametrize("form", ["installed", "zipped"])
def test_threads_that_start_together_get_right_answers_and_read_each_snapshot_once(
    site: Any, form: str, site_packages: Path, wheel: Path, answers_at_home: list[list[str]]
) -> None:
    report = site(site_packages if form == "installed" else wheel).run(ANSWER_IN_THREADS, "-O")
    assert report["answers"] == [answers_at_home[number % len(answers_at_home)] for number in range(200)]
    assert report["warned"] == []
    read = sorted(path for path in report["opened"] if path.endswith(".toml"))
    expected = [site_packages / SNAPSHOTS / f"prompts.{name}@offline-keyword.toml" for name in ("priority", "route")]
    assert read == ([str(path) for path in expected] if form == "installed" else [])


def test_another_model_runs_the_source_and_never_a_strange_snapshot(installed: Site) -> None:
    report = installed.run("""
        from pytest_promptopt import configure, using_model
        from support.prompts import route
        configure(model="offline/neighbor")
        def asked():
            return [route.snapshot.standing, [message["content"] for message in route.messages(ticket="x")]]
        report["neighbor"] = asked()
        for name in ("keyword", "chatty"):
            with using_model(f"offline/{name}"):
                report[name] = asked()
    """)
    standing, (system, _) = report["neighbor"]
    assert standing == "source"
    assert system.startswith(DOCSTRING)
    assert [report["keyword"][0], report["chatty"][0]] == ["frozen", "frozen"]
    assert report["keyword"][1] != report["chatty"][1]
    (warned,) = report["warned"]
    assert warned.startswith("PromptOptWarning: prompts.route: its snapshot for offline/neighbor is missing")


def test_coroutines_are_awaited_and_each_task_keeps_its_model(
    installed: Site, answers_at_home: list[list[str]]
) -> None:
    report = installed.run("""
        import asyncio
        from pytest_promptopt import configure, using_model
        from support.later import route_later
        from support.prompts import route
        configure(model="offline/keyword")
        async def standing_on(model):
            with using_model(model):
                await asyncio.sleep(0)
                await route_later(ticket="x")
                return route_later.snapshot.standing
        async def main():
            report["awaited"] = await asyncio.gather(*(route_later(ticket=ticket) for ticket in tickets))
            report["carried"] = await asyncio.gather(*(asyncio.to_thread(route, ticket=ticket) for ticket in tickets))
            report["predicted"] = (await route_later.predict(ticket=tickets[0])).value
            models = ("offline/keyword", "offline/neighbor", "offline/keyword")
            report["standings"] = await asyncio.gather(*(standing_on(model) for model in models))
        asyncio.run(main())
    """)
    teams = [team for team, _ in answers_at_home]
    assert report["awaited"] == teams
    assert report["carried"] == teams
    assert report["predicted"] == teams[0]
    assert report["standings"] == ["frozen", "source", "frozen"]
    (warned,) = report["warned"]
    assert "later.route_later: its snapshot for offline/neighbor is missing" in warned


@pytest.mark.parametrize("form", ["installed", "zipped"])
def test_a_text_in_a_file_goes_along_and_is_sent_byte_for_byte(
    site: Any, form: str, site_packages: Path, wheel: Path
) -> None:
    report = site(site_packages if form == "installed" else wheel).run("""
        import asyncio
        from pytest_promptopt import configure
        from support.later import HELLO
        report["unconfigured"] = HELLO.format(ticket=tickets[0])
        configure(model="offline/keyword")
        report["sent"] = HELLO.messages(ticket=tickets[0])[0]["content"]
        report["awaited"] = asyncio.run(HELLO.acall(ticket=tickets[0])) == HELLO(ticket=tickets[0])
    """)
    text = HELLO.format(ticket=site(wheel).tickets[0])
    assert report["unconfigured"] == text
    assert report["sent"] == text
    assert report["awaited"]
    (warned,) = report["warned"]
    assert "later.hello: its snapshot for offline/keyword is missing" in warned


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_workers_forked_after_the_start_answer_with_what_their_parent_read(
    installed: Site, answers_at_home: list[list[str]]
) -> None:
    report = installed.run(
        _documented("application.py")
        + HELPERS
        + dedent("""
            report["answers"], report["reads"] = [], []
            for number in range(4):
                here, there = os.pipe()
                if os.fork() == 0:
                    opened.clear()
                    answer = answer_to(tickets[number])
                    reads = [path for path in opened if path.endswith(".toml")]
                    os.write(there, json.dumps([answer, reads]).encode())
                    os._exit(0)
                os.close(there)
                with open(here, encoding="utf-8") as pipe:
                    answer, reads = json.load(pipe)
                report["answers"].append(answer)
                report["reads"] += reads
                assert os.wait()[1] == 0
        """)
    )
    assert report["answers"] == answers_at_home[:4]
    assert report["reads"] == []
    assert report["warned"] == []


# --- without its snapshots --------------------------------------------------------------------------------------------


def test_without_snapshots_the_source_runs_and_each_prompt_warns_once_whatever_the_threads(bare: Site) -> None:
    report = bare.run(ANSWER_IN_THREADS)
    alone = bare.run(ANSWER)
    assert report["answers"] == [alone["answers"][number % len(bare.tickets)] for number in range(200)]
    assert len(alone["messages"]) == 2
    assert alone["messages"][0].startswith(DOCSTRING)
    for each in (report, alone):
        subjects = sorted(warned.partition(" is missing")[0] for warned in each["warned"])
        assert subjects == [
            f"PromptOptWarning: prompts.{name}: its snapshot for offline/keyword" for name in ("priority", "route")
        ]


def test_with_a_changed_docstring_the_source_runs_and_warns_once(stale: Site) -> None:
    report = stale.run(ANSWER_IN_THREADS)
    alone = stale.run(ANSWER)
    assert alone["standings"] == ["stale", "frozen"]
    assert alone["messages"][0].startswith("Say which team")
    for each in (report, alone):
        (warned,) = each["warned"]
        assert "prompts.route: its snapshot for offline/keyword is stale" in warned


@pytest.mark.parametrize("state", ["missing", "stale"])
def test_an_application_that_insists_is_refused_at_every_call_with_file_and_command(
    request: pytest.FixtureRequest, state: str
) -> None:
    application: Site = request.getfixturevalue("bare" if state == "missing" else "stale")
    report = application.run("""
        from concurrent.futures import ThreadPoolExecutor
        from pytest_promptopt import PromptOptError, configure
        from support.prompts import route
        configure(model="offline/keyword", require_snapshot=True)
        def refusal(number):
            try:
                route(ticket=tickets[number])
            except PromptOptError as error:
                return [type(error).__name__, str(error)]
        with ThreadPoolExecutor(8) as pool:
            report["refusals"] = list(pool.map(refusal, range(20)))
    """)
    ((name, text),) = {tuple(refusal) for refusal in report["refusals"]}
    assert name == "SnapshotError"
    assert f"is {state}" in text
    assert str(application.path / ROUTE) in text
    assert "pytest --optimize-prompts --prompt prompts.route" in text
    assert report["warned"] == []


# --- what comes along -------------------------------------------------------------------------------------------------


def test_a_script_that_writes_is_caught(installed: Site) -> None:
    for deed in (
        "open('made', 'a').close()",
        "os.mkdir('made')",
        "import socket; socket.create_connection(('127.0.0.1', 1))",
    ):
        with pytest.raises(AssertionError, match=r"made|socket\.connect"):
            installed.run(f"try:\n    {deed}\nexcept OSError:\n    pass\n")
        for path in installed.elsewhere.iterdir():
            path.rmdir() if path.is_dir() else path.unlink()


def test_simulators_answer_without_a_database(installed: Site) -> None:
    assert "sqlite3" not in installed.run(ANSWER)["imported"]


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def page_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file as the page shows it, and something after it."""

    def write(name: str, after: str = "") -> Path:
        path = tmp_path / name
        path.write_text(_documented(name) + dedent(after), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("name", ["application.py", "smoke.py"])
def test_the_checks_of_the_page_pass_what_is_complete_and_stop_at_one_missing_snapshot(
    page_file: Any, installed: Site, spoiled: Site, name: str
) -> None:
    passed = installed.python(page_file(name))
    assert passed.returncode == 0, passed.stderr
    (spoiled.path / SNAPSHOTS / "prompts.priority@offline-keyword.toml").unlink()
    failed = spoiled.python(page_file(name))
    assert failed.returncode == 1
    assert "SnapshotError: prompts.priority: its snapshot for offline/keyword is missing" in failed.stderr


def test_the_smoke_test_of_the_page_fails_what_is_stale_and_checks_the_model_of_the_environment(
    page_file: Any, installed: Site, stale: Site
) -> None:
    smoke = page_file("smoke.py")
    failed = stale.python(smoke)
    assert failed.returncode == 1
    assert "SnapshotError: prompts.route: its snapshot for offline/keyword is stale" in failed.stderr
    other = installed.python(smoke, PROMPTOPT_MODEL="offline/neighbor")
    assert other.returncode == 1
    assert "SnapshotError: prompts.route: its snapshot for offline/neighbor is missing" in other.stderr


@pytest.mark.skipif(shutil.which("grep") is None, reason="the command needs grep")
def test_the_command_of_the_page_tells_a_wheel_with_snapshots_from_one_without(wheel: Path, bare_wheel: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    statuses = [
        subprocess.run(
            _documented("list", "command"),
            shell=True,
            cwd=each.parent.parent,
            env={**os.environ, "PATH": path},
            stdout=subprocess.DEVNULL,
            check=False,
        ).returncode
        for each in (wheel, bare_wheel)
    ]
    assert statuses == [0, 1]


def test_what_the_page_catches_is_what_is_raised(
    page_file: Any, site: Callable[[Path], Site], installed: Site, bare: Site, tmp_path: Path
) -> None:
    script = page_file(
        "answers.py", "import json, sys\nprint([team_for(ticket) for ticket in json.loads(sys.argv[1])])"
    )
    model = {"PROMPTOPT_MODEL": "offline/keyword"}
    fine, unreadable = installed.python(script, **model), bare.python(script, **model)
    assert "unsorted" not in fine.stdout
    assert "unsorted" in unreadable.stdout
    assert "nobody can read" in unreadable.stderr

    silent = tmp_path / "silent/support/prompts.py"
    silent.parent.mkdir(parents=True)
    silent.write_text(
        dedent("""
            from pytest_promptopt.errors import LMError, LMErrorKind
            def route(ticket):
                raise LMError("slow down", kind=LMErrorKind.RATE_LIMIT)
        """)
    )
    unanswered = site(tmp_path / "silent").python(script)
    assert set(re.findall(r"\w+", unanswered.stdout)) == {"unsorted"}
    assert "the model is silent (rate limit)" in unanswered.stderr


def test_a_call_with_the_deadline_of_the_page_is_answered(page_file: Any, installed: Site) -> None:
    script = page_file("deadline.py", 'print(asyncio.run(team_in_time("Where is my parcel?")))')
    done = installed.python(script, PROMPTOPT_MODEL="offline/keyword")
    assert done.stdout.strip() in {"billing", "delivery", "device", "app", "account"}, done.stderr


def test_the_page_names_the_time_that_one_attempt_may_take() -> None:
    assert f"One attempt may take {DEFAULT_TIMEOUT_SECONDS:g} seconds" in " ".join(PAGE.split())


def test_the_lines_for_setuptools_name_the_files_that_the_wheel_of_the_example_holds(site_packages: Path) -> None:
    settings = tomllib.loads(_documented("setuptools.toml"))["tool"]["setuptools"]
    ((package, (pattern,)),) = settings["package-data"].items()
    assert package == "*"
    assert set((site_packages / "support").glob(pattern)) == set((site_packages / SNAPSHOTS).iterdir())
