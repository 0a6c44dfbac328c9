"""Which options run a search again that is over, as the provenance of what it found tells."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pytest_promptopt.errors import PromptOptError
from pytest_promptopt.optimizers.registry import make_optimizer
from pytest_promptopt.prompts.compiled import Json
from pytest_promptopt.prompts.frozen import FrozenPrompt, read_frozen
from pytest_promptopt.session.confirming import plain_settings
from pytest_promptopt.session.kept import FOLDER
from pytest_promptopt.snapshots.change import read_text

if TYPE_CHECKING:
    from pytest_promptopt.session.run import Run


def options_that_found(run: Run, provenance: Mapping[str, Json]) -> str:
    """What this session's command lacks of the one that found something, as one would type it; often nothing."""
    return " ".join(f"{option} {shlex.quote(value)}" for option, value in _differences(run, provenance))


def hint_for_freezing(run: Run, name: str) -> str:
    """How the winner ``name``, which lies among those that were kept, is found again; empty where it does not."""
    kept = _read_kept(run, name)
    if kept is None:
        return ""
    store, rootdir = run.settings.store, run.settings.rootdir
    shown = store.relative_to(rootdir) if store.is_relative_to(rootdir) else store
    place = f"{name} lies in {(shown / FOLDER / name).as_posix()}"
    options = options_that_found(run, kept.provenance)
    if kept.model not in run.named_models:
        options = f"--prompt-model {shlex.quote(kept.model)} {options}".rstrip()
    if not options:
        return f"{place} and was found with these options: its rows, its code or the metrics selected were others"
    return f"{place}; to find it again, type the same command with {options}"


def _differences(run: Run, provenance: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    settings = run.settings
    optimizer = provenance.get("optimizer")
    if isinstance(optimizer, str):
        if optimizer != settings.optimizer:
            yield "--prompt-optimizer", optimizer
        yield from _settings_that_differ(run, optimizer, provenance.get("settings"))
    proposer = provenance.get("proposer")
    if isinstance(proposer, str) and proposer != settings.proposer:
        yield "--prompt-proposer", proposer
    seed = provenance.get("seed")
    if isinstance(seed, int) and seed != settings.seed:
        yield "--prompt-seed", str(seed)
    budget = provenance.get("budget")
    if isinstance(budget, int) and not (settings.has_own_budget and budget == settings.budget):
        yield "--prompt-budget", str(budget)


def _settings_that_differ(run: Run, optimizer: str, asked: Json) -> Iterator[tuple[str, str]]:
    """Those of the strategy ``optimizer`` that this session would give it otherwise; none where it is unknown."""
    if not isinstance(asked, Mapping):
        return
    try:
        given = run.settings.optimizer_settings.get(optimizer, {})
        mine = plain_settings(make_optimizer(optimizer, given, extra=run.extra_optimizers))
    except (PromptOptError, TypeError):
        return
    for key in {**mine, **asked}:
        value = asked.get(key)
        if value != mine.get(key):
            yield "--prompt-set", f"{optimizer}.{key}={_spelled(value)}"


def _spelled(value: Json) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _read_kept(run: Run, name: str) -> FrozenPrompt | None:
    """One of the snapshots that the winner ``name`` would have become; ``None`` where none can be read."""
    for path in sorted((run.settings.store / FOLDER / name).glob("*.toml")):
        try:
            text = read_text(path)
            if text is not None:
                return read_frozen(text, path=path)
        except PromptOptError:
            continue
    return None
