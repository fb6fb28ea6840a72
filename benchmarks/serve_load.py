"""Many streaming clients, some of which disconnect, for a long time: what fails, and what is left behind.

    python benchmarks/serve_load.py --seconds 300 --clients 256

Serves examples/tinydoc (or `--model`) in this process; the clients are another one. Each sends a request after the other,
chats and completions of random lengths, and leaves one in ten at a random moment. Afterwards no page, request, or task may be left,
and memory may not have grown. Then, with a server in a process of its own, SIGTERM while streams are open: all of them must end
whole, and the process with them.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import report
from served import Served, resident_bytes

from heddle import AsyncLLM
from heddle.bench.prompts import WORDS

GROWTH = 32e6
"""Bytes by which memory may move: allocators do not give all back at once."""
LEAVE = 0.1
LONG = 150
"""Tokens of the answers that SIGTERM comes into."""
TINYDOC = Path(__file__).parents[1] / "examples" / "tinydoc"


@dataclasses.dataclass
class Found:
    """What came of a load. ends: requests by how they ended. memory: own bytes of the server's process, every second or so.
    tasks: of the event loop, before and after; open, used: requests and pages that were left."""

    ends: dict[str, int]
    memory: list[int]
    tasks: tuple[int, int]
    open: int
    used: int
    tokens: int

    @property
    def fifths(self) -> list[float]:
        """Bytes in the median of each fifth of the time."""
        size = max(1, len(self.memory) // 5)
        return [statistics.median(self.memory[i * size : (i + 1) * size]) for i in range(5)]

    @property
    def growth(self) -> float:
        """Bytes from the second fifth of the time, when caches are filled, to the last."""
        return self.fifths[-1] - self.fifths[1]

    @property
    def problems(self) -> list[str]:
        """What must not be; of memory see `growth`."""
        known = {"done", "left"}
        found = [f"{count} requests ended so: {end}" for end, count in self.ends.items() if end not in known]
        if not known <= set(self.ends):
            found.append(f"only these ends came up: {self.ends}")
        if self.tasks[1] > self.tasks[0]:
            found.append(f"{self.tasks[0]} tasks became {self.tasks[1]}")
        if self.open or self.used:
            found.append(f"{self.open} requests and {self.used} pages are left")
        return found


def load(model: AsyncLLM, seconds: float, clients: int, seed: int = 0) -> Found:
    """Serve a model to clients that come and go."""
    with Served(model) as served:
        one_client(served.url, 3)  # what is made at the first request is no leak
        before, memory = settled(served, model, 0), []
        process = start_clients(served.url, seconds, clients, seed)
        try:
            while process.poll() is None:
                memory.append(resident_bytes())
                time.sleep(min(1.0, seconds / 50))
        finally:
            process.kill()
        output, _ = process.communicate()
        after = settled(served, model, before)
        model._engine.check_integrity()
    metrics = model.metrics
    left = metrics.running + metrics.waiting + len(model._thread._streams)
    return Found(
        json.loads(output), memory, (before, after), left, metrics.num_pages - metrics.free_pages, metrics.decode_tokens
    )


def settled(served: Served, model: AsyncLLM, wanted: int) -> int:
    """Tasks of the server once it is idle and has `wanted` at most, or after ten seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        metrics, tasks = model.metrics, served.tasks
        if not (metrics.running or metrics.waiting) and (tasks <= wanted or not wanted):
            break
        time.sleep(0.05)
    time.sleep(0.2)
    return served.tasks


def start_clients(url: str, seconds: float, clients: int, seed: int) -> subprocess.Popen[str]:
    """The clients' process, which prints how requests ended."""
    command = [sys.executable, __file__, "--client", url, "--seconds", str(seconds), "--clients", str(clients)]
    return subprocess.Popen([*command, "--seed", str(seed)], stdout=subprocess.PIPE, text=True)


def one_client(url: str, requests: int) -> None:
    """A few requests, one after the other."""

    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            for i in range(requests):
                await request(session, url, random.Random(i), may_leave=False)

    asyncio.run(run())


async def run_clients(url: str, seconds: float, clients: int, seed: int) -> Counter[str]:
    """How all requests ended."""
    until, ends = time.monotonic() + seconds, Counter[str]()

    async def client(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        await asyncio.sleep(rng.random())
        while time.monotonic() < until:
            ends[await request(session, url, rng)] += 1

    limits = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(connector=limits[0], timeout=limits[1]) as session:
        await asyncio.gather(*(client(i) for i in range(clients)))
    return ends


async def request(
    session: aiohttp.ClientSession,
    url: str,
    rng: random.Random,
    may_leave: bool = True,
    count: int | None = None,
    begun: asyncio.Event | None = None,
) -> str:
    """Stream one answer (of `count` tokens); "done", "left", or what went wrong. `begun` is set at its first part."""
    words, count = " ".join(rng.choices(WORDS, k=rng.randint(3, 50))), count or rng.randint(4, 64)
    body: dict[str, Any] = {"model": "bench", "stream": True, "max_tokens": count, "ignore_eos": True}
    body |= {"temperature": rng.choice([0.0, 0.8]), "stream_options": {"include_usage": True}}
    chat = rng.random() < 0.5
    body |= {"messages": [{"role": "user", "content": words}]} if chat else {"prompt": words}
    leave = rng.randint(0, count) if may_leave and rng.random() < LEAVE else None
    chunks, usage = 0, None
    try:
        path = "/v1/chat/completions" if chat else "/v1/completions"
        async with session.post(url + path, json=body) as response:
            if response.status != 200:
                return f"{response.status} {(await response.text())[:200]}"
            async for line in response.content:
                if leave is not None and chunks >= leave:
                    response.close()
                    return "left"
                if not line.startswith(b"data: "):
                    continue
                if line.strip() == b"data: [DONE]":
                    return "done" if usage == count else f"{usage} tokens of {count}"
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    return f"error: {chunk['error']}"
                chunks += 1
                if begun:
                    begun.set()
                usage = (chunk.get("usage") or {}).get("completion_tokens")
            return "cut"
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"


@dataclasses.dataclass
class Drained:
    """What SIGTERM did: how many requests were open, how they ended, the exit code, seconds from the signal to the end of the
    process, and the answer to a request that came after it."""

    open: int
    ends: dict[str, int]
    code: int
    seconds: float
    late: str


def drain(model: Path, streams: int, *options: str) -> Drained:
    """SIGTERM to `heddle serve` while streams are open."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "heddle.cli",
        "serve",
        str(model),
        "--port",
        str(port),
        "--served-model-name",
        "bench",
    ]
    process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
    try:
        return asyncio.run(_drain(process, f"http://127.0.0.1:{port}", streams))
    finally:
        process.kill()
        process.wait()


async def _drain(process: subprocess.Popen[bytes], url: str, streams: int) -> Drained:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        end = time.monotonic() + 120
        while not await healthy(session, url):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"heddle serve did not start (exit code {process.poll()})")
            await asyncio.sleep(0.1)
        rng = random.Random(0)
        begun = [asyncio.Event() for _ in range(streams)]
        tasks = [
            asyncio.create_task(request(session, url, rng, may_leave=False, count=LONG, begun=event)) for event in begun
        ]
        await asyncio.gather(*(event.wait() for event in begun))
        process.send_signal(signal.SIGTERM)
        begin, left = time.monotonic(), sum(not task.done() for task in tasks)
        await asyncio.sleep(0.05)
        late = await request(session, url, rng, may_leave=False)
        ends = Counter(await asyncio.gather(*tasks))
        code = await asyncio.to_thread(process.wait, 60)
        return Drained(left, dict(ends), code, time.monotonic() - begin, late)


async def healthy(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether the server answers yet."""
    try:
        async with session.get(f"{url}/health") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


def main() -> None:
    """Print what was found; exits with 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=TINYDOC)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--client", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        ends = asyncio.run(run_clients(options.client, options.seconds, options.clients, options.seed))
        print(json.dumps(ends))
        return
    print("\n".join(f"{key}: {value}" for key, value in report.describe().items()))
    with AsyncLLM(options.model, threads=options.threads) as model:
        found = load(model, options.seconds, options.clients, options.seed)
    print(
        f"{options.clients} clients, {options.seconds:g} s: {found.ends}, {found.tokens / options.seconds:.0f} tokens/s"
    )
    print(f"memory {found.memory[0] / 1e6:.0f} MB, by fifths of the time {[round(x / 1e6, 1) for x in found.fifths]}")
    print(f"tasks before and after: {found.tasks}")
    drained = drain(options.model, 64)
    print(f"SIGTERM with 64 streams: {drained}")
    problems = found.problems
    if found.growth > GROWTH:
        problems.append(f"memory grew by {found.growth / 1e6:.0f} MB")
    if drained.ends != {"done": 64} or drained.code:
        problems.append(f"not drained: {drained}")
    print("\n".join(problems) or "all well")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
