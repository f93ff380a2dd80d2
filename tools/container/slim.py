"""`python slim.py DIRECTORY`: removes from installed packages what no running service reads.

Their tests, what only type checkers read, the sources of compiled modules, and scripts for a shell.
"""

import shutil
import sys
from pathlib import Path

UNREAD_DIRECTORIES = {"tests", "test", "include"}
UNREAD_SUFFIXES = {".pyi", ".c", ".h", ".cpp", ".pyx", ".pxd", ".proto"}


def slim(packages: Path) -> None:
    """Remove it from under `packages`, a directory that pip has installed into."""
    shutil.rmtree(packages / "bin", ignore_errors=True)
    for directory in [path for path in packages.rglob("*") if path.is_dir()]:
        if directory.name in UNREAD_DIRECTORIES or directory.name.endswith("-stubs"):
            shutil.rmtree(directory, ignore_errors=True)
    for file in packages.rglob("*"):
        if file.suffix in UNREAD_SUFFIXES and file.is_file():
            file.unlink()


if __name__ == "__main__":
    slim(Path(sys.argv[1]))
