"""The report for a pull request: its verdict first, short, and inert whatever anybody wrote into a row."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from pytest_promptopt.evaluation.repeats import Repeats
from pytest_promptopt.gate import Outcome
from pytest_promptopt.reports.annotations import annotation_lines
from pytest_promptopt.reports.document import Document, Fault, TextChange, visible
from pytest_promptopt.reports.markdown import MARKER, MOST_CHARACTERS, fenced_changes, inert, markdown
from tests.report_world import (
    FACTS,
    SNAPSHOT,
    document,
    hostile,
    job,
    outcome,
    poisoned,
    prompt_state,
    row,
    unchanged,
    worse,
)

SEARCH = replace(FACTS, is_search=True)


def _title(text: str) -> str:
    return text.splitlines()[1]


def _tokens(text: str) -> list[Token]:
    """``text`` as GitHub reads it, blocks and what is in them; a stray half of a pair would not come so far."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    blocks = parser.parse(text.encode("utf-8", "backslashreplace").decode())
    return [token for block in blocks for token in (block, *(block.children or ()))]


def _outside_fences(text: str) -> list[str]:
    return re.sub(r"(?ms)^(`{3,})diff$.*?^\1$", "", text).splitlines()


# --- what it says -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "title"),
    [
        (document(unchanged(), unchanged("test_b")), "### ✅ Prompt gate: all 2 metrics pass"),
        (document(unchanged()), "### ✅ Prompt gate: the only metric passes"),
        (document(worse(), unchanged("test_b")), "### ❌ Prompt gate: 1 of 2 got worse"),
        (
            document(worse(), outcome(Outcome.ERRORED, "test_b"), outcome(Outcome.UNRECORDED, "test_c")),
            "### ❌ Prompt gate: 1 of 3 got worse, 1 errored, 1 unrecorded",
        ),
        (document(outcome(Outcome.INCONCLUSIVE)), "### ⚠️ Prompt gate: 1 of 1 inconclusive"),
        (document(unchanged(prompts=(prompt_state("stale"),))), "### ⚠️ Prompt gate: 1 of 1 stale"),
        (document(), "### ⚠️ Prompt gate: no prompt metric ran"),
        (
            document(unchanged(), faults=[Fault(nodeid="tests/a.py::test_b", text="boom")]),
            "### ❌ Prompt gate: 1 of 2 errored",
        ),
        (
            document(unchanged(), facts=replace(FACTS, stopped="interrupted", exit_status=2)),
            "### ⚠️ Prompt gate: the only metric passes, ended early (interrupted)",
        ),
        (
            document(unchanged(), facts=replace(FACTS, exit_status=1)),
            "### ⚠️ Prompt gate: the only metric passes, pytest ended with exit status 1 for other reasons",
        ),
        (document(facts=SEARCH, jobs=[job(), job("kept")]), "### ✅ Prompt search: 1 frozen, 1 kept"),
        (document(facts=SEARCH, jobs=[job(below=("x",))]), "### ❌ Prompt search: 1 frozen, 1 below the threshold"),
        (document(facts=SEARCH), "### ⚠️ Prompt search: no search ended"),
    ],
)
def test_the_title_is_the_verdict(found: Document, title: str) -> None:
    assert markdown(found).startswith(f"{MARKER}\n")
    assert _title(markdown(found)) == title


@pytest.mark.parametrize("strict", ["inconclusive", "stale"])
def test_what_strictness_fails_is_no_warning(strict: str) -> None:
    doubtful, stale = outcome(Outcome.INCONCLUSIVE), unchanged("test_s", prompts=(prompt_state("stale"),))
    found = document(doubtful, stale, facts=replace(FACTS, strict=frozenset({strict})))
    assert _title(markdown(found)).startswith("### ❌")


def test_only_prompts_that_changed_get_a_section() -> None:
    text = markdown(document(worse(), unchanged("test_b", prompts=(prompt_state(name="prompts.other"),))))
    assert "#### `prompts.route`: 14 rows lost, 2 gained" in text
    assert "prompts.other" not in text


def test_a_prompt_of_two_metrics_counts_a_row_once() -> None:
    assert "#### `prompts.route`: 14 rows lost, 2 gained" in markdown(document(worse(), worse("test_b")))


def test_a_metric_that_lost_rows_under_unchanged_prompts_is_told_of_as_well() -> None:
    assert "#### `test_routes`: 14 rows lost, 2 gained" in markdown(document(worse(prompts=(prompt_state(),))))


def test_lost_rows_stand_before_gained_ones_and_say_why() -> None:
    text = markdown(document(worse()))
    assert text.index("| t-000 | assert 'bug' == 'billing' | ticket 0 |") < text.index("| t-060 |")
    assert text.index("<details><summary>4 more lost</summary>") < text.index("<details><summary>2 gained</summary>")


def test_the_diff_shows_what_went_and_what_came() -> None:
    text = markdown(document(worse()))
    went = "-Billing covers invoices, refunds and card charges."
    assert f"```diff\n Decide which team should answer.\n{went}\n+Billing covers invoices.\n```" in text


def test_a_sign_that_nobody_can_see_is_shown_to_the_reviewer() -> None:
    secret = prompt_state("edited", before="Be fair.", after="Be fair.\u200b\u202e\x1b[8m")
    assert r"+Be fair.\u200b\u202e\x1b[8m" in markdown(document(worse(prompts=(secret,))))


def test_a_change_of_white_space_alone_is_called_that() -> None:
    moved = prompt_state("edited", before="Be fair.  Be kind.", after="Be fair. Be kind.")
    assert "white space alone" in markdown(document(worse(prompts=(moved,))))


def test_several_models_stand_side_by_side() -> None:
    other = unchanged("test_routes[b]", nodeid="x[b]", model="b", owner="test_support.test_routes")
    text = markdown(document(replace(unchanged(), name=f"test_routes[{unchanged().model}]"), other))
    assert "| metric | openai/gpt-4.1-mini | b |" in text
    assert "| `test_routes` | ✅ 0.900 | ✅ 0.900 |" in text


def test_a_search_shows_what_it_froze_and_what_to_commit() -> None:
    text = markdown(document(facts=replace(SEARCH, written=("support/__prompts__/a.toml",)), jobs=[job()]))
    assert "| `prompts.route` | openai/gpt-4.1-mini | ✅ frozen | 0.700 → 0.940 | 0.720 → 0.900 |" in text
    assert "+Billing covers invoices." in text
    assert "git add support/__prompts__ && git commit" in text


def test_a_branch_that_moves_its_own_yardstick_is_told_on() -> None:
    moved = "test_routes: this branch moves its own baseline (0.922 on 64 rows -> 0.734 on 64 rows)"
    found = document(unchanged(notes=(moved,)), facts=replace(FACTS, base="3f2c1ab" + 33 * "0"))
    assert found.has_news
    lines = markdown(found).splitlines()
    assert "- compared with the baselines at 3f2c1ab000, where this branch began" in lines
    assert f"- {inert(moved, 240)}" in lines


def test_rows_that_an_edit_flips_and_rows_that_come_and_go_are_shown() -> None:
    brittle = replace(row("t-1", 0.5), flip="dropping the final s in row t-1 turns billing into bug")
    repeats = Repeats(trials=3, rows=2, within_variance=0.1, between_variance=0.2, flaky=("t-2",), pass_hats=(0.9, 0.8))
    text = markdown(document(unchanged(rows=(brittle, row("t-2", 0.5)), repeats=repeats)))
    assert "dropping the final s in row t-1 turns billing into bug" in text
    assert "| flaky | why | ticket |" in text
    assert "- test&#95;routes: 3 replies a row, pass^1 0.900, pass^2 0.800, 1 flaky" in text


def test_a_fall_since_the_best_scores_shows_the_rows_that_were_lost_since() -> None:
    fallen = worse(prompts=(prompt_state(),))
    verdict = replace(fallen.verdict, lost=(), gained=(), is_worse=False, is_worse_than_anchor=True)
    text = markdown(document(replace(fallen, verdict=replace(verdict, anchor_lost=("t-003",)))))
    assert _title(text) == "### ❌ Prompt gate: 1 of 1 got worse"
    assert "| t-003 | assert 'bug' == 'billing' | ticket 3 |" in text


# --- how long it is ---------------------------------------------------------------------------------------------------


def test_a_report_fits_into_a_comment_and_says_what_was_cut() -> None:
    rows = tuple(row(f"t-{n:03}", 0.0, why="<" * 200, text="|" * 200) for n in range(64))
    edited = prompt_state("edited", before="a. " * 200, after="b. " * 200)
    many = [worse(f"test_{n}", 60, rows=rows, prompts=(replace(edited, name=f"p{n}"),)) for n in range(60)]
    text = markdown(document(*many))
    assert 30_000 < len(text) <= MOST_CHARACTERS
    assert "*Cut to fit; the rest is in the" in text
    assert text.rstrip().endswith("</sub>")
    assert text.count("<details>") == text.count("</details>")


@pytest.mark.parametrize("metrics", [0, 1, 5, 30])
def test_no_limit_is_exceeded_and_no_block_is_cut_in_half(metrics: int) -> None:
    found = document(*(worse(f"test_{n}") for n in range(metrics)))
    for most in range(1_200, 12_000, 149):
        text = markdown(found, most=most)
        assert len(text) <= most
        assert text.count("<details>") == text.count("</details>")
        assert len(re.findall(r"(?m)^```", text)) % 2 == 0


# --- what cannot happen -----------------------------------------------------------------------------------------------

_OURS = re.compile(
    r"<!-- promptopt -->|<details><summary>(?:<code>[^<>]*</code>)?[^<>]*</summary>|</details>|</?sub>|"
    r"<sub>[^<>]*</sub>"
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(text=hostile)
def test_no_foreign_text_becomes_markup(text: str) -> None:
    page = markdown(poisoned(text))
    strong: list[str] = []
    tokens = _tokens(page)
    for place, token in enumerate(tokens):
        assert token.type not in ("link_open", "image", "em_open", "s_open", "blockquote_open", "hr"), token
        if token.type == "strong_open":
            strong.append(tokens[place + 1].content)
        if token.type in ("html_block", "html_inline"):
            assert not re.search("[<>]", _OURS.sub("", token.content)), token.content
        if token.type == "text":
            assert not re.search(r"@\w|#\d|\bGH-\d|://|(?i:\bwww\.)", token.content), token.content
    assert set(strong) <= {"0.500", "accept", "improve", "undo", "again", "record", "next"}


@settings(max_examples=120, deadline=None, derandomize=True)
@given(text=hostile)
def test_every_line_of_a_table_has_its_cells_and_every_cell_one_short_line(text: str) -> None:
    width = 0
    for line in _outside_fences(markdown(poisoned(text))):
        if not line.startswith("|"):
            width = 0
            continue
        assert line.endswith("|")
        width = width or line.count("|")
        assert line.count("|") == width, line
        cells = [unescape(cell).replace("\u200b", "").strip() for cell in line.strip("|").split("|")]
        assert all(len(cell) <= 180 for cell in cells)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=hostile)
def test_a_cell_reads_as_its_text(text: str) -> None:
    shown = "".join(token.content for token in _tokens(f"x {inert(text, 10_000)}") if token.type.startswith("text"))
    printable = "".join(sign if sign.isprintable() else " " for sign in text)
    assert shown.replace("\u200b", "").split() == ["x", *printable.split()]
    assert len(unescape(inert(text)).replace("\u200b", "")) <= 80


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    texts=st.lists(st.sampled_from(["```", "````", "~~~"]) | hostile, min_size=1, max_size=4),
    mark=st.sampled_from(" -+"),
)
def test_no_text_closes_the_fence_around_it(texts: list[str], mark: str) -> None:
    block = fenced_changes([TextChange(mark=mark, text=visible(text)) for text in texts])
    tokens = _tokens(f"{block}\n\nafter")
    assert tokens[0].type == "fence"
    assert tokens[-2].content == "after"
    assert sum(token.type == "fence" for token in tokens) == 1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=hostile)
def test_no_control_character_gets_into_the_page(text: str) -> None:
    page = markdown(poisoned(text))
    assert not [sign for sign in page if not sign.isprintable() and sign != "\n"]


# --- annotations ------------------------------------------------------------------------------------------------------


def test_an_annotation_stands_at_the_line_of_the_prompt() -> None:
    stale = prompt_state("stale", before="a", after="b")
    (line,) = annotation_lines(document(worse(prompts=(prompt_state(), stale))), prefix="python")
    assert line.startswith("::error file=python/support/prompts.py,line=7,title=prompt metric test_routes::")
    assert "0.922 -> 0.734, 14 rows lost; prompts.route is stale" in line


def test_an_edited_snapshot_is_what_is_pointed_at() -> None:
    (line,) = annotation_lines(document(worse()))
    assert line.startswith(f"::error file={SNAPSHOT},title=")


def test_warnings_come_after_errors_and_passes_say_nothing() -> None:
    lines = annotation_lines(document(outcome(Outcome.INCONCLUSIVE), unchanged(), worse()))
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning"]


def test_there_are_no_more_annotations_than_github_shows() -> None:
    many = [outcome(kind, f"test_{kind}{n}") for n in range(30) for kind in (Outcome.INCONCLUSIVE, Outcome.FAIL)]
    lines = annotation_lines(document(*many))
    assert [sum(line.startswith(f"::{kind} ") for line in lines) for kind in ("error", "warning")] == [10, 10]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=hostile)
def test_no_text_ends_its_annotation_or_begins_another(text: str) -> None:
    for line in annotation_lines(poisoned(text)):
        found = re.fullmatch(r"::error (?P<properties>.*?)::(?P<words>.*)", line)
        assert found, line
        properties = dict(each.split("=", 1) for each in found["properties"].split(","))
        assert set(properties) <= {"file", "line", "title"}
        assert ":" not in found["properties"]
        assert all(sign.isprintable() for sign in line)
