"""Seconds of one `retrieve query`, whole process: by itself, and by a running `retrieve serve`, beside `import torchvision`.

python scripts/first_answer.py GALLERY PICTURE --rounds 9        # in turns; the median, the least and the most of each
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from retrieval.resident.ask import ask_resident


def seconds(*arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gallery", type=Path)
    parser.add_argument("picture")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    query = ("-m", "retrieval", "query", given.picture, "--index", str(given.gallery), "-q")
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
            found: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(given.rounds):
                for name, arguments in ways.items():
                    found[name].append(seconds(*arguments))
        finally:
            server.terminate()
    unit = statistics.median(found["import torchvision"])
    for name, times in found.items():
        middle = statistics.median(times)
        print(f"{name:<22} {middle:6.3f} s ({min(times):.3f} to {max(times):.3f})  {middle / unit:.3f}")


if __name__ == "__main__":
    main()
