"""The first minute: make a small picture set, index it, ask with photos, write a contact sheet. ``make demo`` runs it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from retrieval import Gallery
from retrieval.datasets.groundtruth import GroundTruth, load_groundtruth
from retrieval.views.sheet import SheetCell, SheetRow, contact_sheet, save_sheet

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


def write_sheet(truth: GroundTruth, path: Path) -> None:
    """Every query with its box, and its answers marked by the ground truth; the same from Python."""
    rows = []
    with Gallery.open(FOLDER / ".retrieval") as gallery:
        for query in truth.queries:
            marks = dict.fromkeys((*query.easy, *query.hard), "positive") | dict.fromkeys(query.junk, "junk")
            cells = []
            for match in gallery.query(truth.root / query.image, k=8, bbox=query.bbox).matches:
                name = Path(match.path).resolve().relative_to(truth.root.resolve()).as_posix()
                mark: Any = marks.get(name, "negative")
                cells.append(SheetCell(match.path, f"{match.score:.3f}", Path(name).name, mark))
            rows.append(SheetRow(SheetCell(truth.root / query.image, "", query.image, bbox=query.bbox), cells))
    save_sheet(contact_sheet(rows, title="Synthetic streets: which pictures show the building in the box?"), path)


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
    print(
        f"\n{sum(hits)} of the first {len(hits)} show the building that was asked for ({len(right)} such pictures exist)."
    )

    sheet = FOLDER / "sheet.jpg"
    write_sheet(truth, sheet)
    print(
        f"The answers to all {len(truth.queries)} queries as pictures, right ones framed green, wrong ones red: {sheet}"
    )
    print("\nNow your own pictures:\n  source .venv/bin/activate\n  retrieve index FOLDER\n  retrieve query PHOTO")
    if not hits[0]:
        sys.exit("the first answer is wrong: this should not happen")


if __name__ == "__main__":
    main()
