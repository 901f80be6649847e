"""Runs a command again and again on a disk that grows between the runs.

``growing_disk.py FOLDER KEEP KILOBYTES,... COMMAND ...`` mounts a file system on FOLDER for itself
alone, and runs the command there once for each size, which the file system then has. A line of JSON
on stdout says how each run ended and which files lie there. In the end they are copied to KEEP.
"""

import ctypes
import json
import os
import pathlib
import shutil
import subprocess
import sys

from faults.fork_server import mount_disk

_MS_REMOUNT = 32


def files_of(folder: pathlib.Path) -> dict[str, tuple[int, int, int]]:
    """Size, inode and time of change of each file below a folder."""
    found = {path.relative_to(folder).as_posix(): path.stat() for path in folder.rglob("*")
             if path.is_file()}  # fmt: skip
    return {name: (item.st_size, item.st_ino, item.st_mtime_ns) for name, item in found.items()}


def grow(folder: pathlib.Path, kilobytes: int) -> None:
    """Gives the file system on a folder another size."""
    libc, options = ctypes.CDLL(None, use_errno=True), f"size={kilobytes}k".encode()
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", _MS_REMOUNT, options):
        raise OSError(ctypes.get_errno(), "remount")


def main(argv: list[str]) -> None:
    """Runs the command once for each size."""
    folder, keep, sizes, *command = argv
    sizes = [int(size) for size in sizes.split(",")]
    mount_disk(folder, sizes[0])
    for size in sizes:
        grow(pathlib.Path(folder), size)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        said = {"stdout": done.stdout, "stderr": done.stderr}
        files = files_of(pathlib.Path(folder))
        print(json.dumps({"status": done.returncode, "files": files, **said}))
    shutil.copytree(folder, keep, dirs_exist_ok=True)


if __name__ == "__main__":
    main(sys.argv[1:])
