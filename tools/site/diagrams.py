"""Diagrams of the code as it is, drawn by Graphviz."""

import shutil
import subprocess
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise

from src.circuit_breaker import State
from tools.site.breaker_states import transitions
from tools.site.chain import Layer, chain
from tools.site.imports import ALL_SEEING, ROOMS, SHARED, room_imports

STYLE = """
    graph [bgcolor=transparent, fontname="Helvetica,Arial,sans-serif", fontsize=13, pad=0.1]
    node [fontname="Helvetica,Arial,sans-serif", fontsize=13, shape=box, style="rounded,filled"]
    node [fillcolor="#e8eaf6", color="#3f51b5"]
    edge [fontname="Helvetica,Arial,sans-serif", fontsize=12, color="#5c6bc0", arrowsize=0.7]
"""


class NoGraphviz(Exception):
    """The `dot` command is missing."""


def drawn(dot: str, description: str) -> str:
    """The graph as an SVG element for a page; the description is for those who can't see it.

    Raises:
        NoGraphviz: there is no `dot` to draw it.
    """
    command = shutil.which("dot")
    if command is None:
        raise NoGraphviz("the diagrams need Graphviz: install its command `dot` (Debian: apt install graphviz)")
    done = subprocess.run([command, "-Tsvg"], input=dot, capture_output=True, text=True, check=True)
    svg = done.stdout
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
    # Markdown ends a raw block at an empty line.
    return '<div class="diagram">' + "".join(line for line in svg.splitlines() if line.strip()) + "</div>"


def rooms_graph() -> str:
    """The rooms of `src` and what they import of each other, in Graphviz' language.

    An arrow that says no more than a longer way does is left out.
    """
    lines = [_room(room) for room in ROOMS if room not in {*SHARED, *ALL_SEEING}]
    lines += [f'"{one}" -> "{other}"' for one, other in sorted(reduced(arrows()))]
    lines += [_group("imports all of them", ALL_SEEING), _group("imported by all of them", SHARED)]
    return _graph(lines, "rankdir=TB; ranksep=0.35; nodesep=0.3")


def arrows() -> set[tuple[str, str]]:
    """Return the imports between rooms, without the rooms that stand aside."""
    return {(one, other) for one, other in room_imports() if not {one, other} & {*SHARED, *ALL_SEEING}}


def _group(label: str, rooms: Sequence[str]) -> str:
    """Rooms in a frame, one below the other."""
    order = " ".join(f'"{upper}" -> "{lower}" [style=invis];' for upper, lower in pairwise(rooms))
    members = "".join(map(_room, rooms))
    return f'subgraph "cluster {label}" {{label="{label}"; color="#9fa8da"; style=rounded; {members} {order}}}'


def _room(room: str) -> str:
    fill = ', fillcolor="#fff3e0", color="#ef6c00"' if room == "Your code" else ""
    rows = "".join(f'<tr><td align="left"><font point-size="11">{name}</font></td></tr>' for name in ROOMS[room])
    title = f"<tr><td><b>{escape(room)}</b></td></tr>"
    return f'"{room}" [label=<<table border="0" cellspacing="0" cellpadding="1">{title}{rows}</table>>{fill}];'


def reduced(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The pairs without those that a longer path implies; there must be no circle in them."""
    return {(one, other) for one, other in pairs if not _reaches(one, other, pairs - {(one, other)})}


def _reaches(start: str, end: str, pairs: set[tuple[str, str]]) -> bool:
    seen, ahead = {start}, [start]
    while ahead:
        here = ahead.pop()
        new = {other for one, other in pairs if one == here} - seen
        seen |= new
        ahead += new
    return end in seen


def chain_graph() -> str:
    """The layers around the app, from the list that builds them."""
    names = [f'"{layer.name}"' for layer in chain()]
    nodes = [_layer(layer) for layer in chain()]
    ends = ['request [label="request", shape=plain, style=""]', 'App [fillcolor="#fff3e0", color="#ef6c00"]']
    arrows = " -> ".join(["request", *names, "App"])
    return _graph([*ends, *nodes, f"{arrows} [dir=both]"], "rankdir=TB; ranksep=0.22")


def _layer(layer: Layer) -> str:
    words = f'<font point-size="11">{escape(layer.summary.replace("`", ""))}</font>'
    return f'"{layer.name}" [width=7.5, label=<<b>{layer.name}</b><br/>{words}>]'


def breaker_graph() -> str:
    """The circuit breaker's states and the ways between them."""
    states = [f'{state} [label="{state.replace("_", "-")}"]' for state in State]
    arrows = [f'{way.before} -> {way.after} [label=" {way.happening} "]' for way in transitions()]
    return _graph([*states, *arrows], "rankdir=LR; ranksep=1.2; nodesep=0.6")


def _graph(lines: Iterable[str], layout: str) -> str:
    return f"digraph {{{STYLE} {layout}\n" + "\n".join(lines) + "\n}"
