"""Index a folder with the fake model: ``python index_fake.py FOLDER GALLERY SECONDS_PER_PICTURE``. Tests kill it."""

import sys
from pathlib import Path

from fakes import FakeEngine, fake_gallery

from retrieval.errors import RetrievalError
from retrieval.gallery import describing

if __name__ == "__main__":
    # Small commits, so that a kill can hit any step of many of them.
    describing.COMMIT_PICTURES = 5
    engine = FakeEngine(float(sys.argv[3]))
    print("begun", flush=True)  # all is imported: what a kill hits from here on is ours
    try:
        with fake_gallery(Path(sys.argv[2]), engine) as gallery:
            report = gallery.index([sys.argv[1]], workers=2)
    except RetrievalError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    print(report.embedded)
