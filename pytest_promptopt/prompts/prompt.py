"""``@prompt``: a typed function becomes a prompt. Its docstring is the instruction, its annotations the shape."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, overload

from pytest_promptopt.errors import DetachedCallError, FormatError, ModelError, SignatureError
from pytest_promptopt.lms.base import Reply, Request, Usage
from pytest_promptopt.lms.client import Scope
from pytest_promptopt.prompts import registry
from pytest_promptopt.prompts.active import current_evaluation, is_detached
from pytest_promptopt.prompts.compiled import CompiledPrompt, Json
from pytest_promptopt.prompts.parsing import Parsed, dump_output, parse
from pytest_promptopt.prompts.rendering import json_inputs, render
from pytest_promptopt.prompts.runtime import PromptHome, Runtime, Snapshot, check_production, current_runtime
from pytest_promptopt.prompts.signature import Signature, bind, read_signature
from pytest_promptopt.prompts.trace import PromptCall

P = ParamSpec("P")
R = TypeVar("R")
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


class Prompt(Generic[P, R]):
    """A prompt: call it like the function it was; ``predict``, ``messages`` and ``parse`` for those who want the parts.

    For an ``async def`` function, calling it and ``predict`` give awaitables. ``R`` is what calling it gives.
    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        model: str | None = None,
        reasoning: bool = False,
        temperature: float = 0.0,
        max_tokens: int | None = None,
        optimize: bool = True,
    ) -> None:
        functools.update_wrapper(self, function)
        self.home = _find_home(function, name)
        self.name = self.home.name
        self.model = model
        self.is_optimized = optimize
        self.is_async = inspect.iscoroutinefunction(function)
        self.signature: Signature = read_signature(
            function, name=self.name, reasoning=reasoning, temperature=temperature, max_tokens=max_tokens
        )
        self.source = CompiledPrompt(instruction=self.signature.instruction)
        registry.register(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The typed value. Raises ``FormatError`` for a reply that cannot be read, ``LMError`` when there is none."""
        if self.is_async:
            return self._avalue(args, kwargs)  # type: ignore[return-value]  # R is the coroutine of an async function
        return self._answer(args, kwargs)[2].value  # type: ignore[return-value]  # it was validated against R

    def predict(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Like calling it, but a :class:`Prediction` (an awaitable of one for an ``async def`` prompt)."""
        return self._apredict(args, kwargs) if self.is_async else self._predict(args, kwargs)

    def messages(self, *args: P.args, **kwargs: P.kwargs) -> list[dict[str, str]]:
        """The chat messages of such a call, with the compiled prompt in force. Calls nothing."""
        runtime = current_runtime()
        try:
            model = runtime.choose_model(self.model)
        except ModelError:
            compiled = self.source  # no model, so no snapshot; whoever asks has a client of their own
        else:
            compiled = self._compiled(runtime, model)
        return [dict(message) for message in render(self.signature, compiled, bind(self.signature, args, kwargs))]

    def parse(self, text: str) -> R:
        """The typed value in a reply that you obtained yourself. Raises ``FormatError`` saying what was expected."""
        return parse(self.signature, text).value  # type: ignore[return-value]  # the value was validated against R

    @property
    def snapshot(self) -> Snapshot:
        """The compiled prompt in force for the current model, and why. Raises ``ModelError`` without a model."""
        runtime = current_runtime()
        return self.find_snapshot(runtime, runtime.choose_model(self.model))

    def find_snapshot(self, runtime: Runtime, model: str) -> Snapshot:
        """The compiled prompt in force for ``model`` in ``runtime``."""
        return runtime.shelf.find(self.home, self.signature, self.source, model)

    def __get__(self, instance: object, owner: type | None = None) -> Prompt[P, R]:
        return self  # a prompt in a class body is a static one; it takes inputs, never ``self``

    def __repr__(self) -> str:
        return f"<prompt {self.name}>"

    def _predict(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Prediction[Any]:
        return _prediction(*self._answer(args, kwargs))

    async def _apredict(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Prediction[Any]:
        return _prediction(*await self._aanswer(args, kwargs))

    async def _avalue(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return (await self._aanswer(args, kwargs))[2].value

    def _answer(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Request, Reply, Parsed]:
        runtime, inputs, request, compiled, scope = self._prepare(args, kwargs)
        reply = runtime.client.complete(request, scope)
        return request, reply, self._conclude(request, reply, inputs, compiled)

    async def _aanswer(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Request, Reply, Parsed]:
        runtime, inputs, request, compiled, scope = self._prepare(args, kwargs)
        reply = await runtime.client.acomplete(request, scope)
        return request, reply, self._conclude(request, reply, inputs, compiled)

    def _prepare(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Runtime, dict[str, object], Request, CompiledPrompt, Scope | None]:
        if is_detached():
            raise DetachedCallError(
                f"{self.name} was called from a thread that the plugin did not start while a candidate is under "
                "evaluation; hand the thread promptopt.propagate(function), from the fixture promptopt"
            )
        runtime = current_runtime()
        evaluation = current_evaluation()
        inputs = bind(self.signature, args, kwargs)
        model = runtime.choose_model(self.model)
        compiled = self._compiled(runtime, model)
        heat = self.signature.temperature if evaluation is None else evaluation.temperature
        request = Request(
            model=model,
            messages=render(self.signature, compiled, inputs),
            temperature=self.signature.temperature if heat is None else heat,
            max_tokens=self.signature.max_tokens,
        )
        return runtime, inputs, request, compiled, None if evaluation is None else evaluation.scope

    def _compiled(self, runtime: Runtime, model: str) -> CompiledPrompt:
        """The candidate under evaluation, else the valid snapshot for ``model``, else the source."""
        evaluation = current_evaluation()
        if evaluation is not None and (compiled := evaluation.candidate.get(self.name)) is not None:
            return compiled
        snapshot = self.find_snapshot(runtime, model)
        if runtime.is_production:
            check_production(snapshot, self.name, is_searched=self.is_optimized)
        return snapshot.compiled

    def _conclude(
        self, request: Request, reply: Reply, inputs: Mapping[str, object], compiled: CompiledPrompt
    ) -> Parsed:
        """Read the reply, and leave a trace of the call with the row that is being evaluated, read or not."""
        evaluation = current_evaluation()
        try:
            parsed = parse(self.signature, reply.text)
        except FormatError:
            if evaluation is not None:
                evaluation.calls.append(self._record(request, reply, inputs, compiled, None))
            raise
        if evaluation is not None:
            evaluation.calls.append(self._record(request, reply, inputs, compiled, parsed))
        return parsed

    def _record(
        self,
        request: Request,
        reply: Reply,
        inputs: Mapping[str, object],
        compiled: CompiledPrompt,
        parsed: Parsed | None,
    ) -> PromptCall:
        output: Json = None if parsed is None else dump_output(self.signature, parsed.value)
        return PromptCall(
            prompt=self.name,
            inputs=json_inputs(inputs),
            output=output,
            reasoning=None if parsed is None else parsed.reasoning,
            reply=reply.text,
            is_parsed=parsed is not None,
            digest=compiled.digest,
            model=request.model,
            file=str(self.home.file),
        )


def _prediction(request: Request, reply: Reply, parsed: Parsed) -> Prediction[Any]:
    return Prediction(
        value=parsed.value,
        reasoning=parsed.reasoning,
        text=reply.text,
        model=request.model,
        usage=reply.usage,
        cost_usd=reply.cost_usd,
        latency_seconds=reply.latency_seconds,
        is_replayed=reply.is_replayed,
    )


def _find_home(function: Callable[..., object], name: str | None) -> PromptHome:
    code = getattr(function, "__code__", None)
    if code is None:
        raise SignatureError(f"@prompt wraps plain functions, not {function!r}; put it directly above the def")
    module = function.__module__
    qualname = function.__qualname__.replace(".<locals>", "")
    stem = Path(code.co_filename).stem if module == "__main__" else module.rpartition(".")[2]
    file = getattr(sys.modules.get(module), "__file__", None) or code.co_filename
    return PromptHome(
        name=name or f"{stem}.{qualname}", module=module, file=Path(file).absolute(), line=code.co_firstlineno
    )


@overload
def prompt(function: Callable[P, R], /) -> Prompt[P, R]: ...


@overload
def prompt(
    *,
    name: str | None = None,
    model: str | None = None,
    reasoning: bool = False,
    temperature: float = 0.0,
    max_tokens: int | None = None,
    optimize: bool = True,
) -> Callable[[Callable[P, R]], Prompt[P, R]]: ...


def prompt(function: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
    """Turn a typed function into a prompt.

    ::

        @prompt
        def route(ticket: str) -> Literal["billing", "bug", "account"]:
            \"\"\"Decide which team should answer this support ticket.\"\"\"

    Keywords: ``name`` (default: module and function), ``model`` (pins one), ``reasoning`` (think before answering),
    ``temperature``, ``max_tokens``, ``optimize=False`` (a judge, say: recorded like any other, never searched).
    Raises ``SignatureError`` for a function that cannot be read as a prompt.
    """
    if function is not None:
        return Prompt(function, **settings)
    return lambda decorated: Prompt(decorated, **settings)
