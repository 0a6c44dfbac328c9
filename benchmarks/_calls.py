"""Our side of ``concurrency.py``, and the two clients that it is held against: bare aiohttp, and litellm.

``python _calls.py URL NAME=AT_A_TIME CALLS`` runs one cell in this process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from _workload import INSTRUCTION, label, text, timed

MODEL = "slow"


def ours(url: str, at_a_time: int, calls: int) -> dict[str, float]:
    """Synchronous metrics in as many threads: prompts, client, store and scores, as a run has them."""
    os.environ |= {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none"}
    from _rows import METRIC, classify, compiled, rows_of

    from pytest_promptopt.evaluation.dataset import as_examples
    from pytest_promptopt.evaluation.loop import run_in_threads
    from pytest_promptopt.evaluation.metric import Trial
    from pytest_promptopt.lms.ceiling import Ceiling
    from pytest_promptopt.lms.client import Client, Mode
    from pytest_promptopt.lms.models import Catalog
    from pytest_promptopt.lms.registry import Registry
    from pytest_promptopt.lms.store import Store
    from pytest_promptopt.prompts.active import provide_runtime
    from pytest_promptopt.prompts.runtime import Runtime

    model = f"openai/{MODEL}"
    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog(environ=os.environ)
        client = Client(
            lm_for=Registry(catalog, environ=os.environ).lm_for,
            models=catalog,
            store=Store(Path(folder) / "store"),
            ceiling=Ceiling(max_calls=calls + 1),
            mode=Mode.AUTO,
            max_concurrency=at_a_time,
        )
        runtime = Runtime(client=client, command_line_model=model)
        provide_runtime(lambda: runtime)

        def evaluate(count: int, instruction: str) -> int:
            work = [
                Trial(example=example, candidate={classify.name: compiled(0, instruction)}, model=model)
                for example in as_examples(rows_of(count), name="rows")
            ]
            results = run_in_threads(work, METRIC.run, concurrency=at_a_time)
            return sum(result.judgement.score == 1.0 for result in results)

        evaluate(1, "Warm up.")
        spent = timed(lambda: evaluate(calls, INSTRUCTION), calls)
        client.close()
        return spent


def messages(number: int) -> list[dict[str, str]]:
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": text(number)}]


def gathered(
    ask: Callable[[int], Awaitable[str]], at_a_time: int, calls: int
) -> Callable[[], Awaitable[dict[str, float]]]:
    """So many tasks that share ``calls`` calls, timed after one to warm up."""

    async def worker(numbers: Iterator[int]) -> int:
        right = 0
        for number in numbers:
            right += await ask(number) == label(number)
        return right

    async def run() -> dict[str, float]:
        await ask(0)
        numbers = iter(range(calls))
        loop, correct = asyncio.get_running_loop(), 0
        start = loop.time(), os.times()
        correct = sum(await asyncio.gather(*(worker(numbers) for _ in range(at_a_time))))
        wall, used = loop.time() - start[0], os.times()
        cpu = used.user + used.system - start[1].user - start[1].system
        if correct != calls:
            raise SystemExit(f"{correct} of {calls} answers are right")
        return {"cpu_us": 1e6 * cpu / calls, "wall_us": 1e6 * wall / calls, "rows": calls}

    return run


def bare_aiohttp(url: str, at_a_time: int, calls: int) -> dict[str, float]:
    """The floor: post, read, decode; tasks instead of threads, and no framework at all."""
    import aiohttp

    async def main() -> dict[str, float]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=at_a_time)) as session:

            async def ask(number: int) -> str:
                body = {"model": MODEL, "messages": messages(number), "temperature": 0.0}
                async with session.post(f"{url}/chat/completions", json=body) as response:
                    reply = await response.json()
                return str(reply["choices"][0]["message"]["content"])

            return await gathered(ask, at_a_time, calls)()

    return asyncio.run(main())


def litellm_async(url: str, at_a_time: int, calls: int) -> dict[str, float]:
    """``litellm.acompletion`` in tasks."""
    import litellm

    litellm.suppress_debug_info = True

    async def ask(number: int) -> str:
        reply = await litellm.acompletion(
            model=f"openai/{MODEL}", api_base=url, api_key="none", messages=messages(number), temperature=0.0
        )
        return str(reply.choices[0].message.content)

    return asyncio.run(gathered(ask, at_a_time, calls)())


def litellm_threads(url: str, at_a_time: int, calls: int) -> dict[str, float]:
    """``litellm.completion`` in threads, as a synchronous metric would call it."""
    from concurrent.futures import ThreadPoolExecutor

    import litellm

    litellm.suppress_debug_info = True

    def ask(number: int) -> bool:
        reply = litellm.completion(
            model=f"openai/{MODEL}", api_base=url, api_key="none", messages=messages(number), temperature=0.0
        )
        return str(reply.choices[0].message.content) == label(number)

    ask(0)
    with ThreadPoolExecutor(at_a_time) as pool:
        return timed(lambda: sum(pool.map(ask, range(calls))), calls)


CELLS = {
    "ours": ours,
    "bare aiohttp": bare_aiohttp,
    "litellm.acompletion": litellm_async,
    "litellm.completion": litellm_threads,
}


def main() -> None:
    url, cell, calls = sys.argv[1:]
    name, _, at_a_time = cell.partition("=")
    print(json.dumps(CELLS[name](url, int(at_a_time), int(calls))), flush=True)
    os._exit(0)  # a client library's own threads are not waited for


if __name__ == "__main__":
    main()
