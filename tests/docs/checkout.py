"""A copy of the checkout for those who follow a page, with what is installed here lent to it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from testing.service import ROOT


def repository(folder: Path) -> Path:
    """A git repository in this folder with all files of this checkout that belong to it, as they are now."""
    folder.mkdir(parents=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    """Commit all that is there."""
    author = ("-c", "user.name=docs", "-c", "user.email=docs@localhost")
    for arguments in (("add", "--all"), (*author, "commit", "--quiet", "--message", "all")):
        subprocess.run(["git", *arguments], cwd=folder, check=True)


def lend_environment(clone: Path) -> None:
    """Let a clone use the packages that are installed here, Python's and Node's."""
    lend_packages(clone)
    lend_node_packages(clone)


def lend_packages(clone: Path) -> None:
    """Let a clone use the Python packages that are installed here."""
    (clone / ".venv/bin").mkdir(parents=True)
    for name in ("python", "just", "ruff"):
        script(clone / ".venv/bin" / name, f'exec "{Path(sys.executable).parent / name}" "$@"')


def lend_node_packages(clone: Path) -> None:
    """Let a clone use the packages of Node.js that are installed here."""
    (clone / "node_modules").symlink_to(ROOT / "node_modules")


def offline_env(home: Path, **env: str) -> Mapping[str, str]:
    """The environment of a newcomer whose installations find everything there, without a network."""
    bin_dir = home / "bin"
    bin_dir.mkdir(parents=True)
    script(bin_dir / "uv", "exit 0")
    return {
        "PATH": f"{bin_dir}:{os.environ['PATH']}",
        "HOME": str(home),
        "npm_config_offline": "true",
        "npm_config_update_notifier": "false",
        **env,
    }


def script(path: Path, text: str) -> None:
    """Write a shell script that can be run."""
    path.write_text(f"#!/usr/bin/env bash\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
