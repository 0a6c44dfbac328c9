"""What the desk asks a language model; which ticket belongs where is written down in ``policy.md``."""

from typing import Literal

from pytest_promptopt import prompt

Team = Literal["billing", "delivery", "device", "app", "account"]
Priority = Literal["low", "normal", "high", "urgent"]


@prompt
def route(ticket: str) -> Team:
    """Decide which team should answer this support ticket."""


@prompt
def priority(ticket: str) -> Priority:
    """Decide how soon this ticket must be answered.

    Urgent if someone is in danger. High if they cannot go on. If unsure, normal.
    """
