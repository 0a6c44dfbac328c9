"""Write what the commands in the README and the docs really print into the blocks below their marks.

``python .ci/readme_outputs.py`` runs them on a copy of the example project and rewrites every block that follows
``<!-- output: NAME -->``; with ``--check`` it only says which pages are out of date. Times differ from run to run and
count for nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/files.md", "docs/optimize.md", "docs/several-models.md")
EDIT = ("support/prompts.py", "Decide which team", "Say which team")
SNAPSHOT = "support/__prompts__/prompts.route@offline-keyword.toml"
PRICED = """
[tool.pytest-promptopt.models.mini]
model = "openai/gpt-4.1-mini"
price = { input = 0.40, output = 1.60 }
"""
SIMULATORS = ("keyword", "neighbor", "chatty", "forgetful")
BASELINE = "tests/__prompts__/test_support.test_routes_tickets@offline-keyword.toml"

LEFT_OUT = shutil.ignore_patterns("__prompts__", "__pycache__", ".promptopt", ".pytest_cache")

_BLOCK = re.compile(r"(<!-- output: (\S+) -->\n```\w*\n)(.*?)(```\n)", re.DOTALL)
_TIME = re.compile(r"\b\d+\.\d+ ?s\b|=+")


@dataclass(frozen=True, slots=True)
class Cut:
    """Lines from the first that matches ``start`` up to, not including, the next that matches ``stop``."""

    start: str
    stop: str | None = None

    def of(self, lines: list[str]) -> list[str]:
        """The lines. Raises ``ValueError`` when nothing starts like that."""
        begin = _find(lines, self.start, 0)
        return lines[begin : None if self.stop is None else _find(lines, self.stop, begin + 1)]


def _find(lines: list[str], pattern: str, begin: int) -> int:
    for index in range(begin, len(lines)):
        if re.match(pattern, lines[index]):
            return index
    raise ValueError(f"no line like {pattern!r} in the output:\n" + "\n".join(lines))


def cut(text: str, *cuts: Cut) -> str:
    """The cuts of ``text``, with an ellipsis where lines between them are left out."""
    lines = text.rstrip("\n").split("\n")
    return "\n...\n".join("\n".join(one.of(lines)).rstrip("\n") for one in cuts) + "\n"


def outputs(folder: Path) -> dict[str, str]:
    """What is printed and written, by name, in a copy of the example project made in ``folder``."""
    desk = folder / "desk"
    shutil.copytree(ROOT / "example_project", desk, ignore=LEFT_OUT)
    dry_run = run_dry(folder / "priced")
    search = run_pytest(desk, "--optimize-prompts")
    gate = run_pytest(desk)
    name, old, new = EDIT
    source = (desk / name).read_text(encoding="utf-8")
    (desk / name).write_text(source.replace(old, new), encoding="utf-8")
    spoiled = run_pytest(desk, "-k", "routes")
    return {
        "dry-run": cut(dry_run, Cut(r"support/prompts\.py::route", "=+ ")),
        "search": cut(
            search,
            Cut(r"support/prompts\.py::route", "$"),
            Cut(r"prompts\.route: what changed", r"  \+ \d+ demos|prompts\.priority"),
            Cut("next:"),
        ),
        "gate": cut(gate, Cut("metric +rows")),
        "spoiled": cut(
            spoiled,
            Cut("_+ test_routes_tickets", "=+ prompt metrics"),
            Cut("metric +rows", "rows:"),
            Cut("=+ .*failed"),
        ),
        "snapshot": cut(freeze_demos(folder / "shown"), Cut("format", r"$"), Cut(r"\[\[demos", "$"), Cut(r"\[prov")),
        **several_models(folder / "several"),
        "baseline": cut((desk / BASELINE).read_text(encoding="utf-8"), Cut("format", "t-005")),
    }


def several_models(desk: Path) -> dict[str, str]:
    """One metric searched on all simulators in one run, then their matrix and each one's prompt on the others."""
    shutil.copytree(ROOT / "example_project", desk, ignore=LEFT_OUT)
    models = [word for model in SIMULATORS for word in ("--prompt-model", f"offline/{model}")]
    search = run_pytest(desk, "--optimize-prompts", "--prompt", "priority", "-k", "sets_priority", *models)
    gate = run_pytest(desk, "--prompt-transfer", "-k", "sets_priority", *models)
    first, last = (f"support/prompts.py::priority on offline/{each}" for each in (SIMULATORS[1], SIMULATORS[-1]))
    return {
        "several-search": cut(
            search, Cut(re.escape(first), "  round"), Cut(re.escape(last), "$"), Cut("prompt  +outcome", "  *\\d")
        ),
        "transfer": cut(gate, Cut(r"metric +offline", r"rows:"), Cut(r"transfer:", "=+ ")),
    }


def run_dry(desk: Path) -> str:
    """What a search with a model that has a price is told to cost; nothing is called."""
    shutil.copytree(ROOT / "example_project", desk, ignore=LEFT_OUT)
    with (desk / "pyproject.toml").open("a", encoding="utf-8") as settings:
        settings.write(PRICED)
    return run_pytest(desk, "--optimize-prompts", "--prompt-dry-run", "--prompt-model", "mini", "-k", "routes")


def freeze_demos(desk: Path) -> str:
    """A snapshot with demos in it, which the default strategy does without on the example project."""
    shutil.copytree(ROOT / "example_project", desk, ignore=LEFT_OUT)
    run_pytest(desk, "--optimize-prompts", "--prompt-optimizer", "mipro", "-k", "routes")
    return (desk / SNAPSHOT).read_text(encoding="utf-8")


def run_pytest(folder: Path, *arguments: str) -> str:
    """What pytest prints there, outside CI and 80 characters wide."""
    foreign = re.compile(r"CI|BUILD_NUMBER|BUILDKITE|GITHUB_.*|PROMPTOPT_.*|PYTEST_.*|FORCE_COLOR|PY_COLORS|NO_COLOR")
    environment = {name: value for name, value in os.environ.items() if not foreign.fullmatch(name)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**environment, "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        check=False,
    )
    return done.stdout


def renewed(page: str, found: dict[str, str]) -> str:
    """``page`` with every marked block as it should be; blocks that differ in times alone stay."""

    def renew(match: re.Match[str]) -> str:
        head, name, old, tail = match.groups()
        command = old.partition("\n")[0] + "\n" if old.startswith("$ ") else ""
        new = command + found[name]
        return head + (old if _timeless(old) == _timeless(new) else new) + tail

    return _BLOCK.sub(renew, page)


def _timeless(text: str) -> str:
    return _TIME.sub("", text)


def main(arguments: list[str]) -> int:
    """Renew the pages, or with ``--check`` say which would change."""
    with tempfile.TemporaryDirectory() as folder:
        found = outputs(Path(folder))
    changed = []
    for name in PAGES:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = renewed(before, found)
        if after != before:
            changed.append(name)
            if "--check" not in arguments:
                path.write_text(after, encoding="utf-8", newline="\n")
    print(f"{'out of date' if '--check' in arguments else 'renewed'}: {', '.join(changed) or 'nothing'}")
    return 1 if changed and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
