"""The first minute, on real photos: index an album, ask it five things, write a contact sheet. ``make demo`` runs it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

PICTURES = Path("data/demo")
FOLDER = Path("demo")
INDEX = ("--index", f"{FOLDER}/.retrieval")
# A query, what it is, and how the name of the picture begins that must come first (None: nothing in the album shows it).
QUERIES = (
    ("same_thing", "a figurine, from a side that is not in the album", "figurine"),
    ("same_place", "ruins, from another place", "ruins"),
    ("in_clutter", "a shirt, small, in a picture of something else", "clothes_4"),
    ("altered_copy", "a copy, cut, smaller, darker, written on", "portal_1"),
    ("unknown", "something that is not in the album", None),
)


def retrieve(*arguments: str, show: bool = True) -> str:
    """Run a command as a user would, showing it first."""
    if show:
        print(f"\n$ retrieve {shlex.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "retrieval", *arguments]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    if show:
        print(done.stdout, end="", flush=True)
    return done.stdout


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    retrieve("index", f"{PICTURES}/album", *INDEX)
    for name, what, _ in QUERIES:
        print(f"\n# {what}")
        retrieve("query", f"{PICTURES}/queries/{name}.jpg", "-k", "3", *INDEX)

    sheet = FOLDER / "sheet.jpg"
    pictures = [f"{PICTURES}/queries/{name}.jpg" for name, _, _ in QUERIES]
    lines = retrieve("query", *pictures, "-k", "5", "--sheet", str(sheet), "--format", "json", "-q", *INDEX, show=False)
    wrong = []
    for (name, _, begins), line in zip(QUERIES, lines.splitlines(), strict=True):
        first = json.loads(line)["results"][0]
        found = first["verdict"] == "same" and Path(first["path"]).name.startswith(begins or "\0")
        if found != (begins is not None):
            wrong.append(name)
    print(f"\n{len(QUERIES) - len(wrong)} of {len(QUERIES)} answers are right. As pictures: {sheet}")
    print("\nNow your own pictures:\n  source .venv/bin/activate\n  retrieve index FOLDER\n  retrieve query PHOTO")
    if wrong:
        sys.exit(f"wrong: {', '.join(wrong)}: this should not happen")


if __name__ == "__main__":
    main()
