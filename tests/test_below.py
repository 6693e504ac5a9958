"""What lies in a folder of a gallery, found by the order of names, against a look at every name."""

from __future__ import annotations

import os
import random

from fakes import fake_gallery


def test_a_folder_holds_what_begins_with_its_name(tmp_path):
    """Names of all kinds: with wildcards, with what sorts just before and behind a slash, and such as are not UTF-8."""
    rng = random.Random(3)
    parts = ["a", "a.", "a0", "a-", "A", "ä", "a%", "a_", "é", "e\u0301", "\U0001f600", os.fsdecode(b"caf\xe9"), "a b"]
    names = sorted({"/".join(rng.choices(parts, k=rng.randint(1, 4))) for _ in range(600)})
    gallery = fake_gallery(tmp_path / "gallery")
    with gallery.writing() as catalog, catalog.writing():
        root = catalog.add_root("/photos", "folder").id
        other = catalog.add_root("/others", "folder").id
        for place in (root, other):
            shuffled = rng.sample(names, len(names))
            catalog.add_pending(place, shuffled)
    records = list(gallery.catalog.records(root))
    folders = {name.rpartition("/")[0] for name in names} | {*names, "none", "a/", "."} - {""}
    for folder in folders:
        bare = folder.rstrip("/")
        expected = [r for r in records if r.path.startswith(bare + "/")]
        assert gallery.catalog.records_below(root, bare) == expected, folder
    assert any(gallery.catalog.records_below(root, os.fsdecode(b"caf\xe9")))
