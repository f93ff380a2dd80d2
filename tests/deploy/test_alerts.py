"""Each alert fires in its scenario and stays silent in others, as Prometheus' own `promtool` evaluates the rules."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from src.errors import ServiceError
from src.operations import OPERATIONS
from src.telemetry.metrics import LATENCIES, ROUTES, RPCS
from src.util.probe_paths import PROBE_PATHS
from tests.needs import needs
from tools.site.watching import GRAFANA, ROOT, alerts

JOB = "hardened-genkit-service"
RULES = GRAFANA / "alerts.yaml"
ALERTS = alerts()
NAMES = [rule["alert"] for rule in ALERTS]
ALWAYS = 240  # samples, two a minute
RPC = "genkit.sample.v1.GenkitService/TellJoke"

Series = dict[str, str]


def series(name: str, *, job: str = JOB, instance: str = "pod-1", **labels: str) -> str:
    """A series as Prometheus has it after a scrape."""
    pairs = {"job": job, "instance": instance, **labels}
    return f"{name}{{" + ", ".join(f'{key}="{value}"' for key, value in pairs.items()) + "}"


def up(**labels: str) -> str:
    return series("up", **labels)


def requests(status: int, route: str = "/chat", **labels: str) -> str:
    return series(
        "http_server_request_duration_seconds_count",
        http_request_method="GET" if route in PROBE_PATHS else "POST",
        http_route=route,
        http_response_status_code=str(status),
        **labels,
    )


def rpcs(code: str, method: str = RPC, **labels: str) -> str:
    return series("rpc_server_call_duration_seconds_count", rpc_method=method, rpc_response_status_code=code, **labels)


def llm_calls(outcome: str, **labels: str) -> str:
    return series("gen_ai_client_operation_duration_seconds_count", gen_ai_request_model="m", outcome=outcome, **labels)


def state(**labels: str) -> str:
    return series("circuit_breaker_state", **labels)


def refused(**labels: str) -> str:
    return series("circuit_breaker_refused_total", **labels)


def decisions(decision: str, **labels: str) -> str:
    return series("rate_limit_decisions_total", decision=decision, **labels)


def lag(**labels: str) -> str:
    return series("event_loop_lag_seconds", **labels)


def dropped(**labels: str) -> str:
    return series("log_lines_dropped_total", **labels)


def constant(value: float, samples: int = ALWAYS) -> str:
    return f"{value}x{samples - 1}"


def rate(per_minute: float, samples: int = ALWAYS) -> str:
    """A counter that rises evenly, from 0."""
    return f"0+{per_minute / 2:g}x{samples - 1}"


def once_in(minutes: int) -> str:
    """A counter that appears at 1 with the first event, as labelled ones do, and rises by 1 each time."""
    return " ".join(f"{count + 1}x{minutes * 2 - 1}" for count in range(ALWAYS // (minutes * 2)))


def durations(buckets: Mapping[str, int]) -> Series:
    """LLM calls a minute by the bucket that they end in."""
    found, total = {}, 0
    for bucket in [*map(str, LATENCIES), "+Inf"]:
        total += buckets.get(bucket, 0)
        labels = {"gen_ai_request_model": "m", "outcome": "ok", "le": bucket}
        found[series("gen_ai_client_operation_duration_seconds_bucket", **labels)] = rate(total)
    return found


HEALTHY: Series = {
    up(): constant(1),
    requests(200): rate(20),
    requests(200, "/health"): rate(6),
    requests(200, "/ready"): rate(12),
    rpcs("OK"): rate(20),
    rpcs("OK", "grpc.health.v1.Health/Check"): rate(12),
    llm_calls("ok"): rate(40),
    **durations({"1.0": 40}),
    state(): constant(0),
    refused(): constant(0),
    decisions("allowed"): rate(40),
    decisions("refused"): constant(0),
    lag(): constant(0.002),
    dropped(): constant(0),
}
IDLE: Series = {
    **{name: value for name, value in HEALTHY.items() if "health" in name or "ready" in name},
    up(): constant(1),
    requests(200, "other"): rate(30),
    requests(404, "other"): rate(30),
    rpcs("UNIMPLEMENTED", "other"): rate(30),
    state(): constant(0),
    refused(): constant(0),
}
DOWN, INSTANCE, ERRORS, RPC_ERRORS, LLM, CIRCUIT, SLOW, RATE, LAG, LOG = (
    f"GenkitService{name}"
    for name in (
        "Down",
        "InstanceDown",
        "Errors",
        "RpcErrors",
        "LlmFails",
        "CircuitOpen",
        "LlmSlow",
        "RateLimited",
        "LoopLag",
        "LogLinesDropped",
    )
)


@dataclass(frozen=True)
class Scenario:
    """A state of the world, and which alerts it makes fire.

    Attributes:
        name: Of the test.
        series: Added to those of `on`, or in their place.
        fires: The alerts that fire, by minute; all others are silent then. `NAME@INSTANCE` where an alert is of one
            instance. Empty: all are silent all the time.
        on: The state without this trouble; None: `HEALTHY`.
        near: Alerts whose trouble is similar, and that must stay silent.
    """

    name: str
    series: Series
    fires: Mapping[int, Sequence[str]]
    on: Mapping[str, str] | None = None
    near: Sequence[str] = ()


FAILING = {requests(200): constant(0), rpcs("OK"): constant(0), llm_calls("ok"): constant(0), **durations({})}
OPEN_AND_HALF_OPEN = " ".join(["2x0 1x1"] * (ALWAYS // 3))
FIRING = [
    Scenario("nothing was ever scraped", {}, {1: [], 3: [DOWN]}, on={}),
    Scenario(
        "all pods are gone from the targets",
        dict.fromkeys((up(), up(instance="pod-2")), "1x20 stale"),
        {10: [], 11: [], 13: [DOWN], 60: [DOWN]},
        on={},
    ),
    Scenario(
        "all pods stay targets and answer no scrape",
        dict.fromkeys((up(), up(instance="pod-2")), "1x20 0x200"),
        {10: [], 11: [], 13: [DOWN], 60: [DOWN, f"{INSTANCE}@pod-1", f"{INSTANCE}@pod-2"]},
        on={},
    ),
    Scenario(
        "one pod of two crashes again and again",
        {up(instance="pod-2"): "1x20 0x200"},
        {10: [], 14: [], 16: [f"{INSTANCE}@pod-2"]},
    ),
    Scenario(
        "the model fails",
        {
            **FAILING,
            requests(502): rate(2),
            requests(503): rate(18),
            rpcs("UNAVAILABLE"): rate(20),
            llm_calls("model-failed"): rate(2),
            state(): OPEN_AND_HALF_OPEN,
            refused(): rate(36),
        },
        {4: [], 8: [ERRORS, RPC_ERRORS, LLM, CIRCUIT], 60: [ERRORS, RPC_ERRORS, LLM, CIRCUIT]},
    ),
    Scenario(
        "the model hangs: the circuit is half-open most of the time, open now and then",
        {
            **FAILING,
            **durations({"120.0": 2}),
            requests(504): rate(2),
            requests(503): rate(18),
            rpcs("DEADLINE_EXCEEDED"): rate(2),
            rpcs("UNAVAILABLE"): rate(18),
            llm_calls("timeout"): rate(2),
            state(): " ".join(["2x0 1x8"] * 20),
            refused(): rate(36),
        },
        {4: [], 8: [ERRORS, RPC_ERRORS, LLM, CIRCUIT], 60: [ERRORS, RPC_ERRORS, LLM, CIRCUIT, SLOW]},
    ),
    Scenario(
        "the model hangs, and callers give up before it times out",
        {
            **FAILING,
            **durations({"30.0": 40}),
            requests(499): rate(20),
            rpcs("CANCELLED"): rate(20),
            llm_calls("cancelled"): rate(40),
        },
        {4: [], 8: [LLM], 60: [LLM]},
        near=[ERRORS, RPC_ERRORS, CIRCUIT],
    ),
    Scenario(
        "the model fails, and all callers read streams, which fail with status 200",
        {
            requests(200, "/tell-story/stream"): rate(20),
            llm_calls("model-failed"): rate(2),
            state(): OPEN_AND_HALF_OPEN,
            refused(): rate(18),
        },
        {4: [], 8: [LLM, CIRCUIT], 60: [LLM, CIRCUIT]},
        on=IDLE,
        near=[ERRORS],
    ),
    Scenario(
        "low traffic, all of it fails, probes and scanners get their answers",
        {requests(502): once_in(3), rpcs("UNAVAILABLE"): once_in(3), llm_calls("model-failed"): once_in(3)},
        {5: [], 20: [ERRORS, RPC_ERRORS, LLM], 60: [ERRORS, RPC_ERRORS, LLM]},
        on=IDLE,
    ),
    Scenario(
        "low traffic while the model hangs: half-open from the fifth call on, and each call is a probe",
        {
            requests(504): once_in(2),
            llm_calls("timeout"): once_in(2),
            state(): f"0x19 {constant(1, 220)}",
        },
        {9: [], 20: [ERRORS, LLM, CIRCUIT], 60: [ERRORS, LLM, CIRCUIT]},
        on=IDLE,
    ),
    Scenario(
        "a flood of refused requests does not hide failures",
        {
            requests(200): rate(5),
            requests(500): rate(5),
            requests(422): rate(1000),
            requests(429): rate(1000),
            rpcs("INTERNAL"): rate(5),
            rpcs("RESOURCE_EXHAUSTED"): rate(1000),
            decisions("refused"): rate(2000),
        },
        {4: [], 8: [ERRORS, RPC_ERRORS], 60: [ERRORS, RPC_ERRORS, RATE]},
    ),
    Scenario(
        "another job's successes do not hide failures",
        {
            requests(500): rate(20),
            rpcs("UNKNOWN"): rate(20),
            **{name.replace(JOB, "other"): rate(100_000) for name in (requests(200), rpcs("OK"), llm_calls("ok"))},
            llm_calls("timeout"): rate(60),
            up(job="other"): constant(1),
        },
        {4: [], 8: [ERRORS, RPC_ERRORS, LLM]},
    ),
    Scenario("the model is slow", durations({"1.0": 36, "60.0": 4}), {9: [], 14: [SLOW]}),
    Scenario("a fifth is over its rate", {decisions("refused"): rate(12)}, {14: [], 20: [RATE]}),
    Scenario(
        "the loop is held up for four seconds of each thirty, seen in every second scrape",
        {lag(): " ".join(["3 0.001"] * 100)},
        {4: [], 8: [f"{LAG}@pod-1"]},
    ),
    Scenario("log lines are dropped for good", {dropped(): rate(30)}, {4: [], 15: [LOG]}),
    Scenario(
        "log lines were dropped in one burst", {dropped(): "0x20 5000x200"}, {10: [], 16: [LOG], 69: [LOG], 80: []}
    ),
    Scenario(
        "a worker is killed after the alert on its open circuit",
        {
            state(): f"{constant(2, 20)} {constant(0, 200)}",
            refused(): f"0+10x19 {constant(190, 200)}",
        },
        {4: [], 8: [CIRCUIT], 11: [], 60: []},
    ),
]
SILENT = [
    Scenario("all is well", {}, {}, near=NAMES),
    Scenario("nobody calls, but scanners", {}, {}, on=IDLE, near=NAMES),
    Scenario(
        "another job is in all kinds of trouble",
        {
            up(job="other"): constant(0),
            requests(500, job="other"): rate(1000),
            rpcs("INTERNAL", job="other"): rate(1000),
            llm_calls("model-failed", job="other"): rate(1000),
            state(job="other"): constant(2),
            refused(job="other"): rate(1000),
            decisions("refused", job="other"): rate(1000),
            lag(job="other"): constant(5),
            dropped(job="other"): rate(1000),
            **{name.replace(JOB, "other"): value for name, value in durations({"120.0": 90}).items()},
        },
        {},
        near=NAMES,
    ),
    Scenario(
        "a rollout: the new pod is there before the old one goes, and half a minute of requests fails",
        {
            up(): "1x20 stale",
            up(instance="pod-2"): f"_x20 {constant(1, 210)}",
            requests(503): "0x20 1 10x200",
            rpcs("UNAVAILABLE"): "0x20 1 10x200",
        },
        {},
        near=[DOWN, INSTANCE, ERRORS, RPC_ERRORS],
    ),
    Scenario("one scrape in ten fails", {up(): " ".join(["1x8 0"] * 20)}, {}, near=[DOWN, INSTANCE]),
    Scenario(
        "probes fail and nobody else does",
        {requests(503, path): rate(1000) for path in PROBE_PATHS}
        | {rpcs("UNAVAILABLE", method.removeprefix("/")): rate(1000) for method in RPCS if "Health" in method},
        {},
        near=[ERRORS, RPC_ERRORS],
    ),
    Scenario(
        "3 % fail",
        {requests(500): rate(0.6), rpcs("INTERNAL"): rate(0.6), llm_calls("model-failed"): rate(1)},
        {},
        near=[ERRORS, RPC_ERRORS, LLM],
    ),
    Scenario(
        "two requests of a whole night fail, one after the other",
        {
            requests(502): "0x20 1x5 2x200",
            rpcs("UNAVAILABLE"): "0x20 1x5 2x200",
            llm_calls("model-failed"): "0x20 1x5 2x200",
        },
        {},
        on=IDLE,
        near=[ERRORS, RPC_ERRORS, LLM],
    ),
    Scenario(
        "clients send nonsense, and the model refuses to answer",
        {requests(422): rate(1000), rpcs("INVALID_ARGUMENT"): rate(1000), llm_calls("content-blocked"): rate(1000)},
        {},
        near=[ERRORS, RPC_ERRORS, LLM],
    ),
    Scenario(
        "a third of the callers leaves before the end",
        {requests(499): rate(10), rpcs("CANCELLED"): rate(10), llm_calls("cancelled"): rate(20)},
        {},
        near=[ERRORS, RPC_ERRORS, LLM],
    ),
    Scenario(
        "the circuit opens, and its first probe closes it",
        {
            state(): f"0x20 2x1 {constant(0, 200)}",
            refused(): f"0x20 10 {constant(20, 200)}",
            llm_calls("model-failed"): f"0x20 {constant(5, 200)}",
        },
        {},
        near=[CIRCUIT, LLM],
    ),
    Scenario(
        "the circuit opens, and nobody calls any more",
        {
            state(): f"0x20 2 {constant(1, 200)}",
            refused(): f"0x20 10 {constant(20, 200)}",
            llm_calls("model-failed"): f"0x20 {constant(2, 200)}",
        },
        {},
        on=IDLE,
        near=[CIRCUIT],
    ),
    Scenario(
        "a worker is killed while the circuit was open",
        {state(): f"0x20 2x7 {constant(0, 200)}", refused(): f"0x20 0+10x7 {constant(70, 200)}"},
        {},
        near=[CIRCUIT],
    ),
    Scenario(
        "a pod is killed while the circuit was open",
        {
            up(): "1x28 stale",
            up(instance="pod-2"): constant(1),
            state(): "0x20 2x7 stale",
            refused(): "0x20 0+10x7 stale",
            state(instance="pod-2"): constant(0),
            refused(instance="pod-2"): rate(10),
        },
        {},
        near=[CIRCUIT, DOWN],
    ),
    Scenario("one call is slow", durations({"1.0": 40, "60.0": 1}), {}, near=[SLOW]),
    Scenario("a tenth is over its rate", {decisions("refused"): rate(4.4)}, {}, near=[RATE]),
    Scenario("the loop is held up once", {lag(): f"0x20 4 {constant(0, 200)}"}, {}, near=[LAG]),
    Scenario("log lines are dropped within the budget", {dropped(): rate(1.6)}, {}, near=[LOG]),
]


@needs("promtool")
@pytest.mark.parametrize("scenario", FIRING + SILENT, ids=lambda scenario: scenario.name)
def test_the_right_alerts_fire_and_no_others(scenario: Scenario, tmp_path: Path) -> None:
    minutes = scenario.fires or dict.fromkeys(range(1, 100, 3), ())
    everything = {**(HEALTHY if scenario.on is None else scenario.on), **scenario.series}
    test = {
        "interval": "30s",
        "input_series": [{"series": name, "values": values} for name, values in everything.items()],
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": expected(name, firing)}
            for minute, firing in minutes.items()
            for name in NAMES
        ],
    }
    file = tmp_path / "test.yaml"  # JSON is YAML, and much faster
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def expected(name: str, firing: Sequence[str]) -> list[dict[str, Any]]:
    """Return the result that promtool has to find for this alert where these fire."""
    [rule] = [rule for rule in ALERTS if rule["alert"] == name]
    found = [alert.partition("@")[2] for alert in firing if alert.partition("@")[0] == name]
    return [
        {
            "exp_labels": {"job": JOB, **({"instance": instance} if instance else {}), **rule["labels"]},
            "exp_annotations": rule["annotations"],
        }
        for instance in found
    ]


def test_each_alert_has_a_scenario_of_both_kinds() -> None:
    fired = {alert.partition("@")[0] for each in FIRING for firing in each.fires.values() for alert in firing}
    assert fired == set(NAMES)
    for each in FIRING:
        assert not set(each.near) & {alert.partition("@")[0] for firing in each.fires.values() for alert in firing}
    apart = [scenario for scenario in SILENT if set(scenario.near) != set(NAMES)]
    assert {name for scenario in apart for name in scenario.near} == set(NAMES)


@needs("promtool")
def test_prometheus_takes_the_rules() -> None:
    done = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(NAMES)} rules found" in done.stdout


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_an_alert_is_of_this_service_only_and_says_what_to_do(rule: dict[str, Any]) -> None:
    selectors = re.findall(r"\w+\{[^}]*\}", rule["expr"])
    assert selectors
    assert all(f'{{job="{JOB}"' in selector for selector in selectors)
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["action"].endswith(".")
    assert rule["annotations"]["runbook_url"].endswith(f"/operations/#{rule['alert'].lower()}")


def test_the_rules_name_values_that_labels_have() -> None:
    text = RULES.read_text()
    [outcomes] = set(re.findall(r'outcome=~"([^"]+)"', text))
    assert set(outcomes.split("|")) <= {error.slug for error in ServiceError.__subclasses__()} | {"cancelled"}
    codes = "|".join(re.findall(r'rpc_response_status_code=~"([^"]+)"', text))
    assert set(codes.split("|")) <= set(grpc.StatusCode.__members__)
    [paths] = set(re.findall(r'http_route!~"([^"]+)"', text))
    [methods] = set(re.findall(r'rpc_method!~"([^"]+)"', text))
    called = {operation.path for operation in OPERATIONS}
    assert {path for path in ROUTES if not re.fullmatch(paths, path)} == called - PROBE_PATHS
    methods_called = {f"genkit.sample.v1.GenkitService/{operation.rpc}" for operation in OPERATIONS}
    counted = {name.removeprefix("/") for name in RPCS}
    assert {name for name in counted if not re.fullmatch(methods, name)} == methods_called - {
        "genkit.sample.v1.GenkitService/Health"
    }


@needs("promtool")
def test_prometheus_takes_the_configuration_of_the_page(tmp_path: Path) -> None:
    config = yaml.safe_load(block("rule_files:"))
    [scrape] = config["scrape_configs"]
    assert scrape["job_name"] == JOB
    # Debian's Prometheus is built without it.
    [discovery] = [scrape.pop(name) for name in list(scrape) if name.endswith("_sd_configs")]
    assert discovery == [{"role": "pod", "namespaces": {"names": [JOB]}}]
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(RULES, tmp_path)
    done = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yaml"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_operator_gives_pods_of_kubernetes_the_job_that_the_rules_name() -> None:
    deployment = yaml.safe_load((ROOT / "deploy/kubernetes/deployment.yaml").read_text())
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    monitor = yaml.safe_load(block("apiVersion: monitoring.coreos.com/v1"))["spec"]
    assert labels[monitor["jobLabel"]] == JOB
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    [endpoint] = monitor["podMetricsEndpoints"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert endpoint["port"] in {port["name"] for port in container["ports"]}


def block(beginning: str) -> str:
    """The one block of YAML on the page that begins so."""
    page = (ROOT / "docs/deployment.md").read_text()
    found: list[str] = re.findall(rf"```yaml\n({re.escape(beginning)}.*?)```", page, re.DOTALL)
    assert len(found) == 1
    return found[0]
