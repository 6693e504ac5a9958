"""Mixed requests from many clients to ``retrieve serve``, and what they cost: errors, time beside the engine's own, memory.

retrieve serve --index GALLERY --port 8000 &
python scripts/web_load.py http://127.0.0.1:8000 PHOTO... --requests 5000 --clients 16 --pid $!
python scripts/web_load.py http://127.0.0.1:8000 PHOTO... --minutes 60 --rate 8 --pid $! --plot soak.png
"""

from __future__ import annotations

import argparse
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx

from retrieval import Gallery


def memory(pid: int | None) -> float:
    """MB that a process holds (Linux)."""
    if pid is None:
        return 0.0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1000
    return 0.0


def timed(task: Callable[[], object]) -> float:
    begun = time.perf_counter()
    task()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--minutes", type=float, help="ask for so long instead of so often")
    parser.add_argument(
        "--rate", type=float, help="requests a second at most, of all clients (default: as fast as they can)"
    )
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--plot", help="a picture of the server's memory over time (needs matplotlib)")
    parser.add_argument("--pid", type=int, help="of the server, whose memory is looked at")
    parser.add_argument("--index", help="its gallery: the same questions are asked in this process too, in turns")
    given = parser.parse_args()
    photos = [path.read_bytes() for path in given.photos]
    with httpx.Client(base_url=given.address, timeout=120) as one:
        ids = [p["id"] for p in one.get("/api/images", params={"limit": 500}).json()["pictures"]]
        gallery = Gallery.open(given.index) if given.index else None
        idle, own = [], []
        for n in range(35):
            photo = photos[n % len(photos)]
            idle.append(timed(lambda photo=photo: one.post("/api/search", content=photo).raise_for_status()))
            if gallery is not None:
                own.append(timed(lambda photo=photo: gallery.query(photo, 20)))
        print(f"one client: a search takes {1000 * statistics.median(idle[5:]):.1f} ms (median of 30)")
        if own:
            print(f"in this process, in turns with it: {1000 * statistics.median(own[5:]):.1f} ms")
    statuses: Counter[tuple[str, int]] = Counter()
    seconds: dict[str, list[float]] = {}
    left, held = given.requests, []
    turn = threading.Lock()
    end = time.monotonic() + 60 * given.minutes if given.minutes else None
    over = threading.Event()

    def watch() -> None:
        pause = 60 * given.minutes / 240 if given.minutes else 1.0
        while not over.is_set():
            held.append((time.monotonic() - started, memory(given.pid)))
            over.wait(pause)

    def client(seed: int) -> None:
        nonlocal left
        rng = random.Random(seed)
        with httpx.Client(base_url=given.address, timeout=120) as http:
            while True:
                with turn:
                    if left <= 0 if end is None else time.monotonic() > end:
                        return
                    left -= 1
                if given.rate:
                    time.sleep(rng.expovariate(given.rate / given.clients))
                kind = rng.choices(("upload", "id", "thumbnail", "stats", "heatmap"), (20, 15, 50, 10, 5))[0]
                begun = time.perf_counter()
                if kind == "upload":
                    status = http.post("/api/search", content=rng.choice(photos)).status_code
                elif kind == "id":
                    status = http.get("/api/search", params={"id": rng.choice(ids)}).status_code
                elif kind == "thumbnail":
                    status = http.get(f"/api/thumbnails/{rng.choice(ids)}").status_code
                elif kind == "stats":
                    status = http.get("/api/stats").status_code
                else:
                    pair = {"id": rng.choice(ids), "query": rng.choice(ids)}
                    status = http.get("/api/heatmap", params=pair).status_code
                with turn:
                    statuses[kind, status] += 1
                    seconds.setdefault(kind, []).append(time.perf_counter() - begun)

    started = time.monotonic()
    watcher = threading.Thread(target=watch)
    watcher.start()
    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(given.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - started
    over.set()
    watcher.join()
    print(f"{given.requests - left} requests of {given.clients} clients in {took:.1f} s")
    for kind in sorted(seconds):
        told = {status: n for (k, status), n in sorted(statuses.items()) if k == kind}
        print(f"{kind:10} median {1000 * statistics.median(seconds[kind]):7.1f} ms, answers {told}")
    if given.pid:
        shown = held[:: max(1, len(held) // 20)]
        print("memory in MB, at every twentieth:", " ".join(f"{megabytes:.0f}" for _, megabytes in shown))
    if given.plot:
        plot(held, given.plot)


def plot(held: list[tuple[float, float]], path: str) -> None:
    """Memory in MB over minutes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([seconds / 60 for seconds, _ in held], [megabytes for _, megabytes in held], linewidth=1)
    axes.set(xlabel="minutes", ylabel="MB of the server", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
