"""One prompt call as it happened inside an evaluated row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_promptopt.prompts.compiled import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCall:
    """What went into a prompt and what came out, as JSON values.

    ``output`` is ``None`` with ``is_parsed`` false when the reply could not be read as the prompt's output. ``digest``
    is the content digest of the compiled prompt that ran, ``file`` where the prompt is defined. ``is_sent_by_us`` is
    false where somebody sends what a prompt gave through a client of their own: there is no ``reply`` then, and no
    ``model`` where none is named. ``cost_usd`` is what the reply cost when it was made, ``None`` where nobody knows.
    """

    prompt: str
    inputs: Mapping[str, Json]
    output: Json
    reasoning: str | None
    reply: str
    is_parsed: bool = True
    digest: str = ""
    model: str = ""
    file: str = ""
    is_sent_by_us: bool = True
    cost_usd: float | None = None
