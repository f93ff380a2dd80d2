"""`python -m tools.audit REQUIREMENTS [pip-audit's options]`: known vulnerabilities of hash-pinned packages.

pip-audit passes over what it could not look up; this does not. Ends with 0 when every package was looked up and none
is vulnerable, 1 when one is, 2 when the advisories could not be read.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

_PIP_AUDIT = [
    *(sys.executable, "-m", "pip_audit"),
    *("--vulnerability-service", "osv", "--disable-pip", "--require-hashes"),
    *("--format", "json", "--progress-spinner", "off"),
]


def main(argv: Sequence[str]) -> int:
    """Audit the file `argv` begins with; the rest goes to pip-audit. Returns the exit status."""
    requirements, *options = argv
    audit = subprocess.run(
        [*_PIP_AUDIT, "--requirement", requirements, *options], capture_output=True, text=True, check=False
    )
    try:
        packages = json.loads(audit.stdout)["dependencies"]
    except ValueError:
        reason = audit.stderr.strip().splitlines() or ["no word of pip-audit"]
        return _unknown(f"the advisories could not be read: {reason[-1]}")
    for package in packages:
        for found in package.get("vulns", []):
            print(_line(package, found))
    skipped = [package["skip_reason"] for package in packages if "skip_reason" in package]
    if skipped:
        return _unknown(f"{len(skipped)} packages could not be looked up, the first: {skipped[0]}")
    print(f"{requirements}: {len(packages)} packages looked up")
    return audit.returncode


def _line(package: dict[str, Any], found: dict[str, Any]) -> str:
    fixed = ", ".join(found["fix_versions"]) or "nothing yet"
    return f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}"


def _unknown(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
