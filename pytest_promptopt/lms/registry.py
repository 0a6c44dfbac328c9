"""From a model string to the object that answers: ``offline/keyword``, ``openai/gpt-4o-mini``, ``scripted/mine``."""

from __future__ import annotations

from threading import Lock

from pytest_promptopt.errors import ModelError
from pytest_promptopt.lms.base import LM, AsyncLM


def lm_for(model: str) -> LM | AsyncLM:
    """A new object that answers for ``model``. Raises :class:`~pytest_promptopt.errors.ModelError` for unknown ones."""
    provider, _, name = model.partition("/")
    if provider == "offline":
        return _offline(model)
    if not (provider and name):
        raise ModelError(_unknown(model))
    from pytest_promptopt.lms.litellm_edge import LiteLLM

    return LiteLLM()


class Registry:
    """The models of one run: those registered by hand, then those :func:`lm_for` finds; one object for each name."""

    def __init__(self) -> None:
        self._registered: dict[str, LM | AsyncLM] = {}
        self._found: dict[str, LM | AsyncLM] = {}
        self._lock = Lock()

    def register(self, name_or_prefix: str, lm: LM | AsyncLM) -> None:
        """Let ``lm`` answer for a model (``"scripted/x"``) or, ending in a slash, a provider (``"scripted/"``).

        The longest registered name wins; a later registration replaces an earlier one.
        """
        if not name_or_prefix.strip("/"):
            raise ModelError(
                'A registered model needs a name, for instance "scripted/x", or "scripted/" for all of them.'
            )
        with self._lock:
            self._registered = {**self._registered, name_or_prefix: lm}
            self._found = {}

    def lm_for(self, model: str) -> LM | AsyncLM:
        """What answers for ``model``: the same object every time. Raises ``ModelError`` for unknown ones."""
        lm = self._found.get(model)
        return self._find(model) if lm is None else lm

    def _find(self, model: str) -> LM | AsyncLM:
        with self._lock:
            if model not in self._found:
                self._found[model] = self._registered_for(model) or lm_for(model)
            return self._found[model]

    def _registered_for(self, model: str) -> LM | AsyncLM | None:
        names = [name for name in self._registered if name == model or (name.endswith("/") and model.startswith(name))]
        return self._registered[max(names, key=len)] if names else None


def _offline(model: str) -> LM:
    from pytest_promptopt.lms.offline import OfflineLM
    from pytest_promptopt.lms.offline.tempers import find_personality

    find_personality(model)  # an unknown one is refused here, before the first row
    return OfflineLM()


def _unknown(model: str) -> str:
    from pytest_promptopt.lms.offline import MODELS

    asked = f"Nobody knows the model {model!r}." if model else "No model is set."
    return (
        f"{asked} Offline models, which need no key: {', '.join(MODELS)}. Others are written provider/model, "
        "for instance openai/gpt-4o-mini. Set it with --prompt-model, the environment variable PROMPTOPT_MODEL, "
        "or promptopt_model in pytest's ini file."
    )
