"""A ticket comes in; out comes the queue it waits in and the time by which somebody must have answered."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from support.prompts import Priority, Team, priority, route

HOURS_TO_ANSWER: dict[Priority, int] = {"urgent": 1, "high": 8, "normal": 24, "low": 72}


@dataclass(frozen=True)
class Triage:
    """Where a ticket goes and how soon it is answered."""

    team: Team
    priority: Priority

    @property
    def queue(self) -> str:
        """The team's own queue; whatever is urgent rings the team's person on call."""
        return f"{self.team}-oncall" if self.priority == "urgent" else self.team

    def due(self, received: datetime) -> datetime:
        """The latest moment for a first answer."""
        return received + timedelta(hours=HOURS_TO_ANSWER[self.priority])


def triage(ticket: str) -> Triage:
    """Two questions to the model, one decision."""
    return Triage(team=route(ticket=ticket), priority=priority(ticket=ticket))


def steps_apart(one: Priority, other: Priority) -> int:
    """How many steps lie between two priorities: 0 when equal, 3 between low and urgent."""
    ladder = list(HOURS_TO_ANSWER)
    return abs(ladder.index(one) - ladder.index(other))
