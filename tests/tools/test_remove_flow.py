"""A flow is found by each of its names, and the proto file loses what only its RPC used."""

import subprocess
import sys
from pathlib import Path

import pytest

from src.operations import OPERATIONS, Operation
from testing.service import ROOT
from tools.remove_flow import EXAMPLE, find, need_no_call, remove_from_pages, without_rpc
from tools.rename import Refused

several = pytest.mark.skipif(len(OPERATIONS) < 2, reason="the last flow can't be removed")


@several
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_flow_is_found_by_its_name_its_path_and_its_rpc(operation: Operation) -> None:
    names = (operation.name, operation.path, operation.path.removeprefix("/"), operation.rpc)
    assert {find(ROOT, name).name for name in names} == {operation.name}


@pytest.mark.parametrize("name", ["", "/", "nothing", "OPERATIONS"])
def test_anything_else_is_refused_with_the_names_that_there_are(name: str) -> None:
    with pytest.raises(Refused, match=f"is no flow; there are .*{OPERATIONS[0].name}"):
        find(ROOT, name)


def test_the_command_refuses_in_one_line() -> None:
    command = [sys.executable, "-m", "tools.remove_flow"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: say which flow: just remove-flow NAME\n"


PROTO = """\
service S {
  // Says a word.
  rpc Say(Word) returns (NonBlankText);
  rpc Sing(Word) returns (stream Song);
}

message Word {
  string text = 1;
}

message NonBlankText {
  Mood mood = 1;
}

// Good or bad.
message Mood {
  string text = 1;
}

message Song {
  string text = 1;
}

message Unused {}
"""


def test_an_rpc_goes_with_the_messages_that_it_alone_used() -> None:
    without_say = without_rpc(PROTO, "Say")
    assert without_say.splitlines()[:3] == ["service S {", "  rpc Sing(Word) returns (stream Song);", "}"]
    assert [line for line in without_say.splitlines() if line.startswith(("message", "//"))] == [
        "message Word {",
        "message Song {",
        "message Unused {}",
    ]


def test_a_message_that_another_rpc_uses_stays() -> None:
    assert without_rpc(PROTO, "Sing") == PROTO.replace("  rpc Sing(Word) returns (stream Song);\n", "").replace(
        "message Song {\n  string text = 1;\n}\n\n", ""
    )


@pytest.mark.parametrize(
    "text",
    [
        "service S {\n  rpc Say(Word) returns (Said) {\n    option o = 1;\n  }\n}\n",
        "service S {\n  rpc Say(Word)\n      returns (Said);\n}\n",
        "service S {\n  rpc Say(Word) returns (Said);\n}\n\nmessage Said {\n  message Inner {\n  }\n}\n",
    ],
    ids=["options", "two lines", "nested message"],
)
def test_what_it_cannot_cut_out_it_refuses(text: str) -> None:
    with pytest.raises(Refused, match="by hand"):
        without_rpc(text, "Say")


PAGE = """\
# Page

Text that stays.

A flow answers, as you
see:

```bash title="Terminal 2"
curl localhost:8080{path} --json '{{}}'
```

```text title="Output"
{{}}
```

| Flow | Call |
|---|---|
| it | `curl localhost:8080{path}` |
| another | `curl localhost:8080{path}/other` |
"""


@several
def test_the_blocks_of_a_page_go_with_what_introduces_them(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    flow = find(ROOT, OPERATIONS[0].name)
    (tmp_path / "README.md").write_text(PAGE.format(path=flow.path))
    remove_from_pages(tmp_path, flow)
    left = ["# Page", "Text that stays.", "| Flow | Call |", "|---|---|"]
    left += [f"| another | `curl localhost:8080{flow.path}/other` |"]
    assert list(filter(None, (tmp_path / "README.md").read_text().splitlines())) == left


@several
def test_the_example_of_the_pages_stays_while_they_call_it() -> None:
    with pytest.raises(Refused, match=r"blocks of .*getting-started.md.* call pirate_chat"):
        need_no_call(ROOT, find(ROOT, EXAMPLE))
