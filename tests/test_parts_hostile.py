"""Parts and manifests that no `describe` wrote, or that were damaged since: one line for the shard, the others are taken in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import fake_gallery, fake_model, write_pictures

from retrieval.errors import GalleryDamaged
from retrieval.gallery.description import description_checksum
from retrieval.parts.manifest import read_manifest
from retrieval.parts.merge import merge_parts
from retrieval.parts.part import read_part
from retrieval.parts.run import describe_parts, status_of

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
SOUND, SHARDS = 3, 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_pictures(folder / "photos", SOUND * SHARDS)
    describe_parts(str(folder / "photos"), folder / "parts", fake_model(), shard_size=SOUND, workers=1)
    return folder


@pytest.fixture
def parts(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "parts", tmp_path / "parts"))


def column(name: str, change: Callable[[list[Any]], list[Any]], kind: Any = None) -> Callable[[Path], None]:
    """A part in which a column is another one; pages carry their checksums."""

    def write(path: Path) -> None:
        table = pq.read_table(path)
        values = pa.array(change(table.column(name).to_pylist()), kind or table.schema.field(name).type)
        table = table.set_column(table.schema.get_field_index(name), name, values)
        pq.write_table(table, path, write_page_checksum=True)

    return write


def about(text: bytes) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pq.read_table(path).replace_schema_metadata({b"retrieval": text}), path)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[200] ^= 255
    path.write_bytes(data)


SEEN = {  # what the pages themselves show
    "flipped": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:500]),
    "empty": lambda path: path.write_bytes(b""),
    "not finite": column("vector", lambda v: [[float("nan")] * len(v[0]), *v[1:]]),
    "too long": column("vector", lambda v: [[3e38] * len(v[0]), *v[1:]]),
    "null in a vector": column("vector", lambda v: [[None, *v[0][1:]], *v[1:]]),
    "short": column("vector", lambda v: [x[:5] for x in v], pa.list_(pa.float32())),
    "words for numbers": column("vector", lambda v: ["x"] * len(v), pa.string()),
    "nothing described": column("vector", lambda v: [None] * len(v)),
    "a list about itself": about(b"[1]"),
    "deep": about(b"[" * 100_000),
}
ROWS = {  # what only the rows show
    "no hash": column("hash", lambda v: [None] * len(v)),
    "strange hash": column("hash", lambda v: ["';--", *v[1:]]),
    "no name": column("uri", lambda v: [None, *v[1:]]),
    "elsewhere": column("uri", lambda v: ["file:///etc/passwd", *v[1:]]),
    "upwards": column("uri", lambda v: [v[0].replace("/photos/", "/photos/../"), *v[1:]]),
    "no path": column("uri", lambda v: ["file://", *v[1:]]),
    "null byte": column("uri", lambda v: [v[0] + "%00", *v[1:]]),
    "no size": column("size", lambda v: [None, *v[1:]]),
    "no codes": column("codes", lambda v: [b"garbage"] * len(v)),
    "codes of no word": column("codes", lambda v: [b"\xff" * 22] * len(v)),
}


@pytest.mark.parametrize("how", [*SEEN, *ROWS])
def test_a_bad_part_is_named_and_the_others_are_taken_in(how: str, parts: Path, made: Path, tmp_path: Path) -> None:
    ({**SEEN, **ROWS}[how])(parts / "part-00000.parquet")
    manifest = read_manifest(parts)
    with pytest.raises(GalleryDamaged, match=r"part-00000.parquet is no part of these"):
        read_part(manifest, 0)
    with fake_gallery(tmp_path / "g") as gallery:
        report = merge_parts(gallery, manifest)
        assert (report.added, list(report.bad), report.missing) == (SOUND, [0], [])
        assert "\n" not in report.bad[0]
        shown = [match.path for match in gallery.search(np.eye(gallery.spec.dim, dtype=np.float32)[:1], 99)[0]]
        assert len(shown) == SOUND
    if how in ROWS:
        (parts / "part-00000.parquet").unlink()
    else:
        assert list(status_of(manifest).bad) == [0]  # before anything is taken in
    again = describe_parts(str(made / "photos"), parts, fake_model(), shard_size=SOUND, workers=1)
    assert again.described == 1
    with fake_gallery(tmp_path / "g") as gallery:
        assert merge_parts(gallery, manifest).bad == {}
        assert len(gallery) == SOUND * SHARDS


@pytest.mark.parametrize(
    "change",
    [
        {"shards": 5},
        {"shards": {"a": 1}},
        {"shards": ["abc"]},
        {"shards": [["a", 2]]},
        {"shards": [["a\0"]]},
        {"kind": "parquet", "shards": [[["t.parquet", 0]]]},
        {"kind": "strange"},
        {"source": 7},
        {"codebook": 9},
        {"format": "a"},
        {"model": 3},
    ],
)
def test_a_manifest_of_other_kinds_of_things(change: dict[str, Any], parts: Path) -> None:
    told = json.loads((parts / "manifest.json").read_text())
    told.pop("check")
    told.update(change)
    (parts / "manifest.json").write_text(json.dumps({**told, "check": description_checksum(told)}))
    with pytest.raises(GalleryDamaged, match=r"manifest.json is damaged"):
        read_manifest(parts)


def test_a_manifest_of_brackets(parts: Path) -> None:
    (parts / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(GalleryDamaged, match=r"manifest.json is damaged"):
        read_manifest(parts)
