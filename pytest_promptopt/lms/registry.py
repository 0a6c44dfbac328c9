"""From a model string to the object that answers: ``offline/keyword``, ``openai/gpt-4o-mini``, ``scripted/mine``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from threading import Lock

from pytest_promptopt.errors import ModelError
from pytest_promptopt.lms.base import LM, AsyncLM
from pytest_promptopt.lms.models import Catalog, Edge


class Registry:
    """The models of one run: those registered by hand, then those that its catalog describes; one object for each name.

    Keys are read from ``environ``, the process environment where none is given.
    """

    def __init__(self, catalog: Catalog | None = None, *, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._catalog = catalog or Catalog(environ=self._environ)
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

    def _find(self, name: str) -> LM | AsyncLM:
        with self._lock:
            if name not in self._found:
                self._found[name] = self._registered_for(name) or self._make(name)
            return self._found[name]

    def _registered_for(self, model: str) -> LM | AsyncLM | None:
        names = [name for name in self._registered if name == model or (name.endswith("/") and model.startswith(name))]
        return self._registered[max(names, key=len)] if names else None

    def _make(self, name: str) -> LM | AsyncLM:
        """A new object for the settings of ``name``; each edge is imported when its first model is made."""
        settings = self._catalog.find(name)
        if settings.provider == "offline":
            return _offline(settings.model)
        if not (settings.provider and settings.model_name):
            raise ModelError(_unknown(name, self._catalog.names))
        if settings.edge is Edge.OPENAI:
            from pytest_promptopt.lms.openai_edge import OpenAICompatible

            return OpenAICompatible(settings, environ=self._environ)
        from pytest_promptopt.lms.litellm_edge import LiteLLM

        return LiteLLM(settings, environ=self._environ)


def _offline(model: str) -> LM:
    from pytest_promptopt.lms.offline import OfflineLM
    from pytest_promptopt.lms.offline.tempers import find_personality

    find_personality(model)  # an unknown one is refused here, before the first row
    return OfflineLM()


def _unknown(model: str, aliases: tuple[str, ...]) -> str:
    from pytest_promptopt.lms.offline import MODELS

    asked = f"Nobody knows the model {model!r}." if model else "No model is set."
    own = f"Models of this project: {', '.join(aliases)}. " if aliases else ""
    return (
        f"{asked} {own}Offline models, which need no key: {', '.join(MODELS)}. Others are written provider/model, "
        "for instance openai/gpt-4o-mini. Set it with --prompt-model, the environment variable PROMPTOPT_MODEL, "
        "or promptopt_model in pytest's ini file."
    )
