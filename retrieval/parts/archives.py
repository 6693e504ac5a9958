"""Pictures in tar archives, such as WebDataset's shards, read from beginning to end; nothing is unpacked to the disk."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from urllib.parse import quote

from retrieval.errors import ImageError
from retrieval.parts.items import Item, broken, in_memory
from retrieval.parts.places import is_remote, local_uri, open_binary
from retrieval.pictures.imaging import is_picture_name
from retrieval.pictures.limits import Limits

_DAMAGE = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)
_CUT_SHORT = "the archive ends early here; what may follow is lost"


def pictures_in_tar(place: str) -> Iterator[Item]:
    """Every member with a picture's name. Where the archive is damaged, an error in its place ends it. Raises OSError and what
    its file system raises: a store that fails is no damage."""
    base = place if is_remote(place) else local_uri(place)
    most = Limits.from_environment().file_bytes
    with open_binary(place) as file:
        try:
            archive = tarfile.open(fileobj=file, mode="r:*")  # noqa: SIM115  # closed with what it reads from
        except _DAMAGE:
            yield broken(place, f"{base}#", ImageError("no tar archive that can be read"))
            return
        name, inside = "", False
        try:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else it remembers every one
                name = member.name
                if not member.isfile() or not is_picture_name(name) or name.rpartition("/")[2].startswith("."):
                    continue
                key, uri = f"{place}/{name}", f"{base}#{quote(name, errors='surrogateescape')}"
                if member.size > most:
                    yield broken(key, uri, ImageError(f"{member.size / 1e9:.1f} GB are more than a picture needs"))
                    continue
                inside = True
                stream = archive.extractfile(member)
                data = stream.read() if stream is not None else b""
                if len(data) < member.size:
                    raise tarfile.ReadError
                inside = False
                yield in_memory(key, uri, data)
            # A header cut off looks like the end; the end itself is a block of zeros.
            beneath = archive.fileobj
            assert beneath is not None
            beneath.seek(archive.offset)
            if beneath.read(tarfile.BLOCKSIZE) != b"\0" * tarfile.BLOCKSIZE:
                name = ""
                raise tarfile.ReadError
        except _DAMAGE:
            if inside and is_picture_name(name):
                yield broken(
                    f"{place}/{name}", f"{base}#{quote(name, errors='surrogateescape')}", ImageError(_CUT_SHORT)
                )
            else:
                yield broken(place, f"{base}#", ImageError(_CUT_SHORT))
