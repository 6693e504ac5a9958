"""Pictures with class labels: folders that hold one class each, and lists of ``path,label`` lines.

Both give ``(path, label)`` pairs in a fixed order, the path relative to a root, the label a string or None
for a picture of no class (a distractor).
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path

from retrieval.errors import DatasetError
from retrieval.pictures.unnamed import is_picture_file

_PATH_HEADINGS = {"path", "image", "img", "file", "filename", "file_name", "filepath", "image_path"}
_LABEL_HEADINGS = {"label", "class", "class_id", "class_name", "category", "target"}

Labelled = list[tuple[str, str | None]]


def read_folders(root: Path) -> Labelled:
    """Every picture below ``root``, sorted by path; its class is the folder that holds it, as a path from
    ``root``.

    Classes may be nested (``Fruit/Apple/Gala``). Pictures that lie directly in ``root`` have no class. Names
    that begin with a dot are passed over; linked folders are followed, each real folder once.
    """
    found: Labelled = []
    for folder, names in _walk(root):
        label, whole = folder.replace(os.sep, "/") or None, os.path.join(root, folder)
        for name in names:
            if is_picture_file(whole, name):
                found.append((f"{label}/{name}" if label else name, label))
    if not found:
        raise DatasetError(
            f"{root}: no pictures in this folder or below it", "Give a folder with one sub-folder a class"
        )
    if all(label is None for _, label in found):
        raise DatasetError(f"{root}: the pictures have no classes", "Put the pictures of each class in a sub-folder")
    return sorted(found)


def _walk(root: Path) -> Iterator[tuple[str, list[str]]]:
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_raise):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(folder, root)
        yield "" if inside == os.curdir else inside, [name for name in names if not name.startswith(".")]


def _raise(error: OSError) -> None:
    raise DatasetError(f"{error.filename}: cannot be listed ({error.strerror})") from error


def read_list(file: Path) -> Labelled:
    """The lines ``path,label`` of a text file (UTF-8, comma-separated, quotes as in CSV), in the file's
    order.

    A first line of known headings (such as ``path,label``) is a header and says which columns hold the two;
    without one they are the first and second column. Further columns are passed over, as are empty lines. An
    empty label means no class.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error.strerror})") from error
    path_column, label_column, found = 0, 1, Labelled()
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        for number, row in enumerate(reader):
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            headings = [cell.lower() for cell in cells]
            if number == 0 and _PATH_HEADINGS.intersection(headings) and _LABEL_HEADINGS.intersection(headings):
                path_column = next(i for i, cell in enumerate(headings) if cell in _PATH_HEADINGS)
                label_column = next(i for i, cell in enumerate(headings) if cell in _LABEL_HEADINGS)
                continue
            if len(cells) <= max(path_column, label_column) or not cells[path_column]:
                raise DatasetError(
                    f"{file}, line {reader.line_num}: expected 'path,label', found {','.join(row)[:80]!r}"
                )
            found.append((cells[path_column], cells[label_column] or None))
    except csv.Error as error:
        raise DatasetError(f"{file}, line {reader.line_num}: {error}") from error
    if not found:
        raise DatasetError(f"{file}: no 'path,label' lines in it")
    return found
