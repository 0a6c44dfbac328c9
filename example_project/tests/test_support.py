"""What the desk promises: prompts by score over real tickets, plain code by plain tests."""

from datetime import datetime

import pytest
from pytest_promptopt import Score, load_dataset

from support.desk import Triage, steps_apart, triage
from support.prompts import priority, route


@pytest.fixture(scope="session")
def tickets():
    return load_dataset("tickets.jsonl")


@pytest.mark.prompt_metric("tickets", threshold=0.65)
def test_routes_tickets(example):
    assert route(ticket=example["ticket"]) == example["team"]


@pytest.mark.prompt_metric("tickets", threshold=0.5)
def test_sets_priority(example):
    assert priority(ticket=example["ticket"]) == example["priority"]


@pytest.mark.prompt_metric("tickets", threshold=0.65)
def test_triages_tickets(example):
    """Half a point for the team; half for the priority, of which one step off keeps a quarter."""
    decided = triage(example["ticket"])
    team_points = 0.5 if decided.team == example["team"] else 0.0
    priority_points = {0: 0.5, 1: 0.25}.get(steps_apart(decided.priority, example["priority"]), 0.0)
    return Score(
        team_points + priority_points,
        feedback=f"sent to {decided.team} as {decided.priority}, belongs to {example['team']} as {example['priority']}",
    )


@pytest.mark.parametrize(("urgency", "hour"), [("urgent", 10), ("high", 17)])
def test_the_clock_starts_when_the_ticket_comes_in(urgency, hour):
    nine = datetime(2026, 3, 2, 9)
    assert Triage(team="app", priority=urgency).due(nine) == nine.replace(hour=hour)


def test_only_urgent_tickets_ring_someone():
    assert Triage(team="device", priority="urgent").queue == "device-oncall"
    assert Triage(team="device", priority="high").queue == "device"


def test_priorities_are_steps_on_one_ladder():
    assert steps_apart("low", "urgent") == 3
    assert steps_apart("high", "normal") == 1
    assert steps_apart("low", "low") == 0
