"""Describe or merge with the fake model: ``python parts_fake.py describe SOURCE PARTS SECONDS_PER_PICTURE`` or ``python
parts_fake.py merge PARTS GALLERY``. Tests kill it."""

import sys
from pathlib import Path

from fakes import FakeEngine, fake_gallery, fake_model

from retrieval.parts.manifest import read_manifest
from retrieval.parts.merge import merge_parts
from retrieval.parts.run import describe_parts

if __name__ == "__main__":
    print("begun", flush=True)  # all is imported: what a kill hits from here on is ours
    if sys.argv[1] == "describe":
        model = fake_model(FakeEngine(float(sys.argv[4])))
        report = describe_parts(sys.argv[2], sys.argv[3], model, shard_size=5, workers=2)
        print(report.described)
    else:
        with fake_gallery(Path(sys.argv[3])) as gallery:
            print(merge_parts(gallery, read_manifest(sys.argv[2])).added)
