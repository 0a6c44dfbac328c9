"""What is secret stands in no text that is written, however it got there, and nothing else is touched."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pytest_promptopt.lms.models import Catalog
from pytest_promptopt.lms.redaction import HIDDEN, Redactor, is_named_like_secret, secrets_in

KEY = "sk-planted-4711-abcdef"
secrets = st.text(
    st.characters(exclude_categories=("Cs", "Zs", "Cc"), exclude_characters="[]"), min_size=8, max_size=20
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(secrets, min_size=1, max_size=3), st.lists(st.text(max_size=12), min_size=1, max_size=5), st.data())
def test_no_secret_survives_wherever_it_stands(keys: list[str], words: list[str], data: st.DataObject) -> None:
    assume(not any(key.strip() in HIDDEN for key in keys))
    text = "".join(word + data.draw(st.sampled_from([*keys, ""])) for word in words)

    redacted = Redactor(keys).redact(text)

    assert not any(key.strip() in redacted for key in keys)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text())
@example("PWD and passwords are words, and so are basic needs and bearer bonds")
def test_a_text_without_secrets_stays_as_it_is(text: str) -> None:
    assume("uthorization" not in text)
    assert Redactor([KEY]).redact(text) == text


def test_secrets_that_overlap_leave_nothing_of_either() -> None:
    assert Redactor(["abcdefgh", "efghijklm"]).redact("x abcdefghijklm y") == f"x {HIDDEN} y"


@pytest.mark.parametrize(
    "written", [json.dumps('quo"te\nkey-1234'), json.dumps("schlüssel-1234"), quote("with space/key-1234", safe="")]
)
def test_a_secret_inside_json_or_an_address_is_hidden(written: str) -> None:
    redactor = Redactor(['quo"te\nkey-1234', "schlüssel-1234", "with space/key-1234"])

    assert "1234" not in redactor.redact(f"sent: {written}")


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdefghijklmnop",
        '{"authorization": "Basic dXNlcjpwYXNz"}',
        "curl -H 'x-api-key: 0123456789abc' https://example.com",
        "api-key=0123456789abc",
        "it said bearer eyJhbGciOiJIUzI1NiJ9.e30.x",
    ],
)
def test_authorization_headers_are_hidden_without_their_value_being_known(text: str) -> None:
    assert HIDDEN in Redactor().redact(text)


def test_a_short_value_is_no_secret() -> None:
    assert Redactor(["1234567"]).redact("1234567") == "1234567"


@pytest.mark.parametrize(
    "name",
    ["OPENAI_API_KEY", "openai_apikey", "GITHUB_TOKEN", "DB_PASSWORD", "CLIENT_SECRET", "MY_KEY2", "SMTP_PASS", "KEYS"],
)
def test_variables_are_secret_by_their_names(name: str) -> None:
    assert is_named_like_secret(name)


@pytest.mark.parametrize("name", ["PWD", "OLDPWD", "PATH", "KEYBOARD", "COMPASS_DIR", "PATTERN", "HOME"])
def test_other_variables_are_not(name: str) -> None:
    assert not is_named_like_secret(name)


def test_the_key_of_a_model_is_secret_whatever_its_variable_is_called() -> None:
    catalog = Catalog({"desk": {"model": "openai/x", "key_variable": "DESK"}})

    assert list(secrets_in({"DESK": KEY, "HOME": "/home/somebody"}, catalog)) == [KEY]


def test_a_project_hides_what_it_wants_to() -> None:
    redactor = Redactor([KEY], further=lambda text: ["ann@example.com"] if "@" in text else [])

    assert redactor.redact(f"ann@example.com has {KEY}") == f"{HIDDEN} has {HIDDEN}"


def test_texts_inside_json_values_are_hidden() -> None:
    value = {"a": [KEY, 1, None], f"x {KEY}": {"b": (KEY, True)}}

    assert Redactor([KEY]).redact_json(value) == {"a": [HIDDEN, 1, None], f"x {HIDDEN}": {"b": [HIDDEN, True]}}
