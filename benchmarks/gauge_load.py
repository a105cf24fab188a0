"""What many open pages cost the app: `python -m benchmarks.gauge_load [--pages 20] [--seconds 30]`.

The app runs on a replayed driver with eight graphics cards. Each page is a connection of its own that asks for the
state once a second, as the script of the page does, and remembers the list of videos it has. What counts is the
processor time of the app's process, in percent of one core, so that other work on the machine disturbs
little. The difference between both measurements is what the pages cost; most of the rest is Gradio's queue.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
PORT = 17_861
START_S = 60.0
PERIOD_S = 1.0


def main() -> None:
    """Measure without a page and with all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--output", type=Path, help="also write the result to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as data_dir:
        command = [sys.executable, "-m", "tests.fakes.serve_page", str(PORT), data_dir, "eight_gpus"]
        app = subprocess.Popen(command, cwd=ROOT)
        try:
            url = f"http://127.0.0.1:{PORT}"
            wait_for(url)
            process = psutil.Process(app.pid)
            alone = asyncio.run(measure(process, url, 0, options.seconds))
            watched = asyncio.run(measure(process, url, options.pages, options.seconds))
        finally:
            app.terminate()
            app.wait(20)
    result = {
        "what": "processor time of the app's process, percent of one core; engine idle, 8 replayed cards",
        "pages": options.pages,
        "seconds": options.seconds,
        "without_pages": alone,
        "with_pages": watched,
        "percent_for_all_pages": round(watched["percent"] - alone["percent"], 2),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "processor": processor_name(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


async def measure(process: psutil.Process, url: str, num_pages: int, seconds: float) -> dict[str, float]:
    """Return the processor time spent while `num_pages` ask, and how many answers there were of which size."""
    deadline = time.monotonic() + seconds
    before, started = process.cpu_times(), time.monotonic()
    pages = [
        asyncio.create_task(page(url, deadline, number / max(1, num_pages))) for number in range(num_pages)
    ]
    sizes = [size for page_sizes in await asyncio.gather(*pages) for size in page_sizes]
    await asyncio.sleep(max(0.0, deadline - time.monotonic()))
    after, wall_s = process.cpu_times(), time.monotonic() - started
    spent = after.user - before.user + after.system - before.system
    return {
        "percent": round(100 * spent / wall_s, 2),
        "answers": len(sizes),
        "bytes_per_answer": round(sum(sizes) / len(sizes)) if sizes else 0,
    }


async def page(url: str, deadline: float, delay_s: float) -> list[int]:
    """Ask once a second until the deadline; return the sizes of the answers."""
    await asyncio.sleep(delay_s * PERIOD_S)
    sizes, seen = [], ""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        while (began := time.monotonic()) < deadline:
            answer = (await client.get("/api/state", params={"seen": seen})).raise_for_status()
            sizes.append(len(answer.content))
            seen = answer.json()["jobs_tag"]
            await asyncio.sleep(max(0.0, PERIOD_S - (time.monotonic() - began)))
    return sizes


def wait_for(url: str) -> None:
    """Wait until the app answers and its engine is ready."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            if httpx.get(url + "/healthz", timeout=5).json()["engine"] == "ready":
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, f"the app did not serve within {START_S:.0f} s"
        time.sleep(0.2)


def processor_name() -> str:
    """Return the processor's name as Linux tells it, empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
