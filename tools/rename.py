"""`python -m tools.rename NAME`: makes this service another one, under a name such as `invoice-helper`.

It changes the name wherever it stands: the package's metadata, the proto package and its service with the generated
code, titles, manifests, dashboards, tests, documentation. What it is called now it reads from the tree, so a service
can be renamed again. `git diff HEAD` shows all of it, `git reset --hard` takes it back.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = "protos"
MAX_NAME = 30  # of a service account of Google Cloud; Kubernetes' names may be longer
# Two words at least: one alone may stand anywhere and mean something else, which a second rename could not know.
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z][a-z0-9]*)+")
# Not ours to change: the licence, other people's packages and their hashes.
_LEFT_ALONE = ("LICENSE", "requirements/")


class Refused(Exception):
    """It can't be done; the message says why."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a service.

    Attributes:
        distribution: In package metadata, manifests and telemetry: `invoice-helper`.
        title: Before people: `Invoice helper`.
        package: Of the proto file: `invoice_helper.v1`.
        folder: Of the proto file, below `protos`: `invoice_helper/v1`.
        service: In the proto file: `InvoiceHelperService`.
    """

    distribution: str
    title: str
    package: str
    folder: str
    service: str

    @classmethod
    def after(cls, name: str) -> "Names":
        """All of them from the first. Raises Refused if it is none."""
        if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
            raise Refused(f"{name!r} is no name like invoice-helper, of {MAX_NAME} characters at most")
        words = name.split("-")
        module = "_".join(words)
        service = "".join(word.capitalize() for word in words).removesuffix("Service") + "Service"
        return cls(name, " ".join(words).capitalize(), f"{module}.v1", f"{module}/v1", service)

    @classmethod
    def of_tree(cls, root: Path) -> "Names":
        """Those of the service in this checkout. Raises Refused where they can't be found."""
        [proto] = (root / PROTOS).rglob("*.proto")
        text = proto.read_text(encoding="utf-8")
        package = re.search(r"^package ([\w.]+);", text, re.MULTILINE)
        service = re.search(r"^service (\w+) ", text, re.MULTILINE)
        title = re.search(r"^site_name: (.+)$", (root / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
        if package is None or service is None or title is None:
            raise Refused("the names of this service are not where they were: in the proto file and mkdocs.yml")
        metadata = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        folder = proto.parent.relative_to(root / PROTOS).as_posix()
        return cls(metadata["project"]["name"], title[1], package[1], folder, service[1])


def rename(root: Path, new: Names) -> int:
    """Rename the service in this checkout; returns how many files changed. Raises Refused, before it changes any."""
    need_clean(root)
    old = Names.of_tree(root)
    replacements = dict(zip(astuple(old), astuple(new), strict=True))
    replacements[old.service.lower()] = new.service.lower()  # in links to headings
    known = re.compile("|".join(re.escape(text) for text in sorted(replacements, key=len, reverse=True)))
    changed = 0
    for path in _tracked(root):
        before = path.read_bytes()
        try:
            after = known.sub(lambda found: replacements[found[0]], before.decode()).encode()
        except UnicodeDecodeError:  # a picture
            continue
        if after != before:
            path.write_bytes(after)
            changed += 1
    if new.folder != old.folder:
        (root / PROTOS / new.folder).parent.mkdir(parents=True, exist_ok=True)
        git(root, "mv", f"{PROTOS}/{old.folder}", f"{PROTOS}/{new.folder}")
    generate(root, new.folder)
    return changed


def need_clean(root: Path) -> None:
    """Raises Refused where there are changes that are not committed."""
    if git(root, "status", "--porcelain"):
        raise Refused("there are changes that are not committed: commit them first, so that this can be taken back")


def git(root: Path, *arguments: str) -> str:
    """The command's output. Raises Refused where git fails."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"this has to be a git repository: {done.stderr.strip()}")
    return done.stdout


def _tracked(root: Path) -> list[Path]:
    names = git(root, "ls-files", "-z").split("\0")
    paths = [root / name for name in names if name and not name.startswith(_LEFT_ALONE)]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def generate(root: Path, folder: str) -> None:
    """Run the recipe `proto` with the proto file of this folder, and format: names may have come, gone or changed."""
    out = ("--python_out=.", "--pyi_out=.", "--grpc_python_out=.", "src/generated/service.proto")
    commands = (
        ["grpc_tools.protoc", f"--proto_path=src/generated={PROTOS}/{folder}", *out],
        ["ruff", "check", "--fix-only", "--quiet"],
        ["ruff", "format", "--quiet"],
    )
    for command in commands:
        subprocess.run([sys.executable, "-m", *command], cwd=root, check=True)


def main(argv: Sequence[str]) -> int:
    """Rename the checkout this stands in; the exit status is 2 where that is refused."""
    try:
        if len(argv) != 1:
            raise Refused("say the new name: just rename invoice-helper")
        new = Names.after(argv[0])
        changed = rename(ROOT, new)
    except Refused as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 2
    print(f"{changed} files changed. The service is now {new.distribution}; RPCs are {new.package}.{new.service}/...")
    print("Look at it with 'git diff HEAD', run './run.sh test', and commit.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
