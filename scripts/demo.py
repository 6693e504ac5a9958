"""The first minute: make a small picture set, index it, ask with photos, write a contact sheet. ``make demo`` runs it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

from retrieval.datasets.groundtruth import load_groundtruth

FOLDER = Path("demo")


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
    index = ("--index", f"{FOLDER}/.retrieval")
    retrieve("datasets", "make-synthetic", f"{FOLDER}/set", "--objects", "12", "--train-objects", "0")
    retrieve("index", f"{FOLDER}/set/gallery", "--size", "320", *index)

    truth = load_groundtruth(FOLDER / "set" / "groundtruth.json")
    query = truth.queries[0]
    box = ",".join(f"{v:g}" for v in query.bbox or ())
    picture = f"{FOLDER}/set/{query.image}"
    retrieve("query", picture, "--bbox", box, "-k", "8", *index)
    right = {str(Path(p).name) for p in (*query.easy, *query.hard)}
    answer = json.loads(retrieve("query", picture, "--bbox", box, "-k", "8", "--format", "json", *index, show=False))
    hits = [Path(r["path"]).name in right for r in answer["results"]]
    print(f"\n{sum(hits)} of the first {len(hits)} show the building that was asked for ({len(right)} such pictures exist).")

    sheet = f"{FOLDER}/sheet.jpg"
    retrieve("query", f"{FOLDER}/set/queries", "-k", "8", "--sheet", sheet, "--format", "json", *index, show=False)
    print(f"The answers to all {len(truth.queries)} queries, as pictures: {sheet}")
    print("\nNow your own pictures:\n  source .venv/bin/activate\n  retrieve index FOLDER\n  retrieve query PHOTO")
    if not hits[0]:
        sys.exit("the first answer is wrong: this should not happen")


if __name__ == "__main__":
    main()
