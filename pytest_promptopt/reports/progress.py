"""How a search is getting on: one line a round, and on a terminal a live line below them."""

from __future__ import annotations

from collections.abc import Callable

from pytest_promptopt.optimizers.base import Rejection
from pytest_promptopt.optimizers.driver import Rejected, RoundEnded, TrialScored
from pytest_promptopt.reports.events import SearchEnded, SearchEvent, SearchStarted
from pytest_promptopt.reports.jobs import rejected_line, rejected_proposals_line, round_line
from pytest_promptopt.reports.words import duration, money

REWRITE_PAUSE_SECONDS = 0.2


class LiveLine:
    """An observer of one search after another: it begins anew with each, and :meth:`end` takes it off the screen.

    ``write`` writes a line that stays, one at the end of each round. ``rewrite`` replaces the live line ("" takes it
    away); it is used on a terminal only, for trials at most five times a second. ``clock`` gives seconds; ``cost_usd``
    what the run has cost so far, ``None`` when nobody knows. The live line keeps within ``columns``: wrapped, it could
    not be rewritten.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        rewrite: Callable[[str], None],
        is_terminal: bool,
        clock: Callable[[], float],
        *,
        cost_usd: Callable[[], float | None] | None = None,
        max_cost_usd: float | None = None,
        columns: int = 79,
    ) -> None:
        self._write = write
        self._rewrite = rewrite
        self._is_terminal = is_terminal
        self._clock = clock
        self._cost_usd = cost_usd
        self._max_cost_usd = max_cost_usd
        self._columns = columns
        self.begin("")

    def begin(self, prompt: str) -> None:
        """Start over for the search of ``prompt``."""
        self._prompt = prompt.rpartition(".")[2]
        self._started_at = self._clock()
        self._rewritten_at: float | None = None
        self._round: RoundEnded | None = None
        self._round_ended_at = self._started_at
        self._uncounted: list[Rejection] = []

    def pytest_promptopt_event(self, event: SearchEvent) -> None:
        """Hear the stream of events."""
        self(event)

    def __call__(self, event: SearchEvent) -> None:
        """Show what a search says."""
        match event:
            case SearchStarted():
                self.begin(event.prompts[0])
            case SearchEnded():
                self.end()
                self._tell_uncounted()
            case RoundEnded():
                self._uncounted = []
                self._round, self._round_ended_at = event, self._clock()
                self._keep(round_line(event))
                self._show(event)
            case TrialScored():
                self._show(event)
            case Rejected() if line := rejected_line(event.rejection):
                self._keep(line)
            case Rejected():
                self._uncounted.append(event.rejection)

    def end(self) -> None:
        """Take the live line away."""
        if self._rewritten_at is not None:
            self._rewrite("")
            self._rewritten_at = None

    def _tell_uncounted(self) -> None:
        """Say what was rejected in a round that the budget ended before it could tell."""
        rejections, self._uncounted = self._uncounted, []
        if rejections:
            self._write(rejected_proposals_line(rejections))

    def _keep(self, line: str) -> None:
        self.end()
        self._write(line)

    def _show(self, event: RoundEnded | TrialScored) -> None:
        now = self._clock()
        is_due = self._rewritten_at is None or now - self._rewritten_at >= REWRITE_PAUSE_SECONDS
        if self._is_terminal and is_due:
            self._rewrite(self._text(event, now))
            self._rewritten_at = now

    def _text(self, event: RoundEnded | TrialScored, now: float) -> str:
        calls = f"{event.calls}" if event.max_calls is None else f"{event.calls}/{event.max_calls}"
        head = f"{self._prompt}  {self._round_words(event)}".rstrip()
        best = f"best {event.best_score:.3f}"
        tail = "  ".join(filter(None, (f"{calls} calls", self._money_words(), self._time_words(now))))
        whole = f"{head}  {best} (start {event.start_score:.3f})  {tail}"
        return whole if len(whole) <= self._columns else f"{head}  {best}  {tail}"[: self._columns]

    def _round_words(self, event: RoundEnded | TrialScored) -> str:
        """The round that ended, or after that the one that runs; before the first end nobody knows how many."""
        if self._round is None:
            return ""
        running = self._round.round + (event is not self._round)
        return f"round {min(running, self._round.rounds)}/{self._round.rounds}"

    def _money_words(self) -> str:
        if self._cost_usd is None:
            return ""
        cost = money(self._cost_usd())
        return cost if self._max_cost_usd is None else f"{cost}/{self._max_cost_usd:.2f}"

    def _time_words(self, now: float) -> str:
        """What the rounds to come take if they take what the past ones took."""
        if self._round is None or self._round.round < 1:
            return ""
        a_round = (self._round_ended_at - self._started_at) / self._round.round
        left = a_round * (self._round.rounds - self._round.round) - (now - self._round_ended_at)
        return f"~{duration(round(left))} left" if left >= 1 else ""
