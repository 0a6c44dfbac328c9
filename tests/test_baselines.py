"""A baseline's file: one line a row, exact, and clear about what is wrong with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.errors import SnapshotError, UsageError
from pytest_promptopt.snapshots.baseline import Baseline, BaselineRow, dump_baseline, read_baseline
from pytest_promptopt.snapshots.change import read_text

PATH = Path("tests/__prompts__/test_support.test_routes_tickets@offline-keyword.toml")

GOLDEN = """\
format = 1
metric = "test_support.test_routes_tickets"
model = "offline/keyword"
reads = "sealed"
metric_digest = "3333333333333333"

[prompts]
"prompts.reply" = "source:5555555555555555"
"prompts.route" = "4444444444444444"

[sealed]
salt = "2026"
winners = [
    "6666666666666666",
    "4444444444444444",
]

[rows]
"row 3" = { score = 0.1, digest = "9999999999999999", group = "ann's" }
t-001 = { score = 1.0, digest = "7777777777777777" }
t-002 = { score = 0.0, digest = "8888888888888888" }
"""

BASELINE = Baseline(
    metric="test_support.test_routes_tickets",
    model="offline/keyword",
    reads="sealed",
    metric_digest="3" * 16,
    prompts={"prompts.route": "4" * 16, "prompts.reply": "source:" + "5" * 16},
    rows=(
        BaselineRow(id="t-002", digest="8" * 16, score=0.0),
        BaselineRow(id="t-001", digest="7" * 16, score=1.0),
        BaselineRow(id="row 3", digest="9" * 16, score=0.1, group="ann's"),
    ),
    sealed=("6" * 16, "4" * 16),
    salt="2026",
)

names = st.text(max_size=12) | st.text(alphabet="'\"\\\n\r\t .=#[]<>\ufeff\u202e", max_size=12)
scores = st.floats(0, 1)
rows = st.builds(BaselineRow, id=names, digest=names, score=scores, group=st.none() | names, anchor=st.none() | scores)
baselines = st.builds(
    Baseline,
    metric=st.just(BASELINE.metric),
    model=st.just(BASELINE.model),
    reads=st.sampled_from(["all", "sealed"]),
    metric_digest=names,
    prompts=st.dictionaries(names, names, max_size=3),
    rows=st.lists(rows, max_size=6, unique_by=lambda row: row.id).map(tuple),
    sealed=st.lists(names, max_size=3).map(tuple),
    salt=names,
    blessings=st.integers(0, 40),
)
promises = settings(max_examples=120, deadline=None, derandomize=True)


def test_the_file_reads_like_this() -> None:
    assert dump_baseline(BASELINE) == GOLDEN


@promises
@given(baselines)
def test_reading_gives_back_what_was_written(baseline: Baseline) -> None:
    text = dump_baseline(baseline)
    assert read_baseline(text, path=PATH) == baseline
    assert dump_baseline(read_baseline(text, path=PATH)) == text


@promises
@given(baselines, st.randoms(use_true_random=False))
def test_the_order_in_which_rows_and_prompts_came_changes_no_byte(baseline: Baseline, random: Random) -> None:
    shuffled = list(baseline.rows)
    random.shuffle(shuffled)
    backwards = dict(reversed(list(baseline.prompts.items())))
    assert dump_baseline(replace(baseline, rows=tuple(shuffled), prompts=backwards)) == dump_baseline(baseline)


@promises
@given(baselines)
def test_every_row_has_one_line_and_the_file_one_last_line_break(baseline: Baseline) -> None:
    text = dump_baseline(baseline)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert "\r" not in text
    assert text.rpartition("[rows]\n")[2].count("\n") == len(baseline.rows)


def test_a_row_that_moved_is_one_line_of_a_diff() -> None:
    moved = replace(BASELINE, rows=(replace(BASELINE.rows[1], score=0.5), BASELINE.rows[0], BASELINE.rows[2]))
    pairs = zip(GOLDEN.splitlines(), dump_baseline(moved).splitlines(), strict=True)
    assert [new for old, new in pairs if old != new] == ['t-001 = { score = 0.5, digest = "7777777777777777" }']


ANCHORED = GOLDEN.replace("[sealed]", "[anchor]\nblessings = 3\n\n[sealed]").replace(
    "t-002 = { score = 0.0, digest", "t-002 = { score = 0.0, anchor = 1.0, digest"
)


def test_a_row_that_scored_better_when_the_scores_were_best_says_so_beside_its_score() -> None:
    first, *others = BASELINE.rows
    rows = (first, *others[:-1], replace(others[-1], anchor=1.0))
    assert dump_baseline(replace(BASELINE, rows=rows, blessings=3)) == ANCHORED
    assert read_baseline(ANCHORED, path=PATH) == replace(BASELINE, rows=rows, blessings=3)


def test_an_anchor_that_is_the_score_itself_is_not_written() -> None:
    same = tuple(replace(row, anchor=row.score) for row in BASELINE.rows)
    assert replace(BASELINE, rows=same, blessings=7) == BASELINE
    assert read_baseline(GOLDEN.replace("[sealed]", "[anchor]\nblessings = 3\n\n[sealed]"), path=PATH) == BASELINE


def test_a_file_whose_anchors_were_merged_by_hand_is_at_least_one_blessing_old() -> None:
    assert read_baseline(ANCHORED.replace("[anchor]\nblessings = 3\n\n", ""), path=PATH).blessings == 1


def test_ten_thousand_rows_come_back() -> None:
    many = tuple(BaselineRow(id=f"t-{number:05}", digest="7" * 16, score=number % 2) for number in range(10_000))
    baseline = replace(BASELINE, rows=many)
    assert read_baseline(dump_baseline(baseline), path=PATH) == baseline


def test_a_baseline_that_saw_no_freeze_has_no_winners_and_no_salt() -> None:
    fresh = replace(BASELINE, reads="all", sealed=(), salt="")
    text = dump_baseline(fresh)
    assert "[sealed]\nwinners = []\n" in text
    assert "salt" not in text
    assert read_baseline(text, path=PATH) == fresh


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_score_that_is_none_never_becomes_a_baseline(score: float) -> None:
    with pytest.raises(ValueError, match="not between 0 and 1"):
        replace(BASELINE, rows=(BaselineRow(id="t-001", digest="7", score=score),))
    with pytest.raises(ValueError, match="not between 0 and 1"):
        replace(BASELINE, rows=(BaselineRow(id="t-001", digest="7", score=0.5, anchor=score),))


def test_two_rows_with_one_id_never_become_a_baseline() -> None:
    with pytest.raises(ValueError, match="'t-001' stands 2 times"):
        replace(BASELINE, rows=(BASELINE.rows[1], BASELINE.rows[1]))


def test_an_id_that_no_file_can_hold_is_refused() -> None:
    with pytest.raises(UsageError, match=r"U\+D83D, half of a surrogate pair"):
        dump_baseline(replace(BASELINE, rows=(BaselineRow(id="\ud83d", digest="7", score=1.0),)))


BROKEN = {
    "merge markers": ("t-001 = { score = 1.0", "<<<<<<< HEAD\nt-001 = { score = 1.0", 20, "merge left its markers"),
    "no TOML": ("t-001 =", "t 001 =", 20, "not valid TOML"),
    "a row twice": ("t-002 =", "t-001 =", 21, "stands twice"),
    "a newer format": ("format = 1", "format = 2", 1, "newer version"),
    "no format": ("format = 1\n", "", 1, "'format' is missing"),
    "an unknown key": ("metric_digest =", "metrik_digest =", 5, "did you mean 'metric_digest'?"),
    "an unknown key in a row": ('digest = "8888', 'digst = "8888', 21, "unknown key 'digst'"),
    "an unknown key in sealed": ("salt =", "sold =", 12, "unknown key 'sold'"),
    "no rows": (GOLDEN[GOLDEN.index("\n[rows]") :], "", 1, "'rows' is missing"),
    "no winners": ("winners = [", "salt2 = [", 13, "unknown key 'salt2'"),
    "a winner that is no text": ('    "6666666666666666",', "    6666666666666666,", 13, "a list of strings"),
    "a prompt that is no text": ('"source:5555555555555555"', "5", 8, "'prompts.reply' must be a string"),
    "a row that is no table": ('{ score = 0.0, digest = "8888888888888888" }', "0.0", 21, "a table, not a number"),
    "a score that is no number": ("score = 1.0", 'score = "1.0"', 20, "a number, not a string"),
    "a score that is true": ("score = 1.0", "score = true", 20, "a number, not true or false"),
    "a score that is a date": ("score = 1.0", "score = 2026-01-01", 20, "a number, not a date or a time"),
    "a score above 1": ("score = 1.0", "score = 1.5", 20, "1.5 is not between 0 and 1"),
    "a score that is no score": ("score = 1.0", "score = nan", 20, "nan is not between 0 and 1"),
    "an anchor above 1": ("score = 1.0", "score = 1.0, anchor = 2", 20, "the anchor 2.0 is not between 0 and 1"),
    "an anchor that is no number": ("score = 1.0", "score = 1.0, anchor = 'x'", 20, "a number, not a string"),
    "blessings that are no number": ("[sealed]", "[anchor]\nblessings = 'x'\n[sealed]", 12, "must be a whole number"),
    "an unknown key of the anchor": ("[sealed]", "[anchor]\nblessing = 3\n[sealed]", 12, "mean 'blessings'?"),
    "no score": ("score = 1.0, ", "", 20, "'score' is missing"),
    "another way to read": ('reads = "sealed"', 'reads = "some"', 4, "must be 'all' or 'sealed', not 'some'"),
    "another metric inside": (
        "test_routes_tickets",
        "test_replies",
        3,
        "test_support.test_replies@offline-keyword.toml",
    ),
    "another model inside": ("offline/keyword", "offline/chatty", 3, "test_routes_tickets@offline-chatty.toml"),
    "a compiled prompt": ('metric = "', 'prompt = "', 2, "unknown key 'prompt'"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named_with_its_line_and_what_mends_it_and_left_as_it_is(kind: str, tmp_path: Path) -> None:
    old, new, line, words = BROKEN[kind]
    assert old in GOLDEN
    path = tmp_path / PATH.name
    path.write_text(GOLDEN.replace(old, new, 1), newline="")
    before = path.read_bytes()
    with pytest.raises(SnapshotError) as caught:
        read_baseline(read_text(path) or "", path=path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: ")
    assert words in message
    assert (caught.value.path, caught.value.line) == (path, line)
    assert (
        "`git checkout -- " in message
        or "`git checkout --ours" in message
        or "pip install" in message
        or "git mv" in message
    )
    assert path.read_bytes() == before


def test_the_remedy_accepts_the_scores_of_this_metric_alone() -> None:
    with pytest.raises(SnapshotError, match=r"run `pytest --prompt-bless -k test_routes_tickets`"):
        read_baseline(GOLDEN + "x", path=PATH)


def test_a_whole_number_typed_by_hand_is_a_score() -> None:
    text = GOLDEN.replace("score = 1.0", "score = 1").replace("score = 0.0", "score = 0")
    assert read_baseline(text, path=PATH) == BASELINE


def test_a_file_is_refused_to_a_caller_who_wants_another_metric() -> None:
    assert read_baseline(GOLDEN, path=PATH, metric=BASELINE.metric, model=BASELINE.model) == BASELINE
    with pytest.raises(SnapshotError, match=r":2: this file belongs to the metric 'test_support.test_routes_tickets'"):
        read_baseline(GOLDEN, path=PATH, metric="test_support.test_replies")
    with pytest.raises(SnapshotError, match=r":3: this file belongs to the model 'offline/keyword'"):
        read_baseline(GOLDEN, path=PATH, model="offline-keyword")
