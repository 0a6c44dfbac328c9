"""What every prompt has, a typed function or an adopted text: a home, a source, snapshots, and a trace of its calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from pytest_promptopt.errors import DetachedCallError, ModelError
from pytest_promptopt.lms.base import Message, Reply, Request, Usage
from pytest_promptopt.prompts import registry
from pytest_promptopt.prompts.active import Evaluation, current_evaluation, has_run_ended, is_detached, note_stray
from pytest_promptopt.prompts.compiled import CompiledPrompt, Json
from pytest_promptopt.prompts.json_schema import output_schema
from pytest_promptopt.prompts.runtime import (
    PromptHome,
    Runtime,
    Snapshot,
    check_production,
    current_runtime,
    is_in_event_loop,
    warn_of_blocking,
)
from pytest_promptopt.prompts.signature import Signature
from pytest_promptopt.prompts.trace import PromptCall

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction(Generic[T]):
    """One answered prompt: the typed value, and what stands behind it. A cost of ``None`` is unknown."""

    value: T
    reasoning: str | None
    text: str
    model: str
    usage: Usage | None
    cost_usd: float | None
    latency_seconds: float
    is_replayed: bool


def detached_words(names: Iterable[str]) -> str:
    """What to say of prompts that were called without the candidate under evaluation, and the ways out."""
    return (
        f"{', '.join(names)} was called while a candidate is under evaluation, by code that does not carry it. "
        "Hand a thread that the plugin did not start promptopt.propagate(function), from the fixture promptopt; "
        "in a fixture, do not call it: call it in the test"
    )


def predicted(value: T, request: Request, reply: Reply, *, reasoning: str | None = None) -> Prediction[T]:
    """The prediction of ``value``, which was read from ``reply``."""
    return Prediction(
        value=value,
        reasoning=reasoning,
        text=reply.text,
        model=request.model,
        usage=reply.usage,
        cost_usd=reply.cost_usd,
        latency_seconds=reply.latency_seconds,
        is_replayed=reply.is_replayed,
    )


class AnyPrompt:
    """What runs, snapshots and traces know of a prompt; how it is called is its own."""

    loading: registry.Loading | None = None  # the run of its module's code that made it

    def __init__(self, *, home: PromptHome, signature: Signature, model: str | None, is_optimized: bool) -> None:
        self.home = home
        self.name = home.name
        self.model = model
        self.is_optimized = is_optimized
        self.signature = signature
        self.source = CompiledPrompt(instruction=signature.instruction)
        self._has_warned_of_blocking = False
        registry.register(self)

    @property
    def snapshot(self) -> Snapshot:
        """The compiled prompt in force for the current model, and why. Raises ``ModelError`` without a model."""
        runtime = current_runtime()
        return self.find_snapshot(runtime, runtime.choose_model(self.model))

    def find_snapshot(self, runtime: Runtime, model: str) -> Snapshot:
        """The compiled prompt in force for ``model`` in ``runtime``."""
        return runtime.shelf.find(self.home, self.signature, self.source, model)

    def __repr__(self) -> str:
        return f"<prompt {self.name}>"

    def request_for(self, model: str, inputs: Mapping[str, Json], *, repeat: int = 0, ordinal: int = 0) -> Request:
        """What is sent to ``model`` for ``inputs``, which are JSON values by name, as the prompt stands; calls nothing.

        Raises ``TypeError`` for inputs that do not fit, and whatever a template raises.
        """
        compiled = self.find_snapshot(current_runtime(), model).compiled
        messages = self._messages_for(compiled, inputs)
        return replace(self._request(model, messages, None, inputs), repeat=repeat, ordinal=ordinal)

    def _messages_for(self, compiled: CompiledPrompt, inputs: Mapping[str, Json]) -> tuple[Message, ...]:
        """The messages of a call with ``inputs``, as JSON values by name."""
        raise NotImplementedError

    def _require_attached(self) -> None:
        """Raise ``DetachedCallError`` where a candidate ought to be carried and is not; note who carries no row."""
        note_stray(self.name)
        if is_detached():
            raise DetachedCallError(detached_words([self.name]))
        if has_run_ended():
            raise DetachedCallError(f"{self.name} was called by what is left of a run that has ended; nobody is asked")

    def _compiled(self, runtime: Runtime, model: str) -> CompiledPrompt:
        """The candidate under evaluation, else the valid snapshot for ``model``, else the source."""
        evaluation = current_evaluation()
        if evaluation is not None and (compiled := evaluation.candidate.get(self.name)) is not None:
            return compiled
        snapshot = self.find_snapshot(runtime, model)
        if runtime.is_production:
            check_production(snapshot, self.name, is_searched=self.is_optimized)
        return snapshot.compiled

    def _compiled_for_others(self, runtime: Runtime) -> tuple[CompiledPrompt, str]:
        """The compiled prompt in force for whoever has a client of their own, and its model.

        Nobody has to name a model then: without one (an empty string) the source is in force, as it has no snapshot.
        """
        try:
            model = runtime.choose_model(self.model)
        except ModelError:
            if runtime.requires_snapshots:
                raise
            evaluation = current_evaluation()
            candidate = None if evaluation is None else evaluation.candidate.get(self.name)
            return self.source if candidate is None else candidate, ""
        return self._compiled(runtime, model), model

    def _request(
        self,
        model: str,
        messages: tuple[Message, ...],
        evaluation: Evaluation | None,
        inputs: Mapping[str, object] | None = None,
    ) -> Request:
        heat = None if evaluation is None else evaluation.temperature
        return Request(
            model=model,
            messages=messages,
            temperature=self.signature.temperature if heat is None else heat,
            max_tokens=self.signature.max_tokens,
            schema=output_schema(self.signature),
            prompt=self.name,
            inputs=inputs,
        )

    def _warn_once_of_blocking(self) -> None:
        """Mention that an answer is waited for inside an event loop, which stands still meanwhile."""
        if not self._has_warned_of_blocking and is_in_event_loop():
            self._has_warned_of_blocking = True
            warn_of_blocking(self.name, self._awaitable_words)

    @property
    def _awaitable_words(self) -> str:
        """How to call it so that an event loop goes on."""
        raise NotImplementedError

    def _note_use_by_others(
        self, compiled: CompiledPrompt, model: str, evaluation: Evaluation, inputs: Mapping[str, Json]
    ) -> None:
        """Count the call that somebody else's client will make, and leave a trace with the row under evaluation."""
        if evaluation.scope.spend is not None:
            evaluation.scope.spend()
        current_runtime().client.hand_out()
        evaluation.calls.append(self._traced(compiled, model, inputs))

    def _traced(
        self,
        compiled: CompiledPrompt,
        model: str,
        inputs: Mapping[str, Json],
        *,
        reply: Reply | None = None,
        output: Json = None,
        reasoning: str | None = None,
        is_parsed: bool = False,
    ) -> PromptCall:
        """The trace of one call; without a ``reply`` it is somebody else's client that makes it."""
        return PromptCall(
            prompt=self.name,
            inputs=inputs,
            output=output,
            reasoning=reasoning,
            reply="" if reply is None else reply.text,
            is_parsed=is_parsed,
            digest=compiled.digest,
            model=model,
            file=str(self.home.file),
            is_sent_by_us=reply is not None,
            cost_usd=None if reply is None else reply.cost_usd,
        )
