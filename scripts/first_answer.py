"""Seconds of one `retrieve query`, whole process: by itself, and by a running `retrieve serve`, beside `import torchvision`.

python scripts/first_answer.py GALLERY PICTURE --rounds 9        # in turns; the median, the least and the most of each

Also seconds of processor time, which others at work on the machine change less; what the server takes is not among them.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from retrieval.resident.ask import ask_resident


def seconds(*arguments: str) -> tuple[float, float]:
    """On the clock, and of processor time."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gallery", type=Path)
    parser.add_argument("picture")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    query = ("-m", "retrieval", "query", given.picture, "--index", str(given.gallery))
    ways = {
        "import torchvision": ("-c", "import torchvision"),
        "query, by itself": (*query, "--no-server"),
        "query, by the server": query,
        "retrieve --help": ("-m", "retrieval", "--help"),
    }
    serve = [sys.executable, "-m", "retrieval", "serve", "--index", str(given.gallery), "--port", "0", "-q"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()  # its address: it answers now
            if (resident := ask_resident(given.gallery)) is None:
                sys.exit("the server does not answer for this gallery")
            with resident:
                list(resident.answers([given.picture]))
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
            for _ in range(given.rounds):
                for name, arguments in ways.items():
                    found[name].append(seconds(*arguments))
        finally:
            server.terminate()
    for which, unit in enumerate(("on the clock", "of processor time")):
        print(f"seconds {unit}, and of the first")
        first = statistics.median(times[which] for times in found["import torchvision"])
        for name, both in found.items():
            times = [pair[which] for pair in both]
            middle = statistics.median(times)
            print(f"{name:<22} {middle:6.3f} s ({min(times):.3f} to {max(times):.3f})  {middle / first:.3f}")


if __name__ == "__main__":
    main()
