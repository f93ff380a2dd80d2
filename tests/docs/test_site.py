"""The documentation site: it builds without a warning, agrees with the code, and asks nothing of anyone else."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from graphlib import TopologicalSorter
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from mkdocs.exceptions import PluginError

from src.circuit_breaker import State
from src.config import Settings
from src.errors import (
    AnswerUnusable,
    InvalidInput,
    ModelFailed,
    RequestRejected,
    ServiceError,
    ShareExceeded,
    UpstreamTimedOut,
)
from src.operations import OPERATIONS
from testing.ports import free_port
from testing.service import ROOT
from tests.docs.blocks import Reader, fences_of, steps_of
from tests.docs.checkout import lend_environment, offline_env, repository
from tests.needs import needs, require
from tools.site import diagrams, imports
from tools.site.breaker_states import Transition, transitions
from tools.site.chain import chain
from tools.site.errors_table import failures
from tools.site.hooks import PARTS, on_page_markdown, part
from tools.site.markdown_table import table
from tools.site.watching import alerts

DOCS = ROOT / "docs"


class Page(HTMLParser):
    """Links, resources and anchors of a built page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given.get("id", ""), given.get("name", "")}
        if tag == "a":
            self.links.append(given.get("href", ""))
        elif "src" in given or (tag == "link" and given["rel"] not in ("next", "prev")):
            self.loaded.append(given.get("src") or given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    require("dot")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    """Its pages, by their path as in an address."""
    files = [path for path in site.rglob("*.html") if path.name != "404.html"]
    return {path.relative_to(site).as_posix().removesuffix("index.html"): Page(path) for path in files}


def test_every_page_is_built_and_nothing_else_leaves(site: Path, pages: dict[str, Page]) -> None:
    """Pages for readers; not the code that makes them."""
    names = {path.stem for path in DOCS.glob("*.md")} - {"index"}
    assert pages.keys() == {"", "reporting/"} | {f"{name}/" for name in names}
    assert not list(site.rglob("*.py"))


def test_every_generated_part_is_on_a_page_and_no_marker_is_left(pages: dict[str, Page]) -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))
    assert set(re.findall(r"<!-- from the code: (.+?) -->", sources)) == PARTS.keys()
    assert not [path for path, page in pages.items() if "<!-- from the code" in page.text]


def test_a_marker_of_nothing_stops_the_build() -> None:
    with pytest.raises(PluginError, match="<!-- unknown --> is none of: settings, "):
        on_page_markdown("# Page\n\n<!-- from the code: unknown -->\n")


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    loaded = [address for page in pages.values() for address in page.loaded]
    assert loaded
    assert not [address for address in loaded if urlsplit(address).netloc]
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", styles)


def test_links_within_the_site_lead_somewhere(pages: dict[str, Page]) -> None:
    """A second opinion on what MkDocs checks: pages and anchors, in what was built."""
    lost = []
    for path, page in pages.items():
        for link in page.links:
            target, anchor = urldefrag(urljoin(f"http://site/{path}", link))
            if target.startswith("http://site/"):
                found = pages.get(unquote(urlsplit(target).path).removeprefix("/"))
                if found is None or (anchor and unquote(anchor) not in found.ids):
                    lost.append((path, link))
    assert not lost


def test_links_to_elsewhere_are_whole_and_encrypted(pages: dict[str, Page]) -> None:
    """Not fetched: a test needs no network. This machine's own pages, while the service runs, may be plain."""
    outside = {urlsplit(link) for page in pages.values() for link in page.links if urlsplit(link).netloc}
    assert outside
    assert not [link.geturl() for link in outside if link.scheme != "https" and link.hostname != "localhost"]
    assert not [
        link.geturl() for link in outside if not re.fullmatch(r"[a-z0-9.-]+\.[a-z]+|localhost", link.hostname or "")
    ]


def test_every_setting_has_its_row(pages: dict[str, Page]) -> None:
    assert pages["configuration/"].ids >= Settings.model_fields.keys()
    assert all(field.description in part("settings") for field in Settings.model_fields.values() if field.description)


@pytest.mark.parametrize(
    ("variable", "flag", "allowed", "default"),
    [
        ("HOST", "`--host`", "text", "`0.0.0.0`<br>in debug `127.0.0.1`"),
        ("WORKERS", "`--workers`", "whole number, from 1 to 64", "`1`"),
        ("GRPC_TLS_KEY", "`--grpc-tls-key`", "file", "none"),
        ("MODEL", "`--model`", "text", "none<br>in debug `offline/demo`"),
        ("GRPC_ENABLED", "`--no-grpc`", "true, false", "`true`"),
    ],
)
def test_a_settings_row_says_what_is_allowed_and_what_holds(
    variable: str, flag: str, allowed: str, default: str
) -> None:
    row = next(line for line in part("settings").splitlines() if f">`{variable}`" in line)
    assert f"`{variable}`<br>{flag} |" in row
    assert row.endswith(f"<br>*{allowed}* | {default} |")


def test_secrets_have_no_flag() -> None:
    """Command lines are public."""
    assert "`GEMINI_API_KEY` | Gemini API key; without MODEL it selects Gemini Flash.<br>*secret* |" in part("settings")


def test_every_operation_is_documented_for_both_protocols(pages: dict[str, Page]) -> None:
    text = part("reference")
    assert pages["api/"].ids >= {operation.name for operation in OPERATIONS}
    for operation in OPERATIONS:
        assert f"localhost:8080{operation.path} --json" in text
        assert f"localhost:50051 genkit.sample.v1.GenkitService/{operation.rpc}\n" in text
        assert f"rpc {operation.rpc}(" in text
        for name, field in operation.input.model_fields.items():
            assert f"| `{name}` |" in text
            assert f"| {field.description} |" in text


def test_every_failure_has_its_row() -> None:
    """All but those that callers can't tell from another."""
    every = {ServiceError} | set(_below(ServiceError))
    assert set(failures()) == every - {AnswerUnusable, RequestRejected, ShareExceeded, UpstreamTimedOut}
    assert "| 429 Too many requests, `Retry-After` | `RESOURCE_EXHAUSTED`, RetryInfo |" in part("errors")
    assert issubclass(RequestRejected, ModelFailed)
    assert InvalidInput in failures()


def _below(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for narrower in kind.__subclasses__():
        yield narrower
        yield from _below(narrower)


def test_the_chain_is_drawn_in_its_order() -> None:
    names = (
        "Edge AccessLog GZip CORS TrustedHost RateLimit Timeout MaxBodySize ExceptionHandler SecurityHeaders RequestId"
    )
    assert [layer.name for layer in chain()] == [f"{name}Middleware" for name in names.split()]
    assert all(layer.summary for layer in chain())


def test_the_breakers_states_are_those_of_the_spec() -> None:
    assert transitions() == [
        Transition(State.CLOSED, "5 calls in a row fail", State.OPEN),
        Transition(State.OPEN, "30 seconds pass", State.HALF_OPEN),
        Transition(State.HALF_OPEN, "a call succeeds", State.CLOSED),
        Transition(State.HALF_OPEN, "a call fails", State.OPEN),
    ]


def test_every_module_is_in_a_room() -> None:
    assert {imports.room_of(module) for module in imports.modules()} == imports.ROOMS.keys()
    with pytest.raises(LookupError, match=r"src/new/module\.py is in no room"):
        imports.room_of("new.module")


def test_the_page_describes_every_room() -> None:
    table = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("| Group |")[2].partition("\n\n")[0]
    described = [name for row in table.splitlines()[2:] for name in row.split(" | ")[0].strip("| ").split(", ")]
    assert sorted(described) == sorted(imports.ROOMS)


def test_rooms_import_each_other_in_one_direction() -> None:
    """No circle: what is further down knows nothing of what is above."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for importing, imported in diagrams.arrows():
        sorter.add(importing, imported)
    order = list(sorter.static_order())
    assert order.index("LLM guards") < order.index("Your code") < order.index("Running a flow") < order.index("REST")


def test_imports_are_found_wherever_they_stand() -> None:
    """At the top, inside a function, of a module by its package."""
    found = imports.imports()
    assert found >= {
        ("service", "rest.app"),
        ("lifecycle.lifespan", "rpc.server"),
        ("operations", "schemas"),
        ("config", "util.rate"),
    }
    assert ("rest.app", "rpc.server") not in found


def test_of_arrows_those_that_longer_ways_imply_are_left_out() -> None:
    assert diagrams.reduced({("a", "b"), ("b", "c"), ("a", "c")}) == {("a", "b"), ("b", "c")}


def test_a_bar_stays_within_its_cell(pages: dict[str, Page]) -> None:
    """In code, where a backslash would show, and in words."""
    assert "<code>&lt;count&gt;/&lt;second|minute|hour|day&gt;</code>" in pages["configuration/"].text
    assert table(("a|b",), [("`c|d`",)]) == "| a\\|b |\n| --- |\n| `c|d` |"


def test_without_graphviz_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(PluginError, match="install its command `dot`"):
        part("diagram: rooms")


def test_every_alert_says_what_to_do(pages: dict[str, Page]) -> None:
    assert pages["operations/"].ids >= {alert["alert"].lower() for alert in alerts()}


@needs("bash", "git", "curl", "npx", "buf", "openssl")
def test_every_control_shows_itself_as_the_security_page_says(tmp_path: Path) -> None:
    """Each command against a service as in production, on free ports."""
    rest, grpc = str(free_port()), str(free_port())
    checkout = repository(tmp_path / "checkout")
    lend_environment(checkout)
    env = offline_env(tmp_path / "home", PORT=rest, GRPC_PORT=grpc, HOST="127.0.0.1")
    with Reader(checkout, env, {"8080": rest, "50051": grpc}) as reader:
        reader.follow(steps_of(DOCS / "security.md"))


def test_what_the_security_page_only_shows_says_why() -> None:
    shown = [fence for fence in fences_of(DOCS / "security.md") if fence.language not in ("bash", "text")]
    assert all(fence.language == "console" and fence.shown_only for fence in shown)


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """The address of the built site."""
    handler = partial(_Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing: the test's output is for its failures."""


@needs("playwright", "chromium")
def test_a_browser_shows_start_page_reference_diagrams_and_search(address: str, tmp_path: Path) -> None:
    chromium = str(shutil.which("chromium"))
    paths = ("", "api/", "architecture/", "configuration/")
    browse = ["node", str(ROOT / "tests/docs/site.mjs"), address, str(tmp_path), chromium, *paths]
    done = subprocess.run(browse, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert (seen["errors"], seen["outside"]) == ([], [])
    assert [seen["pages"][path]["status"] for path in paths] == [200] * len(paths)
    assert [seen["pages"][path]["width"] for path in paths] == [1280] * len(paths), "nothing sticks out"
    drawn = seen["pages"]["architecture/"]["diagrams"]
    assert len(drawn) == 3
    assert all(box["width"] > 300 and box["height"] > 80 for box in drawn)
    assert seen["found"] > 0
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.glob("*.png"))
