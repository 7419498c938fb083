"""What may stand where a file should: nothing, a folder, a pipe, a device without end, a link to nowhere."""

import os
import shutil

ODD = ("missing", "folder", "pipe", "device", "dangling link", "link to itself")


def make_odd(file, kind):
    """Put it in the place of `file` (`Path`), which may be there; its path."""
    shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink(missing_ok=True)
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind != "missing":
        file.symlink_to({"device": "/dev/zero", "dangling link": "/nowhere/at/all"}.get(kind, file))
    return file
