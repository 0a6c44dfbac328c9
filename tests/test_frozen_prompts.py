"""A compiled prompt's file: readable in a pull request, exact to the character, and clear about its faults."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_promptopt.errors import SnapshotError, UsageError
from pytest_promptopt.prompts.compiled import CompiledPrompt, Demo, Json
from pytest_promptopt.prompts.frozen import FrozenPrompt, file_stem, is_stale, read_frozen
from pytest_promptopt.snapshots.change import read_text
from pytest_promptopt.snapshots.compiled import dump_frozen, freeze

PATH = Path("support/__prompts__/prompts.route@offline-keyword.toml")

GOLDEN = """\
format = 1
prompt = "prompts.route"
model = "offline/keyword"
signature = "1111111111111111"
source = "2222222222222222"
content = "2fd06f8290ee81f6"
instruction = '''
Decide which team should answer this support ticket.
Money that moved is "billing".'''

[[demos]]
row = "t-004"
inputs.ticket = "My card was charged twice"
inputs."the plan" = 'say "pro"'
output = "billing"

[[demos]]
inputs.ticket = '''
It crashes.
It's new.'''
inputs_json.since = "null"
reasoning = "A crash is a bug."
output.team = "bug"
output.tags = ["crash", {certain = true}]

[provenance]
optimizer = "auto"
seed = 0
confirmation = {score = 0.906, rows = 64}
"""

COMPILED = CompiledPrompt(
    instruction='Decide which team should answer this support ticket.\nMoney that moved is "billing".',
    demos=(
        Demo(inputs={"ticket": "My card was charged twice", "the plan": 'say "pro"'}, output="billing", row="t-004"),
        Demo(
            inputs={"ticket": "It crashes.\nIt's new.", "since": None},
            reasoning="A crash is a bug.",
            output={"team": "bug", "tags": ["crash", {"certain": True}]},
        ),
    ),
)


def frozen_of(compiled: CompiledPrompt, provenance: Mapping[str, Json] | None = None) -> FrozenPrompt:
    return freeze(
        prompt="prompts.route",
        model="offline/keyword",
        signature_digest="1" * 16,
        source_digest="2" * 16,
        compiled=compiled,
        provenance=provenance or {},
    )


FROZEN = frozen_of(
    COMPILED, {"optimizer": "auto", "seed": 0, "parent": None, "confirmation": {"score": 0.906, "rows": 64}}
)

NASTY = [
    "",
    "\n",
    "\n\n",
    "\nbegins with a line break",
    "ends with one\n",
    "it's",
    'say "so"',
    'it\'s "so" and \\n',
    "three ''' quotes\nin two lines",
    'three """ quotes\nin two lines',
    'both \'\'\' and """ and \'\'\'\'\'\' and """""""\n',
    "line\nends with '",
    "it's\nends with ''' and \"",
    "back\\slash\nat the end of a line \\\n  indented\\",
    "a\rb\nc\r\nd\r",
    "next\x85line\u2028separator\u2029s\n",
    "\ufeffbyte order mark\n\ufeff",
    "nul \x00 bell \x07 escape \x1b delete \x7f\n",
    "trailing blanks  \nand a tab\t\n   \n ",
    "looks \u202eright to left\u202c",
    "hidden \U000e0041\U000e0042 tag\n\u200bzero width",
    "<<<<<<< HEAD\nours\n||||||| base\n=======\ntheirs\n>>>>>>> branch",
    "family 👨‍👩‍👧, fa\u200cmily, é, 日本語\nsecond line",
    "x" * 101,
    'x"' * 60,
    "# no comment\n[no.table]\nformat = 2\n",
]

texts = (
    st.text(max_size=40) | st.text(alphabet="'\"\\\n\r\t <>|=ab\u2028\ufeff\x00", max_size=40) | st.sampled_from(NASTY)
)
numbers = st.integers() | st.floats(allow_nan=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
demos = st.builds(
    Demo,
    inputs=st.dictionaries(texts, values, max_size=3),
    output=values,
    reasoning=st.none() | texts,
    row=st.none() | texts,
)
compileds = st.builds(CompiledPrompt, instruction=texts, demos=st.lists(demos, max_size=3).map(tuple))
promises = settings(max_examples=150, deadline=None, derandomize=True)


def as_sent(compiled: CompiledPrompt) -> str:
    """All that a model or a reader could tell apart, the order of nested fields included."""
    demos = [[demo.row, demo.reasoning, demo.output, sorted(demo.inputs.items())] for demo in compiled.demos]
    return json.dumps([compiled.instruction, demos])


def reread(frozen: FrozenPrompt) -> FrozenPrompt:
    return read_frozen(dump_frozen(frozen), path=PATH)


def test_the_file_reads_like_this() -> None:
    assert dump_frozen(FROZEN) == GOLDEN


@promises
@given(compileds)
def test_reading_gives_back_what_was_written(compiled: CompiledPrompt) -> None:
    frozen = frozen_of(compiled)
    found = reread(frozen)
    assert found == frozen
    assert as_sent(found.compiled) == as_sent(compiled)


@pytest.mark.parametrize("text", NASTY)
def test_every_character_survives_wherever_it_stands(text: str) -> None:
    demo = Demo(inputs={text: text, "nested": [text, {text: text}]}, output=[text], reasoning=text, row=text)
    compiled = CompiledPrompt(instruction=text, demos=(demo,))
    found = reread(frozen_of(compiled, {"note": text}))
    assert as_sent(found.compiled) == as_sent(compiled)
    assert found.provenance == {"note": text}


@promises
@given(compileds, st.dictionaries(texts, st.booleans() | numbers | texts | st.dictionaries(texts, numbers, max_size=2)))
def test_the_same_content_gives_the_same_bytes(compiled: CompiledPrompt, provenance: dict[str, Json]) -> None:
    text = dump_frozen(frozen_of(compiled, provenance))
    found = read_frozen(text, path=PATH)
    assert found.provenance == provenance
    assert dump_frozen(found) == text


@promises
@given(compileds)
@example(CompiledPrompt(instruction="a \n\tb\t\n\r\u202e"))
def test_a_reviewer_sees_every_character(compiled: CompiledPrompt) -> None:
    text = dump_frozen(frozen_of(compiled))
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert not re.search(r"[ \t]$", text, re.MULTILINE)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\ufeff]", text)


@pytest.mark.parametrize("text", ["two\nlines 'quoted'", "it's '''\nquoted \"so\"", 'trailing \r\n"so"'])
def test_a_text_never_runs_into_the_quotes_around_it(text: str) -> None:
    assert not re.search(r"""(?<!\\)"{4}|'{4}""", dump_frozen(frozen_of(CompiledPrompt(instruction=text))))


def test_a_long_instruction_keeps_its_lines_so_that_a_diff_shows_the_one_that_changed() -> None:
    lines = [f"Rule {number}: it's said so." for number in range(20)]
    before = dump_frozen(frozen_of(CompiledPrompt(instruction="\n".join(lines)))).splitlines()
    lines[7] = "Rule 7: no longer."
    after = dump_frozen(frozen_of(CompiledPrompt(instruction="\n".join(lines)))).splitlines()
    assert [new for old, new in zip(before, after, strict=True) if old != new and "content" not in new] == [lines[7]]


def test_a_checkout_with_windows_line_ends_and_a_byte_order_mark_reads_the_same() -> None:
    text = "\ufeff" + dump_frozen(FROZEN).replace("\n", "\r\n")
    assert read_frozen(text, path=PATH) == reread(FROZEN)


def test_what_nobody_knows_is_left_out_of_the_provenance() -> None:
    assert "parent" not in reread(FROZEN).provenance


def test_half_a_surrogate_pair_is_refused_in_an_instruction_and_kept_in_a_demo() -> None:
    demo = Demo(inputs={"x": "\ud83d"}, output={"y": ["\ude00"]})
    assert as_sent(reread(frozen_of(CompiledPrompt(instruction="", demos=(demo,)))).compiled) == as_sent(
        CompiledPrompt(instruction="", demos=(demo,))
    )
    with pytest.raises(UsageError, match=r"U\+D83D, half of a surrogate pair"):
        dump_frozen(frozen_of(CompiledPrompt(instruction="smile \ud83d")))


def test_a_hand_edit_shows_and_the_edited_text_is_what_is_used() -> None:
    edited = dump_frozen(FROZEN).replace("Money that moved", "Money")
    frozen = read_frozen(edited, path=PATH)
    assert not reread(FROZEN).is_edited
    assert frozen.is_edited
    assert "Money is" in frozen.compiled.instruction


def test_an_edit_that_changes_nothing_a_model_reads_is_no_edit() -> None:
    text = dump_frozen(FROZEN)
    touched = "# reviewed\n" + text.replace('row = "t-004"', 'row = "t-005"').replace("seed = 0", "seed = 1")
    assert not read_frozen(touched, path=PATH).is_edited


def test_a_prompt_is_stale_when_its_signature_or_its_source_changed() -> None:
    assert not is_stale(FROZEN, signature_digest="1" * 16, source_digest="2" * 16)
    assert is_stale(FROZEN, signature_digest="x", source_digest="2" * 16)
    assert is_stale(FROZEN, signature_digest="1" * 16, source_digest="x")


BROKEN = {
    "merge markers": (
        ('prompt = "prompts.route"', '<<<<<<< HEAD\nprompt = "prompts.route"\n=======\n>>>>>>> theirs'),
        2,
        "a merge left its markers here",
    ),
    "merge markers inside the instruction": (
        ("Money that", "<<<<<<< HEAD\nMoney that"),
        9,
        "a merge left its markers here",
    ),
    "a closing merge marker alone": (("Money that", ">>>>>>> x\nMoney that"), 9, "a merge left its markers here"),
    "no TOML": (("source =", "source ~"), 5, "not valid TOML"),
    "a text that never ends": (("It's new.'''", "It's new."), 18, "not valid TOML"),
    "a text that never ends, in a line": (('row = "t-004"', 'row = "t-004'), 12, "not valid TOML"),
    "a key twice": (("source =", 'model = "x"\nsource ='), 5, "stands twice"),
    "an instruction twice": (("[[demos]]\nrow", "instruction = '''\na\nb'''\n[[demos]]\nrow"), 11, "stands twice"),
    "a key of an inline table twice": (("rows = 64", "score = 1.0"), 29, "stands twice"),
    "a table twice": (("[provenance]", "[provenance]\nx = 1\n[provenance]"), 28, "stands twice"),
    "a newer format": (("format = 1", "format = 2"), 1, "newer version"),
    "an older format": (("format = 1", "format = 0"), 1, "unknown format 0"),
    "a format of another type": (("format = 1", "format = true"), 1, "a whole number, not true or false"),
    "no format": (("format = 1\n", ""), 1, "'format' is missing"),
    "an unknown key": (("instruction =", "intruction ="), 7, "unknown key 'intruction'; did you mean 'instruction'?"),
    "an unknown key that a text names earlier": (
        ("Money that", "extra = 1\nMoney that", "[provenance]", "[extra]\n[provenance]"),
        27,
        "unknown key 'extra'",
    ),
    "an unknown key in a demo": (("reasoning =", "reason ="), 22, "unknown key 'reason'"),
    "no instruction": (("instruction = '''", "[provenance.x]\ny = '''"), 1, "'instruction' is missing"),
    "no output": (('output = "billing"\n', ""), 11, "'output' is missing"),
    "no inputs": (('inputs.ticket = "My', 'row2 = "My'), 13, "unknown key 'row2'"),
    "a number for a text": (('source = "2222222222222222"', "source = 2"), 5, "'source' must be a string"),
    "a date in a demo": (('output = "billing"', "output = 2026-01-01"), 15, "a date or a time"),
    "a list of dates": (('["crash", ', "[2026-01-01, "), 23, "a date or a time"),
    "broken JSON": (('inputs_json.since = "null"', 'inputs_json.since = "nul"'), 21, "must hold JSON"),
    "JSON beside the value": (('output = "billing"', 'output = "billing"\noutput_json = "1"'), 16, "side by side"),
    "another prompt inside": (('"prompts.route"', '"prompts.reply"'), 3, "prompts.reply@offline-keyword.toml"),
    "another model inside": (('"offline/keyword"', '"offline/chatty"'), 3, "prompts.route@offline-chatty.toml"),
}


def mangled(edits: tuple[str, ...]) -> str:
    text = GOLDEN
    for old, new in zip(edits[::2], edits[1::2], strict=True):
        assert old in text
        text = text.replace(old, new, 1)
    return text


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named_with_its_line_and_what_mends_it_and_left_as_it_is(kind: str, tmp_path: Path) -> None:
    edits, line, words = BROKEN[kind]
    path = tmp_path / PATH.name
    path.write_text(mangled(edits), newline="")
    before = path.read_bytes()
    with pytest.raises(SnapshotError) as caught:
        read_frozen(read_text(path) or "", path=path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: ")
    assert words in message
    assert (caught.value.path, caught.value.line) == (path, line)
    assert (
        "`git checkout -- " in message or "pytest --optimize-prompts --prompt " in message or "pip install" in message
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("demos", "words"),
    [
        ("demos = 1", "tables, each under"),
        ("demos = [1]", "tables, each under"),
        ("demos = [{}]", "'inputs' is missing"),
    ],
)
def test_demos_that_are_no_demos_are_refused(demos: str, words: str) -> None:
    head = GOLDEN.partition("\n[[demos]]")[0]
    with pytest.raises(SnapshotError, match=words) as caught:
        read_frozen(f"{head}\n{demos}\n", path=PATH)
    assert caught.value.line == 11


@pytest.mark.parametrize("nested", ["[" * 5000 + "]" * 5000, "{a=" * 5000 + "1" + "}" * 5000])
def test_values_nested_beyond_reason_are_a_fault_of_the_file(nested: str) -> None:
    with pytest.raises(SnapshotError, match="nested too deeply"):
        read_frozen(f"{GOLDEN}deep = {nested}\n", path=PATH)


def test_the_merge_remedy_names_both_sides_and_the_search(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / PATH.name
    with pytest.raises(SnapshotError) as caught:
        read_frozen("<<<<<<< HEAD\n" + GOLDEN, path=path)
    assert f"`git checkout --ours -- '{path}'` (or `--theirs`)" in str(caught.value)
    assert "delete the file and run `pytest --optimize-prompts --prompt prompts.route`" in str(caught.value)


def test_a_file_that_is_no_text_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / PATH.name
    path.write_bytes(b"format = 1\nprompt = '\xff'\n")
    with pytest.raises(SnapshotError, match=r":2: this line is not UTF-8"):
        read_text(path)


def test_a_file_is_refused_to_a_caller_who_wants_another_prompt_that_shares_its_name() -> None:
    text = dump_frozen(replace(FROZEN, model="offline/keyword"))
    with pytest.raises(SnapshotError, match=r":3: this file belongs to the model 'offline/keyword'"):
        read_frozen(text, path=PATH, prompt="prompts.route", model="offline-keyword")
    with pytest.raises(SnapshotError, match=r":2: this file belongs to the prompt 'prompts.route'"):
        read_frozen(text, path=PATH, prompt="prompts.reply")
    assert read_frozen(text, path=PATH, prompt="prompts.route", model="offline/keyword") == reread(FROZEN)


@pytest.mark.parametrize(
    ("owner", "model", "stem"),
    [
        ("prompts.route", "offline/keyword", "prompts.route@offline-keyword"),
        (
            "test_support.test_routes_tickets",
            "openai/gpt-4.1-mini",
            "test_support.test_routes_tickets@openai-gpt-4.1-mini",
        ),
        ("prompts.Route", "offline/keyword", "prompts.route@offline-keyword~"),
        ("test_a.test_b[de]", "ollama/llama3:8b", "test_a.test_b-de-@ollama-llama3-8b~"),
        ("con.route", "m", "_con.route@m~"),
        ("NUL", "m", "nul@m~"),
        (".hidden", "m", "_.hidden@m~"),
        ("-rf", "m", "_-rf@m~"),
        ("", "m", "_@m~"),
        ("straße", "m", "strasse@m~"),
        ("x" * 98, "m", "x" * 98 + "@m"),
        ("x" * 99, "m", "x" * 91 + "~"),
    ],
)
def test_a_file_name_says_whose_it_is(owner: str, model: str, stem: str) -> None:
    found = file_stem(owner, model)
    assert found.partition("~")[0] == stem.partition("~")[0]
    assert ("~" in found) == ("~" in stem)


def test_the_digits_in_a_file_name_never_change() -> None:
    assert file_stem("prompts.Route", "offline/keyword") == "prompts.route@offline-keyword~1da855ac"


names = st.text(max_size=130) | st.text(alphabet="aA.-_/:@~[]", max_size=6) | st.sampled_from(["con", "com1.x", "aux."])


@promises
@given(names, names)
def test_a_file_name_is_legal_everywhere(owner: str, model: str) -> None:
    stem = file_stem(owner, model)
    assert re.fullmatch(r"[a-z0-9_][a-z0-9._@-]*(~[0-9a-f]{8})?", stem)
    assert len(stem) <= 100
    assert not re.match(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", stem)


@promises
@given(names, names, names, names)
@example("a", "b/c", "A", "b/c")
@example("a@b", "c", "a", "b@c")
def test_no_two_owners_share_a_file_but_for_a_slash(owner: str, model: str, owner2: str, model2: str) -> None:
    slashless = [name.replace("/", "-") for name in (owner, model, owner2, model2)]
    is_same_pair = slashless[:2] == slashless[2:]
    assert (file_stem(slashless[0], slashless[1]) == file_stem(slashless[2], slashless[3])) == is_same_pair


def test_reading_needs_neither_pytest_nor_tomlkit() -> None:
    code = (
        "import sys, pathlib; from pytest_promptopt.prompts.frozen import read_frozen;"
        "read_frozen(sys.stdin.read(), path=pathlib.Path(sys.argv[1]));"
        "print([name for name in ('pytest', 'tomlkit', 'pydantic', 'litellm', 'aiohttp') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(PATH)]
    done = subprocess.run(command, input=GOLDEN, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_other_tools_read_the_same_values() -> None:
    file = tomllib.loads(dump_frozen(FROZEN))
    assert file["demos"][0]["inputs"] == {"ticket": "My card was charged twice", "the plan": 'say "pro"'}
    assert file["demos"][1]["output"] == {"team": "bug", "tags": ["crash", {"certain": True}]}
