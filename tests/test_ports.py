"""The ports of the tests."""

import json
import subprocess
import sys
from contextlib import ExitStack

from testing.ports import free_port
from testing.service import ROOT

NAME_SOME = """
import json, sys
from testing.ports import free_port
print(json.dumps([free_port() for _ in range(600)]), flush=True)
sys.stdin.read()
"""


def test_two_runs_of_the_tests_have_no_port_in_common() -> None:
    runs = [{free_port() for _ in range(600)}]
    with ExitStack() as running:
        for _ in range(2):
            other = running.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", NAME_SOME], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            )
            assert other.stdin
            assert other.stdout
            running.callback(other.stdin.close)
            runs.append(set(json.loads(other.stdout.readline())))
    assert len(set.union(*runs)) == sum(map(len, runs)) > len(runs)
