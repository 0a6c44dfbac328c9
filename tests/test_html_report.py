"""The page for a browser: whole in itself, readable without a script, and safe whatever anybody wrote into a row."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.evaluation.statistics import Interval
from pytest_promptopt.gate import Outcome
from pytest_promptopt.reports.charts import interval_bar, search_curve
from pytest_promptopt.reports.curves import CurvePoint
from pytest_promptopt.reports.document import visible
from pytest_promptopt.reports.html import STYLE, html_report
from tests.report_world import FACTS, curve, document, hostile, job, outcome, poisoned, prompt_state, unchanged, worse

_VOID = {"meta"}
_ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "header", "section", "footer", "h1", "h2", "h3", "p", "div"),
    *("ul", "li", "table", "thead", "tbody", "tr", "th", "td", "code", "details", "summary"),
    *("svg", "line", "rect", "circle", "path", "text"),
}
_ATTRIBUTES = {
    *("class", "lang", "charset", "http-equiv", "content", "name", "aria-label", "role", "viewbox"),
    *("x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "rx", "d", "width", "height", "text-anchor"),
}


class Page(HTMLParser):
    """A page as a browser reads it: its tags in order, each closed where it must be, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.unclosed: list[str] = []
        self.remarks: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self.unclosed.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.unclosed[-1:] != ["style"]:
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.remarks.append(data)

    def named(self, tag: str, kind: str | None = None) -> list[dict[str, str]]:
        """The attributes of every ``tag``, of one class where ``kind`` names it."""
        return [attrs for name, attrs in self.tags if name == tag and kind in (None, attrs.get("class"))]

    @property
    def text(self) -> str:
        """All of its text."""
        return "".join(self.texts)


def _urls(page: str) -> Iterator[str]:
    yield from re.findall(r"(?i)\b(?:src|href|action|srcset|xlink:href)\s*=", page)
    yield from re.findall(r"(?i)url\(|@import|expression\(", STYLE)


# --- what it says -----------------------------------------------------------------------------------------------------


def test_a_page_tells_verdict_scores_changes_and_flipped_rows() -> None:
    page = Page(html_report(document(worse(), unchanged("test_b"))))
    for words in ("Prompt gate: 1 of 2 got worse", "-0.188 (-0.28 … -0.08), p 0.001", "t-013", "ticket 13", "0.922"):
        assert words in page.text
    assert [len(page.named("li", kind)) for kind in ("went", "came", "same")] == [1, 1, 1]
    assert len(page.named("svg", "bar")) == 2


def test_every_row_that_was_read_is_on_the_page() -> None:
    page = Page(html_report(document(worse())))
    assert {f"t-{n:03}" for n in range(64)} <= set(page.texts)


def test_several_models_make_a_matrix_of_metrics_and_one_of_prompts() -> None:
    reports = [replace(unchanged(), model=model, nodeid=model) for model in ("a", "b")]
    page = Page(html_report(document(*reports)))
    assert "Metrics × models" in page.text
    assert "Prompts × models" in page.text
    assert page.texts.count("0.900, frozen") == 2


def test_a_search_shows_its_curve_and_what_it_froze() -> None:
    found = document(facts=replace(FACTS, is_search=True), jobs=[job(demos=("t-1 billing",))], searches=[curve()])
    page = Page(html_report(found))
    assert len(page.named("circle", "trial")) == 3
    assert "demo t-1 billing" in page.text
    assert "+0.180 on 64 sealed rows" in page.text


def test_a_search_that_was_interrupted_shows_how_far_it_came() -> None:
    found = document(facts=replace(FACTS, is_search=True, stopped="interrupted"), searches=[curve(outcome="")])
    page = Page(html_report(found))
    assert "under way when the run ended" in page.text
    assert len(page.named("circle", "trial")) == 3


@pytest.mark.parametrize("which", [Outcome.ERRORED, Outcome.UNRECORDED])
def test_without_a_score_there_is_no_picture_of_one(which: Outcome) -> None:
    page = Page(html_report(document(outcome(which))))
    assert not page.named("svg")
    assert str(which) in page.text


# --- what it needs ----------------------------------------------------------------------------------------------------


def test_a_page_needs_no_script_no_network_and_no_other_file() -> None:
    text = html_report(poisoned("x"))
    page = Page(text)
    assert not [*_urls(text)]
    assert not page.named("script")
    (policy,) = (each["content"] for each in page.named("meta") if "http-equiv" in each)
    digest = b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert f"<style>{STYLE}</style>" in text


def test_the_policy_comes_before_what_it_rules() -> None:
    text = html_report(document(unchanged()))
    assert text.index("Content-Security-Policy") < text.index("<style>") < text.index("<body>")


def test_a_page_follows_dark_mode_and_fits_a_phone() -> None:
    page = Page(html_report(document(unchanged())))
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.named("meta")
    assert "prefers-color-scheme: dark" in STYLE
    light, dark = STYLE.split("@media (prefers-color-scheme: dark)")
    names = set(re.findall(r"var\((--\w+)\)", STYLE))
    assert names <= set(re.findall(r"(--\w+):", light)) == set(re.findall(r"(--\w+):", dark))
    tables = len(page.named("table"))
    assert tables == len(page.named("div", "wide")) > 0  # a table that is too wide scrolls by itself


def test_every_class_that_is_drawn_has_a_style() -> None:
    drawn = {kind for _, attrs in Page(html_report(poisoned("x"))).tags for kind in attrs.get("class", "").split()}
    styled = set(re.findall(r"\.([a-z]+)", STYLE))
    assert drawn - {"same"} <= styled | {"score", "number"}


# --- what cannot happen -----------------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None, derandomize=True)
@given(text=hostile)
def test_no_foreign_text_becomes_a_tag_or_an_attribute(text: str) -> None:
    source = html_report(poisoned(text))
    page = Page(source)
    assert not page.unclosed
    assert not page.remarks
    assert {tag for tag, _ in page.tags} <= _ALLOWED
    assert {name for _, attrs in page.tags for name in attrs} <= _ATTRIBUTES
    assert [*map(str, _structure(page))] == [*map(str, _structure(Page(html_report(poisoned("x")))))] or not text
    assert not [sign for sign in source if not sign.isprintable() and sign != "\n"]


def _structure(page: Page) -> Iterator[tuple[str, str]]:
    """The tags outside diffs, whose sentences depend on what is said."""
    return ((tag, attrs.get("class", "")) for tag, attrs in page.tags if tag in ("script", "svg", "section", "table"))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(text=hostile)
def test_a_text_reads_as_it_was_written(text: str) -> None:
    page = Page(html_report(poisoned(text)))
    assert not text or visible(text).replace("\n", "") in page.text.replace("\n", "")


# --- pictures ---------------------------------------------------------------------------------------------------------

shares = st.floats(min_value=0, max_value=1, allow_nan=False)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(score=shares, low=shares, high=shares, baseline=st.none() | shares, floor=st.none() | shares)
def test_an_interval_stays_in_its_picture(
    score: float, low: float, high: float, baseline: float | None, floor: float | None
) -> None:
    bar = Page(interval_bar(score, Interval(low=min(low, high), high=max(low, high)), baseline=baseline, floor=floor))
    (rect,), (dot,) = bar.named("rect"), bar.named("circle")
    assert 0 <= float(rect["x"]) <= float(rect["x"]) + float(rect["width"]) <= 200.1
    assert float(rect["height"]) > 0
    assert 0 <= float(dot["cx"]) <= 200


points = st.lists(st.tuples(st.integers(min_value=0, max_value=10_000), shares, shares), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(found=points, start=st.none() | shares)
def test_a_curve_stays_in_its_picture(found: list[tuple[int, float, float]], start: float | None) -> None:
    drawn = [CurvePoint(candidate="p", calls=calls, score=score, best_score=score) for calls, score, _ in sorted(found)]
    picture = Page(search_curve(curve(points=tuple(drawn), start_score=start)))
    for dot in picture.named("circle"):
        assert 0 <= float(dot["cx"]) <= 640
        assert 0 <= float(dot["cy"]) <= 260
    assert len(picture.named("circle")) == len(found)
    assert "nan" not in str(picture.tags)


def test_a_stale_prompt_is_a_warning_in_words_and_not_in_colour_alone() -> None:
    page = Page(html_report(document(unchanged(prompts=(prompt_state("stale"),)))))
    assert "⚠️ pass, stale" in page.text
