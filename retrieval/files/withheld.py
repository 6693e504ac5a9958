"""What the system says of a file that could not be read: whether there is nothing, or it is kept from us just now."""

from __future__ import annotations

import errno

_NOTHING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}


def may_be_whole(error: OSError) -> bool:
    """Whether the file may be read another time, as it was: no right to it, too many open files, too little memory, a disk or a
    mount that does not answer. Neither damage nor loss follows from that."""
    return error.errno is not None and error.errno not in _NOTHING
