"""The published retrieval sets as data: where their files lie, what they unpack to, and on what terms. Knows no network.

On disk a set is the folder ``DIR/NAME``: its pictures in ``jpg/`` (``ims/`` for the training sets) and its lists beside
them. The addresses are those of the sets' own authors. None of them publishes hashes, so ``sha256`` is None throughout:
what the first download brought is written down and later compared (:mod:`retrieval.datasets.published.acquire`), and the lists
are checked for what they must hold.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from posixpath import basename

from retrieval.errors import UsageError
from retrieval.pictures.imaging import is_picture_name

MIRROR = "RETRIEVE_DATASETS_URL"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings/"
_PARIS = "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings/"
_REVISITED = "http://cmp.felk.cvut.cz/revisitop/data/datasets/"
_DISTRACTORS = "http://ptak.felk.cvut.cz/revisitop/revisitop1m/"
_CIR = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/"


@dataclass(frozen=True)
class RemoteFile:
    """One published file: a list that stays as it is, or an archive of pictures.

    ``bytes`` and ``sha256`` are enforced where known; ``megabytes`` is a rough figure for people, None if unknown.
    """

    url: str
    archive: bool = False
    megabytes: float | None = None
    bytes: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The file's name, which no other file of any set has."""
        return basename(self.url)

    def address(self) -> str:
        """Where to fetch it: below ``RETRIEVE_DATASETS_URL`` where that is set (all files in one folder), else at the
        authors' own address."""
        mirror = os.environ.get(MIRROR)
        return f"{mirror.rstrip('/')}/{self.name}" if mirror else self.url


@dataclass(frozen=True)
class PublishedSet:
    """A set as data.

    ``folder``: of the pictures. ``flat``: whether all pictures lie directly in it, whatever folders the archive has.
    ``listing``: the list that names every picture. ``gallery`` and ``queries``: how many there must be (None: not
    enforced). ``terms``: on what conditions it may be used, in short.
    """

    name: str
    title: str
    files: tuple[RemoteFile, ...]
    terms: str
    listing: str
    folder: str = "jpg"
    flat: bool = True
    gallery: int | None = None
    queries: int | None = None

    @property
    def lists(self) -> tuple[RemoteFile, ...]:
        return tuple(file for file in self.files if not file.archive)

    @property
    def archives(self) -> tuple[RemoteFile, ...]:
        return tuple(file for file in self.files if file.archive)

    @property
    def megabytes(self) -> float | None:
        """Rough size of the download, None where that of an archive is unknown (lists hardly count)."""
        if any(file.megabytes is None for file in self.archives):
            return None
        return sum(file.megabytes or 0 for file in self.files)

    @property
    def layout(self) -> str:
        """What lies on disk in the end, relative to the folder that holds the sets."""
        pictures = f"{self.folder}/*.jpg" if self.flat else f"{self.folder}/**"
        return ", ".join(f"{self.name}/{part}" for part in (pictures, *(file.name for file in self.lists)))

    def place(self) -> Callable[[str], str | None]:
        """From a path inside an archive to the path below ``folder``, None for what is no picture of the set."""
        if self.flat:
            return lambda path: basename(path) if is_picture_name(path) else None
        return lambda path: path  # the training pictures have names without a suffix


_FLICKR = (
    "photos from Flickr, to be used under Flickr's terms and the University of Oxford's terms of access; "
    "faces are blurred since 2022"
)
_UNSTATED = "no licence stated by the authors; photos from the web, under their owners' terms: research use"
_OXFORD_PICTURES = (RemoteFile(_OXFORD + "oxbuild_images-v1.tgz", archive=True, megabytes=1938),)
_PARIS_PICTURES = tuple(RemoteFile(f"{_PARIS}paris_{i}-v1.tgz", archive=True) for i in (1, 2))
_SFM_PICTURES = (RemoteFile(_CIR + "train/ims/ims.tar.gz", archive=True, megabytes=37_700),)

SETS: dict[str, PublishedSet] = {
    item.name: item
    for item in (
        PublishedSet(
            "roxford5k",
            "Revisited Oxford (Radenovic et al., CVPR 2018): 70 queries, easy/medium/hard",
            (RemoteFile(_REVISITED + "roxford5k/gnd_roxford5k.pkl", megabytes=0.15), *_OXFORD_PICTURES),
            _FLICKR,
            "gnd_roxford5k.pkl",
            gallery=4993,
            queries=70,
        ),
        PublishedSet(
            "rparis6k",
            "Revisited Paris (Radenovic et al., CVPR 2018): 70 queries, easy/medium/hard",
            (RemoteFile(_REVISITED + "rparis6k/gnd_rparis6k.pkl", megabytes=0.28), *_PARIS_PICTURES),
            _FLICKR,
            "gnd_rparis6k.pkl",
            gallery=6322,
            queries=70,
        ),
        PublishedSet(
            "oxford5k",
            "Oxford Buildings (Philbin et al., CVPR 2007), the original protocol: 55 queries within the gallery",
            (RemoteFile(_CIR + "test/oxford5k/gnd_oxford5k.pkl"), *_OXFORD_PICTURES),
            _FLICKR,
            "gnd_oxford5k.pkl",
        ),
        PublishedSet(
            "paris6k",
            "Paris (Philbin et al., CVPR 2008), the original protocol: 55 queries within the gallery",
            (RemoteFile(_CIR + "test/paris6k/gnd_paris6k.pkl"), *_PARIS_PICTURES),
            _FLICKR,
            "gnd_paris6k.pkl",
        ),
        PublishedSet(
            "revisitop1m",
            "a million distractors for Revisited Oxford and Paris (Radenovic et al., CVPR 2018)",
            (
                RemoteFile(_DISTRACTORS + "revisitop1m.txt"),
                *(RemoteFile(f"{_DISTRACTORS}jpg/revisitop1m.{i}.tar.gz", archive=True) for i in range(1, 101)),
            ),
            _UNSTATED,
            "revisitop1m.txt",
            flat=False,
        ),
        PublishedSet(
            "retrieval-SfM-120k",
            "training set (Radenovic et al., TPAMI 2018): pictures, training and validation pairs, whitening pairs",
            (
                RemoteFile(_CIR + "train/dbs/retrieval-SfM-120k.pkl"),
                RemoteFile(_CIR + "train/dbs/retrieval-SfM-120k-whiten.pkl"),
                *_SFM_PICTURES,
            ),
            _UNSTATED,
            "retrieval-SfM-120k.pkl",
            folder="ims",
            flat=False,
        ),
        PublishedSet(
            "retrieval-SfM-30k",
            "whitening pairs of the smaller training set (Radenovic et al., ECCV 2016), with the same pictures",
            (RemoteFile(_CIR + "train/dbs/retrieval-SfM-30k-whiten.pkl"), *_SFM_PICTURES),
            _UNSTATED,
            "retrieval-SfM-30k-whiten.pkl",
            folder="ims",
            flat=False,
        ),
    )
}


def published_set(name: str) -> PublishedSet:
    """The set called ``name``. Raises UsageError that lists what exists."""
    try:
        return SETS[name]
    except KeyError:
        raise UsageError(f"no published set is called {name!r}", f"There are: {', '.join(SETS)}.") from None
