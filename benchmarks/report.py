"""The tables of a run of the benchmarks, for the documentation."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Results = dict[str, Any]
MICROSECONDS = {"µs": 1.0, "ms": 1e3}


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure, and what it should be."""

    name: str
    figure: Callable[[Results], float]
    goal: float
    more_is_better: bool = False
    unit: str = ""

    def comparable(self, results: Results) -> float:
        """As a figure of another run may be held against it: times in bare requests, which the machine slows too."""
        scale = MICROSECONDS[self.unit] / _bare_request(results) if self.is_time else 1.0
        return self.figure(results) * scale

    @property
    def is_time(self) -> bool:
        """True if the machine's speed decides it."""
        return self.unit in MICROSECONDS

    def is_met(self, results: Results) -> bool:
        """True if the goal is met."""
        figure = self.figure(results)
        return figure >= self.goal if self.more_is_better else figure <= self.goal


def _bare_request(results: Results) -> float:
    return float(results["in_process"]["layers"]["bare FastAPI"])


def _ratio(name: str, key: str = "ratio") -> Callable[[Results], float]:
    return lambda results: float(results["throughput"][name][key])


GOALS = (
    Goal("GET /health, against bare FastAPI", _ratio("GET /health"), 0.75, True),
    Goal("POST /translate from the cache, against bare FastAPI", _ratio("POST /translate, cached"), 1.0, True),
    Goal("RPC TranslateText from the cache, against bare grpc.aio", _ratio("RPC TranslateText, cached"), 0.75, True),
    Goal("429, against bare FastAPI's /health", _ratio("429"), 1.0, True),
    Goal("p99 of GET /health at 32 connections, against bare FastAPI", _ratio("GET /health", "p99_ratio"), 1.5),
    Goal("p99 of POST /translate, likewise", _ratio("POST /translate, cached", "p99_ratio"), 1.5),
    Goal(
        "uncached flow, beyond the same flow in the process",
        lambda results: float(results["in_process"]["uncached_overhead"]),
        150,
        unit="µs",
    ),
    Goal(
        "first server-sent event after the LLM's first chunk",
        lambda results: float(results["in_process"]["first_chunk"]),
        2,
        unit="ms",
    ),
    Goal("the chain, of CPU", lambda results: float(results["in_process"]["layers"]["all"]), 20, unit="µs"),
    Goal("start-up, against bare FastAPI", lambda results: float(results["start_up"]["ratio"]), 1.6),
    Goal("memory with Gemini, idle", lambda results: float(results["memory"]["Gemini, idle"]), 110, unit="MB"),
    # 1.8 times the throughput on two cores is 0.9 of it for each second of CPU.
    Goal("two workers, for each second of CPU, against one", lambda results: float(results["workers"]), 0.9, True),
)


def table(results: Results) -> str:
    """The figures as Markdown."""
    lines = ["### Goals", "", "| | found | goal | |", "|---|---:|---:|---|"]
    for goal in GOALS:
        sign = "≥" if goal.more_is_better else "≤"
        met = "met" if goal.is_met(results) else "not met"
        found = f"{goal.figure(results):.2f} {goal.unit}".strip()
        lines.append(f"| {goal.name} | {found} | {sign} {goal.goal:g} {goal.unit} | {met} |")
    lines += ["", "### Throughput, one worker on one core", ""]
    lines += [
        "| | a second | baseline | ratio | CPU µs | baseline | p50 µs | p99 µs |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in results["throughput"].items():
        cells = (row["per_second"], row["baseline_per_second"])
        times = (row["cpu_us"], row["baseline_cpu_us"], row["p50_us"], row["p99_us"])
        lines.append(
            f"| {name} | {' | '.join(f'{cell:.0f}' for cell in cells)} | {row['ratio']:.2f} | "
            f"{' | '.join(f'{cell:.0f}' for cell in times)} |"
        )
    lines += ["", "### CPU of each layer, innermost first", "", "| layer | µs |", "|---|---:|"]
    lines += [f"| {name} | {cost:.1f} |" for name, cost in results["in_process"]["layers"].items()]
    lines += ["", "### Memory and start-up", "", "| | |", "|---|---:|"]
    lines += [f"| {name} | {size:.0f} MB |" for name, size in results["memory"].items()]
    start = results["start_up"]
    lines += [f"| start-up to the first answer | {start['seconds']:.2f} s (bare FastAPI {start['baseline']:.2f} s) |"]
    lines += ["", "### As things grow", "", "| | | CPU µs |", "|---|---:|---:|"]
    for what, sizes in results["growth"].items():
        lines += [f"| {what} | {int(size):,} | {cost:.1f} |" for size, cost in sizes.items()]
    return "\n".join(lines) + "\n"


def plots(results: Results, folder: Path) -> None:
    """The goals' ratios, the layers, and the growth, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "benchmarks"
    from matplotlib import pyplot

    def save(name: str) -> None:
        pyplot.tight_layout()
        pyplot.savefig(folder / f"{name}.svg", metadata={"Date": None})
        pyplot.close()

    names = list(results["throughput"])
    pyplot.figure(figsize=(7, 2.6))
    pyplot.barh(names[::-1], [results["throughput"][name]["ratio"] for name in names[::-1]])
    pyplot.axvline(1, color="black", linewidth=0.8)
    pyplot.xlabel("times the baseline")
    save("throughput")

    layers = {
        name: cost for name, cost in results["in_process"]["layers"].items() if name not in ("all", "bare FastAPI")
    }
    pyplot.figure(figsize=(7, 3))
    pyplot.barh(list(layers), list(layers.values()))
    pyplot.xlabel("µs of CPU a request")
    save("layers")

    _, axes = pyplot.subplots(1, len(results["growth"]), figsize=(10, 2.8))
    for axis, (what, sizes) in zip(axes, results["growth"].items(), strict=True):
        axis.plot([int(size) for size in sizes], list(sizes.values()), marker="o")
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel(what)
    axes[0].set_ylabel("µs of CPU")
    save("growth")
