"""``@prompt``: a typed function becomes a prompt. Its docstring is the instruction, its annotations the shape."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, overload

from pytest_promptopt.errors import FormatError, SignatureError
from pytest_promptopt.lms.base import Message, Reply, Request
from pytest_promptopt.lms.client import Scope
from pytest_promptopt.prompts import registry
from pytest_promptopt.prompts.active import current_evaluation
from pytest_promptopt.prompts.base import AnyPrompt, Prediction, predicted
from pytest_promptopt.prompts.compiled import CompiledPrompt, Json
from pytest_promptopt.prompts.parsing import Parsed, dump_output, parse
from pytest_promptopt.prompts.rendering import json_inputs, render
from pytest_promptopt.prompts.runtime import PromptHome, Runtime, current_runtime
from pytest_promptopt.prompts.signature import bind, read_signature
from pytest_promptopt.prompts.trace import PromptCall

P = ParamSpec("P")
R = TypeVar("R")


class Prompt(AnyPrompt, Generic[P, R]):
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
        home = _find_home(function, name)
        signature = read_signature(
            function, name=home.name, reasoning=reasoning, temperature=temperature, max_tokens=max_tokens
        )
        self.is_async = inspect.iscoroutinefunction(function)
        self.loading = registry.loading_of(function.__globals__)
        super().__init__(home=home, signature=signature, model=model, is_optimized=optimize)

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
        self._require_attached()
        compiled, model = self._compiled_for_others(current_runtime())
        inputs = bind(self.signature, args, kwargs)
        if (evaluation := current_evaluation()) is not None:
            self._note_use_by_others(compiled, model, evaluation, json_inputs(inputs))
        return [dict(message) for message in render(self.signature, compiled, inputs)]

    def parse(self, text: str) -> R:
        """The typed value in a reply that you obtained yourself. Raises ``FormatError`` saying what was expected."""
        return parse(self.signature, text).value  # type: ignore[return-value]  # the value was validated against R

    def __reduce__(self) -> str:
        return str(vars(self)["__qualname__"])  # pickled by name, as functions are: worker processes import it

    def __get__(self, instance: object, owner: type | None = None) -> Prompt[P, R]:
        return self  # a prompt in a class body is a static one; it takes inputs, never ``self``

    @property
    def _awaitable_words(self) -> str:
        return f"write it as `async def {self.name.rpartition('.')[2]}` and await it"

    def _messages_for(self, compiled: CompiledPrompt, inputs: Mapping[str, Json]) -> tuple[Message, ...]:
        return render(self.signature, compiled, bind(self.signature, (), inputs))

    def _predict(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Prediction[Any]:
        request, reply, parsed = self._answer(args, kwargs)
        return predicted(parsed.value, request, reply, reasoning=parsed.reasoning)

    async def _apredict(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Prediction[Any]:
        request, reply, parsed = await self._aanswer(args, kwargs)
        return predicted(parsed.value, request, reply, reasoning=parsed.reasoning)

    async def _avalue(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return (await self._aanswer(args, kwargs))[2].value

    def _answer(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Request, Reply, Parsed]:
        self._warn_once_of_blocking()
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
        self._require_attached()
        runtime = current_runtime()
        evaluation = current_evaluation()
        inputs = bind(self.signature, args, kwargs)
        model = runtime.choose_model(self.model)
        compiled = self._compiled(runtime, model)
        request = self._request(model, render(self.signature, compiled, inputs), evaluation, inputs)
        return runtime, inputs, request, compiled, None if evaluation is None else evaluation.scope

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
        return self._traced(
            compiled,
            request.model,
            json_inputs(inputs),
            reply=reply,
            output=output,
            reasoning=None if parsed is None else parsed.reasoning,
            is_parsed=parsed is not None,
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
