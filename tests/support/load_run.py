"""Deliveries to a receiver for a minute: how long each answer takes, and how much memory it needs.

``python -m tests.support.load_run [--seconds 60] [--rate 1000]`` starts ``gmi webhook serve`` as a
process of its own and sends ``rate`` deliveries a minute, in even steps. Of a hundred, 5 have a
wrong secret, 4 are for another branch, 1 has a body of 10 MB; 50 slow clients hang on meanwhile.
Another thread takes models from the queue all the time, as a worker does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import httpx2

from gmi_registry.regeneration.store import DeliveryQueue
from tests.support.delivery import SECRET, body

_START = "import sys; from gmi_registry.cli.main import main; sys.exit(main())"
_MODELS = 300
_SLOW = 50
_WRONG = SECRET[::-1]
_LONG = b" " * (10 * 1024 * 1024)


@dataclass(frozen=True)
class Load:
    """``seconds`` (sorted) are of the answers to deliveries with the secret; ``answers`` counts
    (kind, status), where 0 is a connection that was cut; ``before`` and ``peak`` are bytes.
    """

    seconds: tuple[float, ...]
    answers: Counter[tuple[str, int]]
    before: int
    peak: int
    looked: int

    def quantile(self, share: float) -> float:
        return self.seconds[min(len(self.seconds) - 1, int(share * len(self.seconds)))]

    def table(self) -> str:
        lines = [
            f"deliveries with the secret | {len(self.seconds):,}",
            *(f"{kind}, {status} | {n:,}" for (kind, status), n in sorted(self.answers.items())),
            *(f"p{share * 100:g} | {self.quantile(share) * 1e3:.1f} ms" for share in (0.5, 0.99)),
            f"longest | {self.seconds[-1] * 1e3:.1f} ms",
            f"memory before, at most | {self.before / 1e6:.1f}, {self.peak / 1e6:.1f} MB",
            f"looks of the worker | {self.looked:,}",
        ]
        return "\n".join(f"| {line} |" for line in lines)


def run(seconds: float, rate: float, *, seed: int = 0) -> Load:
    """``rate`` is deliveries a minute."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "queue"
        with started(folder) as (process, url):
            queue = DeliveryQueue(folder, patience=30)
            stop, looked = threading.Event(), Counter[str]()
            worker = threading.Thread(target=_work, args=(queue, stop, looked))
            worker.start()
            try:
                before = _memory(process.pid, "VmRSS")
                found, answers = asyncio.run(_send(url, seconds, rate, random.Random(seed)))
                peak = _memory(process.pid, "VmHWM")
            finally:
                stop.set()
                worker.join()
                queue.close()
    return Load(tuple(sorted(found)), answers, before, peak, looked.total())


@contextlib.contextmanager
def started(folder: Path):
    """``gmi webhook serve`` as a process, and its address."""
    command = [sys.executable, "-c", _START, "webhook", "serve", "--port", "0", "--no-worker"]
    environment = os.environ | {"GMI_WEBHOOK_SECRET": SECRET}
    process = subprocess.Popen(
        [*command, "--queue", str(folder)], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        line = process.stderr.readline()
        assert line.startswith("listening at "), line
        yield process, line.split()[2].rstrip(";")
    finally:
        process.terminate()
        process.communicate(timeout=60)


async def _send(url: str, seconds: float, rate: float, rng: random.Random):
    found: list[float] = []
    answers: Counter[tuple[str, int]] = Counter()
    address = httpx2.URL(url)
    slow = [asyncio.create_task(_hang(address.host, address.port)) for _ in range(_SLOW)]
    limits = httpx2.Limits(max_connections=100)
    async with httpx2.AsyncClient(timeout=30, limits=limits) as client:

        async def one(number: int) -> None:
            kind, content, secret = _delivery(number, rng)
            begun = time.perf_counter()
            status = 0
            with contextlib.suppress(httpx2.TransportError):
                reply = await client.post(
                    url, content=content, headers={"X-Webhook-Secret": secret}
                )
                status = reply.status_code
            if kind in ("change", "other branch"):
                found.append(time.perf_counter() - begun)
            answers[kind, status] += 1

        start = time.perf_counter()
        tasks = []
        for number in range(round(seconds * rate / 60)):
            await asyncio.sleep(max(0.0, start + number * 60 / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(one(number)))
        await asyncio.gather(*tasks)
    for task in slow:
        task.cancel()
    return found, answers


def _delivery(number: int, rng: random.Random) -> tuple[str, bytes, str]:
    model = f"ada/style-{rng.randrange(_MODELS)}"
    commit = f"{rng.randrange(1, 2000):040x}"
    place = number % 100
    if place < 5:
        return "wrong secret", body(model, commit), _WRONG
    if place < 9:
        return "other branch", body(model, commit, ref="refs/pr/1"), SECRET
    if place < 10:
        return "10 MB", _LONG, SECRET
    return "change", body(model, commit), SECRET


async def _hang(host: str, port: int) -> None:
    """Send a request a byte at a time, again and again."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            try:
                for byte in f"POST /webhook HTTP/1.1\r\nX-Webhook-Secret: {SECRET}\r\n".encode():
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(1)
            finally:
                writer.close()


def _work(queue: DeliveryQueue, stop: threading.Event, looked: Counter[str]) -> None:
    while not stop.is_set():
        taken = queue.take()
        if taken is None:
            stop.wait(0.05)
            continue
        stop.wait(0.02)
        looked[taken.repo] += 1
        queue.finish(taken, f"{looked.total():040x}")


def _memory(pid: int, field: str) -> int:
    """Bytes, of what Linux says in /proc."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(field)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=1000)
    asked = parser.parse_args()
    print(run(asked.seconds, asked.rate).table())


if __name__ == "__main__":
    main()
