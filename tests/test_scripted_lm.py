"""The public fake: every way to write its script, and the registry that finds models by name."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_promptopt.errors import LMError, ModelError
from pytest_promptopt.lms.base import LM, Reply, Request
from pytest_promptopt.lms.registry import Registry
from pytest_promptopt.lms.scripted import ScriptedLM


def request(text: str, *earlier: tuple[str, str]) -> Request:
    turns = [*earlier, ("user", text)]
    return Request(model="scripted/x", messages=tuple({"role": role, "content": content} for role, content in turns))


def test_a_sequence_answers_in_order_and_then_says_that_it_is_at_its_end() -> None:
    lm = ScriptedLM(["one", "two"])
    assert [lm.complete(request(text)).text for text in "ab"] == ["one", "two"]
    with pytest.raises(LMError, match=r"no reply for request 3 to scripted/x: 'c'.*default="):
        lm.complete(request("c"))


def test_a_mapping_answers_by_words_of_the_last_user_message() -> None:
    lm = ScriptedLM({"refund": "billing", "crash": "bug"})
    assert lm.complete(request("a crash", ("user", "a refund"), ("assistant", "billing"))).text == "bug"


def test_the_first_key_that_occurs_answers() -> None:
    assert ScriptedLM({"b": "first", "a": "second"}).complete(request("ab")).text == "first"


def test_a_mapping_without_a_match_is_an_error_unless_a_default_answers() -> None:
    with pytest.raises(LMError, match="no reply"):
        ScriptedLM({"refund": "billing"}).complete(request("hello"))
    assert ScriptedLM({"refund": "billing"}, default="account").complete(request("hello")).text == "account"


def test_an_empty_default_is_a_default() -> None:
    assert ScriptedLM([], default="").complete(request("hello")).text == ""


def test_a_callable_reads_the_request() -> None:
    lm = ScriptedLM(lambda asked: f"{asked.model} heard {asked.messages[-1]['content']}")
    assert lm.complete(request("hello")).text == "scripted/x heard hello"


def test_a_whole_reply_is_handed_on_as_it_is() -> None:
    reply = Reply(text="yes", cost_usd=0.25)
    assert ScriptedLM([reply]).complete(request("?")) is reply


@pytest.mark.parametrize(
    "script", [[ValueError("broken")], {"?": ValueError("broken")}, lambda _: ValueError("broken")]
)
def test_an_exception_in_the_script_is_raised(script: object) -> None:
    with pytest.raises(ValueError, match="broken"):
        ScriptedLM(script).complete(request("?"))  # type: ignore[arg-type]


def test_a_bare_string_is_refused_because_its_letters_are_not_replies() -> None:
    with pytest.raises(TypeError, match=r"write \['yes'\]"):
        ScriptedLM("yes")


def test_it_remembers_every_request_of_every_thread() -> None:
    lm = ScriptedLM([str(turn) for turn in range(200)])
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda turn: lm.complete(request(str(turn))).text, range(200)))
    assert sorted(replies, key=int) == [str(turn) for turn in range(200)]
    assert {asked.messages[-1]["content"] for asked in lm.requests} == {str(turn) for turn in range(200)}


def test_it_is_a_model_of_this_process_and_costs_nothing() -> None:
    lm = ScriptedLM(["yes"])
    assert isinstance(lm, LM)
    assert lm.is_offline
    assert lm.complete(request("?")).cost_usd == 0.0


def test_a_registered_model_answers_for_its_name_and_a_prefix_for_all_others() -> None:
    registry, one, rest = Registry(), ScriptedLM(["one"]), ScriptedLM(["rest"])
    registry.register("scripted/", rest)
    registry.register("scripted/one", one)
    assert registry.lm_for("scripted/one") is one
    assert registry.lm_for("scripted/other") is registry.lm_for("scripted/one-more") is rest


def test_a_later_registration_replaces_an_earlier_one() -> None:
    registry, earlier, later = Registry(), ScriptedLM(["earlier"]), ScriptedLM(["later"])
    registry.register("scripted/x", earlier)
    assert registry.lm_for("scripted/x") is earlier
    registry.register("scripted/x", later)
    assert registry.lm_for("scripted/x") is later


def test_a_registration_needs_a_name() -> None:
    with pytest.raises(ModelError, match="scripted/x"):
        Registry().register("/", ScriptedLM([]))


def test_one_object_answers_for_a_model_however_often_it_is_looked_up() -> None:
    registry = Registry()
    assert registry.lm_for("openai/gpt-4o-mini") is registry.lm_for("openai/gpt-4o-mini")
    assert registry.lm_for("offline/keyword") is registry.lm_for("offline/keyword")


def test_an_unknown_offline_model_is_refused_when_it_is_looked_up() -> None:
    with pytest.raises(ModelError, match="offline/keyword"):
        Registry().lm_for("offline/nobody")


@pytest.mark.parametrize("model", ["", "gpt-4o-mini", "openai/", "/x"])
def test_an_unknown_model_lists_the_offline_ones_and_where_to_set_another(model: str) -> None:
    with pytest.raises(ModelError) as refusal:
        Registry().lm_for(model)
    for hint in ("offline/keyword", "provider/model", "--prompt-model", "PROMPTOPT_MODEL", "promptopt_model"):
        assert hint in str(refusal.value)
