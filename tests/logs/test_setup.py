"""Whatever is logged, by whomever, is one JSON line without secrets and without anybody's words."""

import contextlib
import io
import json
import logging
import logging.config
import re
import string
import subprocess
import sys
import unicodedata
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from src.config import Settings
from src.errors import RateLimited, ServiceError
from src.logs import access as access_log
from src.logs import failures
from src.logs import setup as logs
from src.logs.access import AccessLines, EndedCall, report_call
from src.logs.failures import log_failure
from src.logs.redaction import HIDDEN, Redactor, client_text, escape_unprintable, quiet_traceback
from src.logs.setup import logging_config
from src.logs.writer import MAX_LINE_BYTES
from src.settings_loader import load_settings
from testing.service import ROOT

KEY = "canary-key-4711"


LogOf = Callable[[ModuleType], list[Any]]


def settings(**values: Any) -> Settings:
    return load_settings({"model": "googleai/m", "gemini_api_key": KEY, **values})


def written(record: logging.LogRecord, **values: Any) -> dict[str, Any]:
    """A record as it leaves the process."""
    entry: dict[str, Any] = json.loads(logs._formatter(settings(**values)).format(record))
    return entry


def record(
    message: str, *args: object, error: BaseException | None = None, extra: dict[str, Any] | None = None
) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("some.library", logging.WARNING, __file__, 1, message, args, exc_info)
    vars(made).update(extra or {})
    return made


def ended(text: str) -> EndedCall:
    """A request whose client wrote this text wherever it could."""
    return EndedCall("http", text, text, text, 200, 0.1, 3, "192.0.2.1", "r-1", is_quiet=False)


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    "text",
    [
        f"the key is {KEY}",
        "Authorization: Bearer canary.abc-123",
        "authorization: basic Y2FuYXJ5",
        "https://user:canary@host/",
        "GET /v1?api_key=canary&x=1",
        '{"password": "canary"}',
        "key AIzaSyCanaryCanaryCanaryCanaryCanaryCana",
        "sk-canarycanarycanarycanary",
        "eyJhbGciOiJIUzI1NiJ9.canary.canary",
    ],
)
def test_a_secret_is_hidden_by_its_value_or_its_look(text: str) -> None:
    entry = written(record("%s", text))
    assert "canary" not in json.dumps(entry).lower()
    assert HIDDEN in entry["event"]


@pytest.mark.parametrize("secret", ["canary-4711\n", "\r\ncanary-4711 ", "canary-one\ncanary-two", 'canary"\t"4711\n'])
def test_a_secret_of_several_lines_is_hidden_line_by_line(secret: str) -> None:
    redactor = Redactor([secret])
    for form in (secret, secret.strip(), *secret.split("\n")):
        assert "canary" not in redactor.text(f"the key is {form}.")
        assert "canary" not in redactor.text(json.dumps({"event": f"the key is {form}."}))
        assert "canary" not in redactor.text(orjson.dumps({"event": f"the key is {form}."}).decode())


@pytest.mark.parametrize(
    "name", ["api_key", "Authorization", "set-cookie", "db_password", "secretValue", "token", "dsn"]
)
def test_a_secret_is_hidden_by_its_name(name: str) -> None:
    entry = written(record("x", extra={"headers": {"inner": [{name: "canary"}]}, name: "canary"}))
    assert entry[name] == entry["headers"]["inner"][0][name] == HIDDEN


@pytest.mark.parametrize("word", ["tokens_in", "monkey", "request_id", "keyboard", "tokenizer"])
def test_innocent_names_stay(word: str) -> None:
    assert written(record("x", extra={word: "7"}))[word] == "7"


@given(st.text(string.printable, min_size=8), st.text(), st.text())
def test_no_secret_survives_in_a_json_line(secret: str, before: str, after: str) -> None:
    secret = "canary" + secret
    line = orjson.dumps({"event": before + secret + after}).decode()
    assert secret not in json.loads(Redactor([secret]).text(line))["event"]


ANYTHING = st.text(st.characters(exclude_categories=[]) | st.sampled_from("\x1b\x9b\r\n\u202e\ud800\x7f"))


@given(ANYTHING)
def test_an_access_line_is_one_line_that_no_client_writes(path: str) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        AccessLines(settings(log_level="info")).write(ended(path))
    assert stderr.getvalue().rstrip("\n").isprintable()
    entry = json.loads(stderr.getvalue())
    assert entry["path"] == entry["method"] == Redactor([]).text(escape_unprintable(path))


@given(ANYTHING, ANYTHING)
def test_a_coloured_line_gives_a_terminal_no_orders_but_colours(message: str, value: str) -> None:
    console = logs._formatter(settings(log_format="console"))
    error = raised(LookupError(value))
    line = console.format(record(message.replace("%", ""), error=error, extra={"said": value}))
    rest = re.sub(r"\x1b\[[0-9;]*m", "", line)
    assert not [char for char in rest if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"]
    assert not set(rest) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@pytest.mark.parametrize("text", ["x" * 60_000, "eyJ-" * 15_000, "\x1b" * 60_000])
def test_what_a_client_wrote_is_cut_wherever_it_is_logged(
    text: str, capsys: pytest.CaptureFixture[str], log_of: LogOf
) -> None:
    AccessLines(settings(log_level="info")).write(ended(text))
    entry = json.loads(capsys.readouterr().err)
    captured = log_of(failures)
    log_failure(ServiceError(), text)
    for cut in (entry["method"], entry["path"], captured[0]["operation"]):
        assert (cut[-1], len(cut.replace("\\x1b", "x")) <= 257) == ("…", True)


def test_a_secret_in_a_long_path_is_hidden_before_the_path_is_cut() -> None:
    long = "x" * 240
    assert "pass" not in client_text(f"{long}://user:password@host/{long}")
    assert "eyJ" not in client_text(f"{long}.eyJ{long * 30}")


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_where_colours_are_refused_there_are_none(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    error = raised(LookupError("x"))
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[" in logs._formatter(settings(log_format="console")).format(record("hello", error=error))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    line = logs._formatter(settings(log_format="console")).format(record("hello", error=error))
    assert ("\x1b" not in line, "LookupError" in line) == (True, True)


def test_an_access_line_for_people_begins_with_method_path_and_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    made = record("request", extra={"method": "GET", "path": "/x", "status": 200, "client": "192.0.2.1"})
    line = logs._formatter(settings(log_format="console")).format(made)
    assert re.search(r"request +\[some\.library\] method=GET path=/x status=200 client=192\.0\.2\.1", line), line


@given(st.dictionaries(st.text(min_size=1), ANYTHING | st.lists(st.text()), max_size=4), st.integers(0, 30_000))
def test_a_line_is_json_of_at_most_16_kib(fields: dict[str, Any], size: int) -> None:
    fields = {f"x_{name}": value for name, value in fields.items()}
    line = logs._formatter(settings()).format(record("é" * size, extra={**fields, "big": ["x" * 30_000]}))
    entry = json.loads(line)
    assert len(line.encode(errors="replace")) < MAX_LINE_BYTES
    assert (entry["cut"], entry["logger"], entry["level"]) == (True, "some.library", "warning")


def test_a_long_traceback_keeps_its_end() -> None:
    entry = written(record("failed", extra={"exception": "a frame\n" * 9000 + "KeyError"}))
    assert (entry["cut"], entry["exception"].splitlines()[-1], entry["event"]) == (True, "KeyError", "failed")


def test_text_that_no_encoding_can_hold_is_logged_all_the_same() -> None:
    assert written(record("\ud800"))["event"] == "\ud800"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_text_of_a_client_is_searched_for_lines_that_are_written_alone(
    log_format: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    searched: list[str] = []

    def search(text: str) -> str:
        searched.append(text)
        return text

    monkeypatch.setattr(access_log, "client_text", search)
    monkeypatch.setattr(failures, "client_text", search)
    monkeypatch.setattr(failures, "log", structlog.wrap_logger(None, processors=[structlog.testing.LogCapture()]))
    name = "/a.Service/Method"
    rpc = EndedCall("grpc", name, "", name, "OK", 0.1, 3, "192.0.2.1", "r-1", is_quiet=False)
    for log_level in ("warning", "debug"):
        values = settings(log_level=log_level, log_format=log_format)
        logs.configure_logging(values)
        for call in (ended("/a-path"), rpc):
            AccessLines(values).write(call)
        log_failure(RateLimited(1.0), "refused")
        assert searched == ([] if log_level == "warning" else ["/a-path", "/a-path", name, "refused"])


def test_a_listener_that_fails_costs_neither_the_call_nor_the_other_listeners(log_of: LogOf) -> None:
    heard: list[EndedCall] = []
    captured = log_of(failures)

    def failing(_call: EndedCall) -> None:
        raise LookupError("x")

    call = ended("/")
    report_call(call, [failing, heard.append])
    assert heard == [call]
    assert [line["log_level"] for line in captured] == ["error"]


def test_a_closed_log_fails_no_request_and_ends_no_later_line() -> None:
    closed = io.StringIO()
    closed.close()
    lines = AccessLines(settings(log_level="info"))
    with contextlib.redirect_stderr(closed):
        lines.write(ended("/lost"))
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        lines.write(ended("/written"))
    assert json.loads(stderr.getvalue())["path"] == "/written"


def test_an_exceptions_words_are_withheld_and_its_places_kept() -> None:
    error = raised(ValueError("canary prompt"), raised(KeyError("canary answer")))
    exception = written(record("failed", error=error))["exception"]
    assert "canary" not in exception
    assert ("in raised" in exception, "ValueError" in exception, "KeyError" in exception) == (True, True, True)
    assert exception.index("KeyError") < exception.index("ValueError"), "the cause first"


def test_debug_level_shows_them() -> None:
    assert (
        "the words" in written(record("failed", error=raised(ValueError("the words"))), log_level="debug")["exception"]
    )


def test_why_a_start_failed_is_said() -> None:
    assert "No such file: 'x'" in quiet_traceback(raised(FileNotFoundError(2, "No such file", "x"))).replace("] ", ": ")
    assert ServiceError.default_detail in quiet_traceback(raised(ServiceError()))


def test_a_group_and_a_loop_of_causes_come_to_an_end() -> None:
    group = ExceptionGroup("canary", [ValueError("canary"), ExceptionGroup("canary", [KeyError("canary")])])
    looping = ValueError("canary")
    looping.__cause__ = group
    group.__context__ = looping
    text = quiet_traceback(looping)
    assert ("canary" not in text, "KeyError" in text) == (True, True)


def test_asyncio_prints_no_objects() -> None:
    made = record("Task exception was never retrieved\nfuture: <Task exception=ValueError('canary')>")
    made.name = "asyncio"
    assert written(made)["event"] == "Task exception was never retrieved"


def test_colours_of_uvicorn_are_left_out() -> None:
    assert "color_message" not in written(record("up", extra={"color_message": "\x1b[32mup"}))


def test_on_cloud_run_fields_have_googles_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K_SERVICE", "s")
    entry = written(record("hello", error=raised(ValueError())))
    assert (entry["severity"], entry["message"], "time" in entry) == ("WARNING", "hello", True)
    assert "ValueError" in entry["stack_trace"]
    assert not {"event", "level", "timestamp", "exception"} & entry.keys()


def test_the_file_for_the_servers_own_commands_says_the_same() -> None:
    assert json.loads((ROOT / "logging.json").read_text()) == logging_config(settings())


UNCAUGHT = """
import asyncio, threading, warnings
from src.settings_loader import load_settings
from src.logs.setup import configure_logging
configure_logging(load_settings())
warnings.warn("canary is not a valid FinishReason")
def fail():
    raise ValueError("canary")
thread = threading.Thread(target=fail); thread.start(); thread.join()
async def main():
    async def failing():
        fail()
    task = asyncio.create_task(failing())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    asyncio.get_running_loop().call_soon(fail)
    await asyncio.sleep(0)
asyncio.run(main())
class Broken:
    def __del__(self):
        fail()
del_me = Broken()
del del_me
fail()
"""


def test_what_nobody_caught_is_a_line_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNCAUGHT],
        cwd=ROOT,
        env={"MODEL": "offline/demo", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=30,
    )
    entries = [json.loads(line) for line in done.stderr.splitlines()]
    events = [entry["event"].partition(":")[0] for entry in entries]
    assert events.count("uncaught exception") == 3
    assert "Task exception was never retrieved" in events
    [warning] = [entry for entry in entries if entry["event"] == "Python warning"]
    assert (warning["level"], warning["category"], warning["place"]) == ("warning", "UserWarning", "<string>:6")
    assert sum("ValueError" in entry.get("exception", "") for entry in entries) == 5
    assert ("canary" not in done.stderr, done.stdout, done.returncode) == (True, "", 1)


def test_at_debug_level_alone_a_warning_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        for level in ("info", "debug"):
            logs.configure_logging(settings(log_level=level))
            warnings.showwarning(UserWarning(f"at {level}"), UserWarning, "place.py", 1)
    finally:
        root.handlers[:], root.level = before
    quoted = capsys.readouterr().err
    assert ("at info" in quoted, "at debug" in quoted) == (False, True)


def test_metadata_that_is_no_utf_8_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        logs.configure_logging(settings())
        logging.getLogger(logs.GRPC).error("Invalid encoding on %s", b"canary\xff")
        logging.getLogger(logs.GRPC).error("Server failed")
    finally:
        root.handlers[:], root.level = before
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["Server failed"]


def test_a_wrong_setting_is_a_line_of_the_log() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "src", "--port", "x"],
        cwd=ROOT,
        env={"MODEL": "offline/demo", "PATH": "", "K_SERVICE": "s"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    [line] = done.stderr.splitlines()
    entry = json.loads(line)
    assert entry["event"].startswith("PORT='x' (--port): ")
    assert (entry["level"], entry["severity"], entry["message"]) == ("critical", "CRITICAL", entry["event"])
    assert done.returncode == 2


def test_structlog_and_the_standard_library_meet_in_one_handler(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        logs.configure_logging(settings())
        structlog.get_logger("ours").info("one", api_key="canary")
        logging.getLogger("theirs").info("two")
        logging.getLogger("httpx").info("chatter")
    finally:
        root.handlers[:], root.level = before
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["logger"]) for line in lines] == [("one", "ours"), ("two", "theirs")]
    assert lines[0]["api_key"] == HIDDEN


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_no_logger_writes_below_the_level_that_was_asked_for(level: str) -> None:
    config = logging_config(load_settings({"model": "offline/demo", "log_level": level}))
    levels = [config["root"], *config["loggers"].values()]
    assert (
        min(logging.getLevelNamesMapping()[each["level"]] for each in levels if "level" in each)
        == (logging.getLevelNamesMapping()[level.upper()])
    )
