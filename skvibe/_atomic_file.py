"""Files that appear whole or not at all."""

import os
import secrets
from pathlib import Path


def write_atomically(path, data):
    """Write beside the file, then rename: readers see the old or the new one whole.

    Parameters
    ----------
    path : str or path-like
        File to write; its directory must exist.
    data : bytes
        Its content.

    Raises
    ------
    OSError
        If it cannot be written; an older file is then untouched.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
