"""Placeholders: what a text is written in, and that no candidate loses one or brings code of its own."""

from __future__ import annotations

import subprocess
import sys

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_promptopt.prompts.template import Language, Template, choose_language, choose_languages, find_fault

LAW = settings(max_examples=150, deadline=None, derandomize=True)


def template(text: str, language: Language | None = None, environment: jinja2.Environment | None = None) -> Template:
    return Template(language=language or choose_language(text), text=text, environment=environment)


# --- which language ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Answer politely.\n\n{ticket}", "format"),
        ("{ticket.subject} {ticket[0]!r:>{width}}", "format"),
        ('Reply as {{"team": "…"}} to {ticket}', "format"),
        ("{{{ticket}}}", "format"),
        ("Write {{name}} for {ticket}", "format"),
        ("{{ ticket }}", "jinja2"),
        ("{{ ticket | default('{}') }}", "jinja2"),
        ("{% if urgent %}Hurry.{% endif %}", "jinja2"),
        ("Answer. {# politely #}", "jinja2"),
        ("Answer politely.", "plain"),
        ("", "plain"),
        ('Reply as {"team": "…"}', "plain"),
        ('{ticket} as {"team": "…"}', "plain"),
        ("{0} and {1}", "plain"),
        ("{} and {}", "plain"),
        ("{ticket", "plain"),
        ("{{ ticket", "plain"),
        ("{% if urgent %}Hurry.", "plain"),
        ("%(ticket)s is 100% yours", "plain"),
    ],
)
def test_a_text_says_by_itself_what_it_is_written_in(text: str, language: str) -> None:
    assert choose_language(text) == language


@pytest.mark.parametrize("suffix", [".j2", ".jinja", ".jinja2"])
def test_a_jinja_file_is_jinja_whatever_it_holds(suffix: str) -> None:
    assert choose_language("{ticket}", suffix=suffix) is Language.JINJA2
    assert choose_language("{ticket}", suffix=".txt") is Language.FORMAT


def test_jinja_is_imported_for_texts_that_look_like_it_and_for_no_others() -> None:
    script = """
import sys
from pytest_promptopt.prompts.template import *
for text in ("{ticket}", "plain", '{"a": 1}', "%(x)s"):
    source = Template(language=choose_language(text), text=text)
    find_fault(source, "no"), source.placeholders, source.input_names
choose_language("whatever", suffix=".j2")
assert "jinja2" not in sys.modules
choose_language("{{ ticket }}")
assert "jinja2" in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("texts", "languages"),
    [
        (['Reply as {"team": 1}.', "{ticket}"], ["plain", "format"]),
        (["Be kind.", "{ticket}"], ["format", "format"]),
        (['Reply as {{"team": 1}}.', "{ticket}"], ["format", "format"]),
        (["Use {{ name }}.", "{ticket}"], ["format", "format"]),
        (["Be kind.", '{"a": 1}', "{{ ticket }}"], ["jinja2", "plain", "jinja2"]),
        (["Be kind.", '{"a": 1}'], ["plain", "plain"]),
        (["%(ticket)s", "Be kind."], ["plain", "plain"]),
    ],
)
def test_each_message_says_what_it_is_written_in_and_the_others_speak_for_one_without_fields(
    texts: list[str], languages: list[str]
) -> None:
    assert choose_languages(texts) == languages


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "placeholders", "names"),
    [
        ("{ticket!r:>10} {user.name} {ticket!r:>10}", ("{ticket!r:>10}", "{user.name}"), ("ticket", "user")),
        ("{ticket:{width}}", ("{ticket:{width}}",), ("ticket", "width")),
        (
            "{%- if urgent -%}{{ ticket|upper }}{% endif %}{# no #}",
            ("{%- if urgent -%}", "{{ ticket|upper }}", "{% endif %}"),
            ("ticket", "urgent"),
        ),
        ("%(ticket)s and 100% more", ("%(ticket)s",), ("ticket",)),
        ('{"a": 1}', (), ()),
    ],
)
def test_placeholders_are_told_as_they_are_written(
    source: str, placeholders: tuple[str, ...], names: tuple[str, ...]
) -> None:
    assert template(source).placeholders == placeholders
    assert template(source).input_names == names


@pytest.mark.parametrize(
    ("source", "candidate"),
    [
        ("{ticket}", "Be kind.\n{ticket}\nOnce more: {ticket}"),
        ("{a!r:>10} {b}", "{b} then {a!r:>10}, and {{braces}}"),
        ("{ticket:{width}}", "Kindly: {ticket:{width}}"),
        ("{{ ticket | upper }}", "Shout {{ticket|upper}}"),
        ("{{ ticket }}{# a remark #}", "Answer {{- ticket -}} now {# another #}"),
        ("{% for t in tickets %}{{ t }}{% endfor %}", "All:\n{%- for t in tickets %}\n* {{ t }}\n{%- endfor %}"),
        ("{% raw %}{{ x }}{% endraw %}{{ y }}", "{{ y }}{% raw %}{% anything {% endraw %}"),
        ("Answer %(name)s", "%(name)s, 100%% %(name)s"),
        ("100% sure: %(name)s", "Sure, 100% sure: %(name)s"),
        ('{"a": {ticket}} {}', '{ticket} as {"b": 1}'),
        ("Be kind", "100% kind"),
        ("{{ t }}{% if a %}x{% endif %}", "{% if a %}Hurry. {% endif %}Now: {{ t }} {{ t }}"),
        (
            "{% if a %}{% if b %}x{% else %}y{% endif %}{% endif %}",
            "{% if a %}{% if b %}X{% else %}Y{% endif %}{% endif %}",
        ),
        ("{% set x = 1 %}{{ x }}{% if a %}{{ y }}{% endif %}", "{% set x = 1 %}{% if a %}-{{ y }}{% endif %}{{ x }}"),
        ("{% set x %}a{% set z = 1 %}{% endset %}{{ x }}", "{% set x %}b{% set z = 1 %}{% endset %}Now {{ x }}"),
        ("plain", "{{ ''.__class__ }} {x.__class__} {% for %}"),
        ("{} and {}", "{}, {}"),
    ],
)
def test_a_candidate_that_keeps_every_placeholder_is_fine(source: str, candidate: str) -> None:
    language = Language.FORMAT if source == "{} and {}" else None
    assert find_fault(template(source, language), candidate) == ""


@pytest.mark.parametrize(
    ("source", "candidate", "fault"),
    [
        ("{ticket}", "Be kind.", "loses {ticket}"),
        ("{ticket!r}", "{ticket}", "loses {ticket!r}"),
        ("{ticket}", "{{ticket}}", "loses {ticket}"),
        ("{ticket}", "{ticket} {name}", "brings {name}, which the source does not have"),
        ("{ticket}", "{ticket} {ticket.__class__}", "brings {ticket.__class__}, which the source does not have"),
        ("{ticket}", "{ticket:{ticket.__class__}} {ticket}", "brings {ticket:{ticket.__class__}}, which the*"),
        ("{ticket}", "{ticket} {", "is no format template: *"),
        ("{{ ticket }}", "Be kind.", "loses {{ ticket }}"),
        ("{{ ticket }}", "{{ ticket }}{{ ''.__class__ }}", "brings {{ ''.__class__ }}, which the source does not have"),
        ("{{ ticket }}", "{{ ticket | attr('x') }}{{ ticket }}", "brings {{ ticket | attr('x') }}, which the*"),
        ("{{ 'a b' }}{{ x }}", "{{ 'a  b' }}{{ x }}", "loses {{ 'a b' }}"),
        ("{{ ticket }}", "{{ ticket }}{% set x = cycler.__init__ %}", "brings {% set x = cycler.__init__ %}, which*"),
        ("{{ ticket }}", "{% raw %}{{ ticket }}{% endraw %}", "loses {{ ticket }}"),
        ("{{ ticket }}", "{{ ticket }} {{ ticket", "is no jinja2 template: *"),
        ("{{ t }}{% if a %}{% endif %}", "{{ t }}", "loses {% if a %}"),
        (
            "{{ t }}{% if a %}x{% endif %}",
            "{{ t }}{% if a %}x{% endif %}{% if a %}y{% endif %}",
            "does not keep {% if a %} {% endif %} in order and number",
        ),
        ("{{ t }}{% if a %}{% endif %}", "{{ t }}{% endif %}{% if a %}", "does not keep*"),
        ("{{ t }}{% if p %}x{% endif %}", "{% if p %}x{{ t }}{% endif %}", "moves {{ t }} into {% if p %}"),
        ("{{ t }}{% if p %}x{% endif %}", "{{ t }}{% if p %}x{{ t }}{% endif %}", "copies {{ t }} into {% if p %}"),
        (
            "{% for d in ds %}{{ d }}{% endfor %}{{ q }}",
            "{% for d in ds %}{% endfor %}{{ d }}{{ q }}",
            "moves {{ d }} out of *",
        ),
        (
            "{% for d in ds %}{{ d }}{% endfor %}{{ q }}",
            "{% for d in ds %}{{ d }}{{ q }}{% endfor %}",
            "moves {{ q }} into {% for*",
        ),
        (
            "{% macro f(x) %}[{{ x }}]{% endmacro %}Do {{ f(q) }}",
            "{% macro f(x) %}[{{ x }}] {{ f(q) }}{% endmacro %}Do it",
            "moves {{ f(q) }} into {% macro f(x) %}",
        ),
        (
            "{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(q) }}",
            "{{ f(q) }}{% macro f(x) %}[{{ x }}]{% endmacro %}",
            "moves {{ f(q) }} in front of {% macro f(x) %}",
        ),
        (
            "{% if a %}{{ x }}{% else %}no{% endif %}",
            "{% if a %}{% else %}no {{ x }}{% endif %}",
            "moves {{ x }} into {% else %}",
        ),
        ("{% set x = 1 %}{{ x }}", "{{ x }}{% set x = 1 %}", "moves {{ x }} in front of {% set x = 1 %}"),
        ("{{ x }}{% set x = 1 %}", "{% set x = 1 %}{{ x }}", "moves {{ x }} behind {% set x = 1 %}"),
        ("{{ x }}{% if a %}{{ x }}{% endif %}", "{{ x }}{% if a %}{% endif %}", "loses {{ x }} inside {% if a %}"),
        (
            "{% if a %}{{ x }}{% endif %}{{ x }}",
            "{% if a %}{{ x }}{% endif %}",
            "loses {{ x }} outside of all statements",
        ),
        (
            "{% if a %}{% set x = 1 %}{% endif %}{{ x }}",
            "{{ x }}{% if a %}{% set x = 1 %}{% endif %}",
            "moves {{ x }} in front*",
        ),
        (
            "{% if a %}x{% else %}y{% endif %}",
            "{% if a %}x{% else %} {# y #}{% endif %}",
            "leaves no text inside {% else %}",
        ),
        (
            "{% if a %}Hurry: {{ x }}{% endif %}",
            "Hurry: {% if a %}{{ x }}{% endif %}",
            "leaves no text inside {% if a %}",
        ),
        ("%(ticket)s", "Be kind.", "loses %(ticket)s"),
        ("%(q)s", "Be 100% sure. %(q)s", "brings % s, which the source does not have; a percent sign is written %%"),
        ("%(q)s", "%(q)s %s", "brings %s, which*"),
        ("%(q)s", "%(q)s 5%", "brings %, which*"),
        ("%(q)s", "%(q)s %(q)d", "brings %(q)d, which the source does not have"),
        ('{"a": 1} {ticket}', '{"a": 1}', "loses {ticket}"),
        ('{"a": 1} {ticket}', '{"a": 1} {ticket} {name}', "brings {name}, which the source does not have"),
        ("{{ TICKET }} {name}{% x", "{name}", "loses {{ TICKET }}"),
        ("%(ticket)s", "%(ticket)s %(user)s", "brings %(user)s, which the source does not have"),
    ],
)
def test_a_lost_placeholder_and_foreign_code_are_named(source: str, candidate: str, fault: str) -> None:
    found = find_fault(template(source), candidate)
    assert found == fault or (fault.endswith("*") and found.startswith(fault[:-1])), found


def test_fields_without_a_name_keep_their_number() -> None:
    source = template("{} and {}", Language.FORMAT)
    assert find_fault(source, "{}, {}, {}") == "does not keep {} {} in order and number"


def test_a_source_that_is_broken_itself_has_no_other_candidates() -> None:
    source = template("{ticket", Language.FORMAT)
    assert find_fault(source, "{ticket") == ""
    assert find_fault(source, "ticket").startswith("takes the place of a source that is no format template")
    assert (source.placeholders, source.input_names) == ((), ())


def test_an_environment_says_what_a_placeholder_looks_like() -> None:
    environment = jinja2.Environment(variable_start_string="[[", variable_end_string="]]", line_statement_prefix="##")
    source = template("## if urgent\n[[ ticket ]]\n## endif\n", Language.JINJA2, environment)
    assert source.placeholders == ("## if urgent", "[[ ticket ]]", "## endif")
    assert find_fault(source, "Hurry:\n## if urgent\nNow [[ticket]] {{ free }}\n## endif\n") == ""
    assert find_fault(source, "## if urgent\n[[ ticket ]][[ ''.__class__ ]]\n## endif\n").startswith("brings [[ ''")
    assert find_fault(source, "## if urgent\n[[ ticket ]]\n## endif\n## set x = 1\n").startswith("brings ## set x = 1")


# --- nothing foreign, ever --------------------------------------------------------------------------------------------

HARMLESS = (
    "Be kind. ",
    " ",
    "\n",
    "ticket",
    "-",
    "}}",
    "{{",
    "%",
    "{ticket}",
    "{{ ticket }}",
    "{{ticket-}}",
    "{# no #}",
)
CODE = ("{", "}", "{%", "%}", "{#", "#}", "|", "'", ".__class__", "()", "!r", ":>3", "[0]", "raw", "set x = 1", "{}")
FOREIGN = (
    "{ticket.__class__}",
    "{user}",
    "{{ ticket() }}",
    "{{ ticket.x }}",
    "{% set x = ticket() %}",
    "{{ ''.join }}",
)
PIECES = st.lists(
    st.sampled_from(HARMLESS) | st.sampled_from([*HARMLESS, *CODE, *FOREIGN]) | st.text(max_size=3), max_size=4
).map("".join)


class Watched:
    """A value that remembers how it was touched."""

    def __init__(self) -> None:
        self.touched: list[str] = []

    def __getattribute__(self, name: str) -> object:
        if name in ("touched", "__class__", "__format__", "__str__", "__html__"):
            return object.__getattribute__(self, name)
        self.touched.append(name)
        raise AttributeError(name)

    def __getitem__(self, key: object) -> object:
        self.touched.append(f"[{key}]")
        raise KeyError(key)

    def __call__(self, *args: object) -> object:
        self.touched.append("()")
        return ""

    def __str__(self) -> str:
        return "<ticket>"

    def __format__(self, spec: str) -> str:
        return str(self)


@LAW
@given(before=PIECES, after=PIECES)
def test_a_format_candidate_that_passes_fills_in_the_ticket_and_touches_nothing_else(before: str, after: str) -> None:
    candidate = f"{before}{{ticket}}{after}"
    if find_fault(template("Answer {ticket}", Language.FORMAT), candidate):
        return
    ticket = Watched()
    assert "<ticket>" in candidate.format(ticket=ticket)
    assert ticket.touched == []


@LAW
@given(before=PIECES, between=PIECES, after=PIECES)
def test_a_jinja_candidate_that_passes_runs_the_sources_code_and_no_other(
    before: str, between: str, after: str
) -> None:
    source = template("{% if user %}Hurry. {% endif %}{{ ticket }}", Language.JINJA2)
    candidate = f"{before}{{% if user %}}{between}{{{{ ticket }}}}{{% endif %}}{after}"
    if find_fault(source, candidate):
        return
    ticket = Watched()
    rendered = jinja2.Template(candidate, undefined=jinja2.StrictUndefined).render(ticket=ticket, user=True)
    assert "<ticket>" in rendered
    assert ticket.touched == []


HARMLESS_TEXT = st.lists(st.sampled_from(["Be kind. ", "\n", "%", "ticket", "-"]), max_size=3).map("".join)


@LAW
@given(before=HARMLESS_TEXT, after=HARMLESS_TEXT, foreign=st.sampled_from(FOREIGN), is_first=st.booleans())
def test_foreign_code_never_passes_wherever_it_stands(before: str, after: str, foreign: str, is_first: bool) -> None:
    is_jinja = foreign.startswith(("{{", "{%"))
    own = "{{ ticket }}" if is_jinja else "{ticket}"
    candidate = "".join([foreign, before, own, after] if is_first else [before, own, after, foreign])
    assert find_fault(template(own), candidate).startswith("brings ")


@LAW
@given(PIECES)
def test_every_text_may_stand_for_itself(text: str) -> None:
    for language in Language:
        assert find_fault(template(text, language), text) == ""
