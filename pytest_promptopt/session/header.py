"""The line in pytest's header: model, mode and why, and the ceilings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_promptopt.errors import ModelError
from pytest_promptopt.lms.client import Mode
from pytest_promptopt.lms.faults import Origin

if TYPE_CHECKING:
    from pytest_promptopt.session.run import Run


def lines(run: Run) -> list[str]:
    """What the reader should know before anything is called."""
    settings = run.settings
    models = settings.models or (_model(run),)
    parts = [", ".join(_described(run, model) for model in models)]
    if settings.is_optimizing:
        parts.append(f"proposer {_described(run, settings.proposer)}" if settings.proposer else "")
        parts += [f"optimizer {settings.optimizer}", f"seed {settings.seed}"]
    parts.append(_mode(run))
    text = [f"prompts: {', '.join(part for part in parts if part)}"]
    may_call = settings.is_optimizing or settings.mode is not Mode.REPLAY
    if may_call and (ceiling := _ceiling(run)):
        text.append(f"ceiling: {ceiling} for the whole run")
    return text


def _model(run: Run) -> str:
    try:
        return run.runtime.choose_model()
    except ModelError:
        return "no model configured"


def _described(run: Run, model: str) -> str:
    """A model's name, with what is behind it where the name does not say so."""
    settings = run.settings.catalog.find(model)
    return Origin(settings=settings, address=settings.base_url).name


def _mode(run: Run) -> str:
    settings = run.settings
    reason = f" ({settings.mode_reason})" if settings.mode_reason else ""
    if settings.mode is Mode.REPLAY:
        offline = ", simulators compute" if run.is_offline_alone else ", no call can be made"
        return f"replay{reason}{offline}"
    return f"replies {settings.mode}{reason}"


def _ceiling(run: Run) -> str:
    parts = [f"{run.max_calls} calls" if run.max_calls is not None else ""]
    if run.ceiling.max_cost_usd is not None and not run.is_offline_alone:
        parts.append(f"${run.ceiling.max_cost_usd:.2f}")
    return " and ".join(part for part in parts if part)
