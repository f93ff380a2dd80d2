"""Effects of making the app on its process."""

import gc
from collections.abc import Iterator
from typing import NoReturn

import pytest

from src import service
from src.asgi import create_app
from src.config import ConfigError, Settings
from src.service import addresses_for_log
from src.settings_loader import load_settings


@pytest.fixture
def settings() -> Settings:
    return load_settings({"model": "offline/demo", "log_level": "error"})


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """As it was before, whatever a test does."""
    assert gc.isenabled()
    yield
    gc.enable()


def test_the_collector_is_off_while_the_app_is_made_and_on_afterwards(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    build = vars(service)["build_genkit"]

    def building(given: Settings) -> object:
        seen.append(gc.isenabled())
        return build(given)

    monkeypatch.setattr(service, "build_genkit", building)
    create_app(settings)
    assert (seen, gc.isenabled()) == ([False], True)
    assert gc.get_freeze_count() > 0


def test_the_collector_is_on_after_a_start_that_failed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_settings: Settings) -> NoReturn:
        raise ConfigError("no")

    monkeypatch.setattr(service, "build_genkit", fail)
    with pytest.raises(SystemExit):
        create_app(settings)
    assert gc.isenabled()


def test_a_collector_that_somebody_turned_off_stays_off(settings: Settings) -> None:
    gc.disable()
    create_app(settings)
    assert not gc.isenabled()


def test_the_log_names_rests_address_only_where_the_settings_choose_it() -> None:
    settings = load_settings({"debug": True, "host": "::1", "port": 1, "grpc_port": 2})
    assert addresses_for_log(settings, listens_as_set=False) == {"grpc": "[::1]:2"}
    assert addresses_for_log(settings, listens_as_set=True) == {
        "rest": "http://[::1]:1",
        "docs": "http://[::1]:1/docs",
        "status": "http://[::1]:1/debug/status",
        "grpc": "[::1]:2",
    }
