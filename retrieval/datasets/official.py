"""The official ground truth of Revisited Oxford and Paris (``gnd_*.pkl``), turned into the project's JSON
form.

Such a file is a dict: ``imlist`` and ``qimlist`` name the pictures without their suffix, ``gnd`` has a dict a
query with the box ``bbx`` and, as positions in ``imlist`` counted from 0, ``easy``, ``hard`` and ``junk``
(Radenovic et al., Revisiting Oxford and Paris, CVPR 2018). The files of the first Oxford5k and Paris6k have
``ok`` and ``junk`` instead.
"""

from __future__ import annotations

import os
from typing import Any

from retrieval.errors import DatasetError
from retrieval.files import plain_pickle
from retrieval.pictures.imaging import is_picture_name

_ENTRIES = 50_000_000  # relevance entries; the official files have thirty thousand


def read_official(data: bytes, name: str, folder: str) -> dict[str, Any]:
    """The JSON form of a set called ``name``, from the bytes of its ``.pkl``; picture names get ``folder`` (a
    prefix such as ``jpg/``) and ``.jpg``. Raises DatasetError, naming query and field; runs nothing that the
    file names."""
    form = plain_pickle.loads(data)
    if not isinstance(form, dict) or not {"imlist", "qimlist", "gnd"} <= form.keys():
        raise DatasetError("expected a dict with 'imlist', 'qimlist' and 'gnd', as the benchmark's files have")
    gallery = [_picture(item, folder, f"imlist[{i}]") for i, item in enumerate(_values(form, "imlist"))]
    images = [_picture(item, folder, f"qimlist[{i}]") for i, item in enumerate(_values(form, "qimlist"))]
    entries = _values(form, "gnd")
    if len(entries) != len(images):
        raise DatasetError(f"gnd: {len(entries)} entries for the {len(images)} queries in qimlist")
    original = any(isinstance(entry, dict) and "ok" in entry for entry in entries)
    fields = {"easy": "ok", "junk": "junk"} if original else {"easy": "easy", "hard": "hard", "junk": "junk"}
    wheres = [f"queries[{i}] {image!r:.200}, " for i, image in enumerate(images)]
    relevant: list[dict[str, list[Any]]] = []
    for where, entry in zip(wheres, entries, strict=True):
        if not isinstance(entry, dict):
            raise DatasetError(f"{where}gnd: expected a dict")
        relevant.append({goal: _values(entry, field, where) for goal, field in fields.items()})
    if sum(len(positions) for lists in relevant for positions in lists.values()) > _ENTRIES:
        raise DatasetError("gnd: more entries than any benchmark has: refused")  # one list, referred to over and over
    queries: list[dict[str, Any]] = []
    for image, where, entry, lists in zip(images, wheres, entries, relevant, strict=True):
        box = None if entry.get("bbx") is None else _values(entry, "bbx", where)
        query: dict[str, Any] = {"image": image, "bbox": box}
        for goal, positions in lists.items():
            for n in positions:
                if type(n) is not int or not 0 <= n < len(gallery):
                    size = len(gallery)
                    raise DatasetError(f"{where}{fields[goal]}: {n!r:.80} is not a position in the gallery of {size}")
            query[goal] = [gallery[n] for n in positions]
        queries.append(query)
    return {"name": name, "gallery": gallery, "queries": queries, "original": original}


def _values(form: dict[Any, Any], field: str, where: str = "") -> list[Any]:
    found = plain_pickle.as_list(form.get(field))
    if found is None:
        raise DatasetError(f"{where}{field}: " + ("expected a list" if field in form else "missing"))
    return found


def _picture(name: Any, folder: str, where: str) -> str:
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    if not isinstance(name, str) or not name:
        raise DatasetError(f"{where}: expected the name of a picture, not {name!r:.80}")
    return folder + (name if is_picture_name(name) else name + ".jpg")
