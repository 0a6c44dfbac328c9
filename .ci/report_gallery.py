"""Make the reports of every kind of run, as files to look at: ``python .ci/report_gallery.py [FOLDER]``.

Runs pytest on copies of the example project and on a small desk whose model answers from a script, and leaves a
``.md``, ``.html``, ``.json`` and JUnit file of each in FOLDER (default ``build/reports``). Where a Chromium is found,
also screenshots of each page: wide and narrow, light and dark.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".promptopt", ".pytest_cache")
IDENTITY = ("-c", "user.name=gallery", "-c", "user.email=gallery@example.org", "-c", "commit.gpgsign=false")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SCREENS = {"wide": 1280, "phone": 390}
SCHEMES = {"light": (), "dark": ("--blink-settings=preferredColorScheme=0",)}
FRAME = """<!DOCTYPE html><style>:root {{ color-scheme: light dark; }} body {{ margin: 0; }}
iframe {{ border: 0; width: {width}px; height: 1600px; }}</style><iframe src="{address}"></iframe>
"""

ORDINARY = ("Why is my bill so high?", "It crashed again.", "Please rename my account.")
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "]]> --> </svg></style></title></details><!-- <b>",
    "| a | b | `code` ``` ~~~ **bold** _it_ # 1 @octocat o/r#12 GH-3 ![x](https://example.org/x.png) [y](javascript:z)",
    "https://example.org/issues/1 www.example.org mailto:someone@example.org",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x00\x08\x7f\x9b \u202eback\u202c \u200bnothing\u2028line\r\n::error::no",
    "&lt;b&gt; &#64; ${{ secrets }} $x$ <!-- promptopt --> %0A::warning::no \ud83d",
)

DESK_CONFTEST = """
import json
import re
from pathlib import Path

from pytest_promptopt.errors import LMError, LMErrorKind
from pytest_promptopt.lms.scripted import ScriptedLM

MOOD = json.loads(Path(__file__).with_name("mood.json").read_text())


class Remote(ScriptedLM):
    is_offline = False


def answer(request):
    row = re.search(r"t-\\d\\d\\d", request.messages[-1]["content"])[0]
    if row in MOOD["down"]:
        return LMError("the key was refused", kind=LMErrorKind.AUTH)
    return MOOD["wrong"].get(row, ("billing", "bug", "account")[int(row[2:]) % 3])


def pytest_promptopt_make_lm(model):
    return Remote(answer) if model == "scripted/desk" else None
"""

DESK_TESTS = '''
import pytest

from pytest_promptopt import load_dataset, prompt


@prompt
def route(ticket: str) -> str:
    """Decide which team should answer: billing, bug or account."""


@pytest.mark.prompt_metric("tickets.jsonl", threshold=0.6)
def test_routes(example):
    reply = route(ticket=example["ticket"])
    assert reply == example["team"]
'''


@dataclass(frozen=True, slots=True)
class Scene:
    """One kind of run: how to set it up in a folder of its own, what to type, and how it has to end."""

    set_up: Callable[[Path], None]
    arguments: tuple[str, ...] = ()
    exit_status: int = 0


def example(desk: Path) -> None:
    """The example project with what is frozen in it."""
    shutil.copytree(ROOT / "example_project", desk, ignore=LEFT_OUT)


def bare_example(desk: Path) -> None:
    """The example project before anything was frozen."""
    example(desk)
    for folder in desk.rglob("__prompts__"):
        shutil.rmtree(folder)


def spoiled_example(desk: Path) -> None:
    """Somebody edited what was frozen, and git knows what it was."""
    example(desk)
    for arguments in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "As it was")):
        subprocess.run(["git", *IDENTITY, *arguments], cwd=desk, check=True)
    for path in desk.glob("support/__prompts__/*route*.toml"):
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"instruction = '''.*?'''", "instruction = '''Answer.'''", text, flags=re.DOTALL))


def stale_example(desk: Path) -> None:
    """Somebody edited a docstring, and the gate is lenient enough to let the source pass."""
    example(desk)
    prompts, tests = desk / "support/prompts.py", desk / "tests/test_support.py"
    prompts.write_text(prompts.read_text(encoding="utf-8").replace("Decide how soon", "Say how soon"))
    text = tests.read_text(encoding="utf-8")
    tests.write_text(re.sub(r"threshold=[\d.]+", "threshold=0.1", text))
    for path in desk.glob("tests/__prompts__/*.toml"):
        path.unlink()


def scripted(wrong: int = 0, down: int = 0, *, hostile: bool = False) -> Callable[[Path], None]:
    """A desk whose model answered everything rightly once; the first rows are wrong by now, or it cannot be reached."""

    def set_up(desk: Path) -> None:
        blessed = desk.parent / ("blessed-hostile" if hostile else "blessed")
        if not blessed.exists():
            bless_desk(blessed, HOSTILE if hostile else ORDINARY)
        shutil.copytree(blessed, desk, ignore=LEFT_OUT)
        lie = " ".join(HOSTILE) if hostile else "nobody"
        _set_mood(
            desk, {f"t-{number:03}": lie for number in range(wrong)}, [f"t-{number:03}" for number in range(down)]
        )

    return set_up


def bless_desk(desk: Path, texts: tuple[str, ...]) -> None:
    """A desk of forty tickets made of ``texts``, with a baseline of full marks."""
    desk.mkdir(parents=True)
    tickets = [
        {
            "id": f"t-{number:03}",
            "ticket": f"{texts[number % len(texts)]} (t-{number:03})",
            "team": ("billing", "bug", "account")[number % 3],
        }
        for number in range(40)
    ]
    (desk / "pytest.ini").write_text("[pytest]\npromptopt_model = scripted/desk\n")
    (desk / "conftest.py").write_text(DESK_CONFTEST)
    (desk / "test_desk.py").write_text(DESK_TESTS)
    (desk / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tickets))
    _set_mood(desk, {}, [])
    run_pytest(desk, "--prompt-bless", "-q")


def _set_mood(desk: Path, wrong: dict[str, str], down: list[str]) -> None:
    (desk / "mood.json").write_text(json.dumps({"wrong": wrong, "down": down}))


def without_replies(desk: Path) -> None:
    """A fresh checkout where nothing was recorded for the rows."""
    scripted()(desk)
    for recordings in desk.rglob("__prompts__/*.jsonl"):
        recordings.unlink()


TWO_MODELS = ("--prompt-model", "offline/keyword", "--prompt-model", "offline/chatty", "--prompt-transfer")
SCENES = {
    "passing": Scene(example),
    "failing": Scene(spoiled_example, exit_status=1),
    "inconclusive": Scene(scripted(wrong=3), ("--prompt-lm", "live")),
    "stale": Scene(stale_example),
    "unrecorded": Scene(without_replies, ("--prompt-lm", "replay"), exit_status=1),
    "errored": Scene(scripted(down=5), ("--prompt-lm", "live"), exit_status=1),
    "optimized": Scene(bare_example, ("--optimize-prompts",)),
    "models": Scene(example, TWO_MODELS),
    "hostile": Scene(scripted(wrong=14, hostile=True), ("--prompt-lm", "live"), exit_status=1),
}


def make_gallery(folder: Path, names: tuple[str, ...] = tuple(SCENES)) -> None:
    """Run the scenes, two at a time, and leave their reports in ``folder``.

    Raises ``RuntimeError`` where one ends otherwise than it has to.
    """
    shutil.rmtree(folder / "desks", ignore_errors=True)
    for name in names:
        SCENES[name].set_up(folder / "desks" / name)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(partial(_report, folder), names))


def _report(folder: Path, name: str) -> None:
    scene = SCENES[name]
    places = [folder / f"{name}.{ending}" for ending in ("md", "html", "json")]
    flags = [f"--prompt-report={place}" for place in places]
    done = run_pytest(folder / "desks" / name, *scene.arguments, *flags, f"--junitxml={folder / name}.xml")
    if done.returncode != scene.exit_status:
        raise RuntimeError(f"{name} ended with {done.returncode}, not {scene.exit_status}:\n{done.stdout}")


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest there, outside CI."""
    foreign = re.compile(r"CI|BUILD_NUMBER|BUILDKITE|GITHUB_.*|PROMPTOPT_.*|PYTEST_.*|FORCE_COLOR|PY_COLORS|NO_COLOR")
    environment = {name: value for name, value in os.environ.items() if not foreign.fullmatch(name)}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def take_screenshots(folder: Path) -> list[Path]:
    """A picture of every page on every screen in every scheme; none where there is no Chromium."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return []
    shots: list[Path] = []
    for page in sorted(folder.glob("*.html")):
        for screen, width in SCREENS.items():
            frame = folder / "desks" / f"{page.stem}.{screen}.html"  # a window has a least width, a frame has none
            frame.write_text(FRAME.format(address=page.as_uri(), width=width), encoding="utf-8")
            for scheme, flags in SCHEMES.items():
                shot = folder / f"{page.stem}.{screen}.{scheme}.png"
                options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={width},1600", *flags]
                command = [browser, *options, f"--screenshot={shot}", frame.as_uri()]
                subprocess.run(command, check=True, capture_output=True, timeout=60)
                shots.append(shot)
    return shots


def main(arguments: list[str]) -> int:
    """Make the gallery, and say what is in it."""
    folder = Path(arguments[0] if arguments else ROOT / "build" / "reports").resolve()
    make_gallery(folder)
    shots = take_screenshots(folder)
    pictures = f"{len(shots)} screenshots" if shots else "no screenshots, because no Chromium was found"
    print(f"reports of {len(SCENES)} runs in {folder}, {pictures}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
