"""What the README and the docs print is true: the example runs, options and names exist, links lead somewhere."""

import importlib
import re
import runpy
import shutil
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from pytest_promptopt import plugin
from pytest_promptopt.lms.models import Catalog
from pytest_promptopt.optimizers.registry import OPTIMIZERS, make_optimizer
from pytest_promptopt.session.marker import MetricOptions

ROOT = Path(__file__).parent.parent
PAGES = [
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
    if path.is_file()
]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FILE_BLOCK = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```\n", re.DOTALL)
COMMAND_BLOCK = re.compile(r"<!-- command: (\S+) -->\n```sh\n(.*?)```\n", re.DOTALL)


@pytest.fixture(params=PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def page(request):
    return request.param


@pytest.fixture
def readme_project(pytester, monkeypatch):
    """The README's files, word for word, with the example project's tickets as the dataset."""
    for variable in ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "BUILDKITE", "PROMPTOPT_MODEL", "PROMPTOPT_MAX_COST"):
        monkeypatch.delenv(variable, raising=False)
    for name, text in FILE_BLOCK.findall(README):
        path = pytester.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "example_project/tests/tickets.jsonl", pytester.path / "tests/tickets.jsonl")
    return pytester


class Declared:
    """Hears, in a parser's place, which options and ini values the plugin declares."""

    def __init__(self):
        self.options, self.inis = set(), set()
        plugin.pytest_addoption(self)

    def getgroup(self, *names):
        return self

    def addoption(self, flag, **details):
        self.options.add(flag)

    def addini(self, name, *details, **more):
        self.inis.add(name)


def options_in(text: str) -> set[str]:
    """Every option of ours that ``text`` names."""
    return set(re.findall(r"(?<![\w-])--(?:optimize-prompts|prompt(?:-[a-z]+)*)", text))


def inis_in(text: str) -> set[str]:
    """Every ini value of ours that ``text`` names; hooks and modules have other prefixes."""
    return set(re.findall(r"(?<![\w.-])promptopt_[a-z_]+", text))


def test_the_readme_example_finds_a_better_prompt_and_the_gate_holds_it(readme_project):
    first = readme_project.runpytest_subprocess()
    assert first.ret == pytest.ExitCode.TESTS_FAILED, "the docstring alone is below the README's threshold"
    first.stdout.fnmatch_lines(["*is below threshold=0.65*", "*pytest --optimize-prompts --prompt route"])

    search = readme_project.runpytest_subprocess("--optimize-prompts")
    assert search.ret == pytest.ExitCode.OK
    search.stdout.fnmatch_lines(["prompts.route*frozen*"])
    assert (readme_project.path / "support/__prompts__/prompts.route@offline-keyword.toml").is_file()

    gate = readme_project.runpytest_subprocess()
    assert gate.ret == pytest.ExitCode.OK
    gate.stdout.fnmatch_lines(["test_routes_tickets*unchanged*pass"])


def test_the_outputs_in_the_pages_are_what_is_printed(tmp_path):
    outputs = runpy.run_path(str(ROOT / ".ci/readme_outputs.py"))
    found = outputs["outputs"](tmp_path)
    for name in outputs["PAGES"]:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert text == outputs["renewed"](text, found), f"{name}: run python .ci/readme_outputs.py"


def test_the_readme_example_is_fifteen_lines_or_so():
    lines = [line for name, text in FILE_BLOCK.findall(README) if name.endswith(".py") for line in text.splitlines()]
    assert len([line for line in lines if line.strip()]) <= 16


def test_the_readme_has_its_two_commands_each_on_one_line():
    commands = dict(COMMAND_BLOCK.findall(README))
    assert set(commands) == {"main-job", "tests"}
    assert all(command.count("\n") == 1 and "\\" not in command for command in commands.values())


def test_the_readme_rows_are_rows_of_the_example_dataset():
    rows = re.findall(r"^\{\"id\": \"(t-\d+)\", \"ticket\": (\".*?\"), \"team\": (\"\w+\")\}$", README, re.MULTILINE)
    tickets = (ROOT / "example_project/tests/tickets.jsonl").read_text(encoding="utf-8")
    assert rows
    assert all(f'{{"id": "{row}", "ticket": {ticket}, "team": {team}' in tickets for row, ticket, team in rows)


def test_options_and_ini_values_that_the_pages_name_exist(page):
    text = page.read_text(encoding="utf-8")
    assert options_in(text) <= Declared().options
    assert inis_in(text) <= Declared().inis


def test_every_option_and_ini_value_is_explained_somewhere():
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert Declared().options <= options_in(text)
    assert Declared().inis <= inis_in(text)


def test_every_name_that_the_pages_import_is_public(page):
    for names in re.findall(r"^from pytest_promptopt import (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        package = importlib.import_module("pytest_promptopt")
        assert {name.strip() for name in names.split(",")} <= set(package.__all__)


def test_every_link_leads_to_a_page_and_a_heading(page):
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            assert anchor in headings_of(path), f"{page.name} links to {target}, but {path.name} has no such heading"


def headings_of(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_metrics_page_lists_every_keyword_of_the_marker_with_its_default():
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.MULTILINE))
    assert set(table) == {field.name for field in fields(MetricOptions)} - {"dataset"}
    for field in fields(MetricOptions):
        if isinstance(field.default, float | int) and field.name in table:
            assert float(table[field.name]) == field.default


def test_the_search_page_lists_every_strategy():
    text = (ROOT / "docs/optimize.md").read_text(encoding="utf-8")
    section = text.partition("## Strategies")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `([a-z-]+)`", section, re.MULTILINE))
    assert listed == set(OPTIMIZERS), "docs/optimize.md, section Strategies"


def test_the_settings_that_the_pages_show_are_settings(page):
    text = page.read_text(encoding="utf-8")
    for name, key, value in re.findall(r"--prompt-set ([a-z-]+)\.(\w+)=([\w.]+)", text):
        make_optimizer(name, {key: value})
    for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL):
        if "[tool.pytest-promptopt" not in block:
            continue
        tables = tomllib.loads(block).get("tool", {}).get("pytest-promptopt", {})
        Catalog(tables.pop("models", {}))
        for name, table in tables.items():
            make_optimizer(name, table)


def test_the_ci_script_finds_both_commands_and_parses():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\(readme_command ([\w-]+)\)", script)) == set(dict(COMMAND_BLOCK.findall(README)))
    if shutil.which("bash"):
        subprocess.run(["bash", "-n", str(ROOT / ".ci/run")], check=True)


@pytest.mark.parametrize("fragment", sorted((ROOT / "changelog").glob("*.*.md")), ids=lambda path: path.name)
def test_a_changelog_fragment_says_what_kind_it_is_and_something(fragment):
    assert re.fullmatch(r"[a-z0-9-]+\.(added|changed|fixed|removed)\.md", fragment.name)
    assert fragment.read_text(encoding="utf-8").strip()
