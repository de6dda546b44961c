"""`python -m tests.benchmarks.picture figures.json stampede.svg`: the stampede as a picture for the documentation.

The SVG is written by hand: it has to be read at the width of a telephone, in a light and in a dark page, and by those
who cannot see it. It follows the colour scheme of the reader's system, not that of the page, so it brings its own
background along.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape

from .caches import Ours, OursOnLoop
from .scenarios import stampede

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WIDTH: Final = 460
MARGIN: Final = 20
ROW: Final = 48
PANEL_HEAD: Final = 60
LABEL: Final = 96
"""What is left free to the right of the longest bar, for its label."""
SIZE_ON_PAGE: Final = 600
"""Pixels across where there is room."""

_NAMES: Final = {Ours.name: "django_locksmith", OursOnLoop.name: "the same, on asyncio"}
_STYLE: Final = """
text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1f2328; }
.title { font-size: 18px; font-weight: 700; }
.name { font-size: 16px; font-weight: 500; }
.facts, .label { font-size: 15px; }
.small { font-size: 14px; }
.facts, .small { fill: #59636e; }
.ours { font-weight: 700; }
.bad { fill: #a85300; font-weight: 700; }
.paper { fill: #ffffff; stroke: #d1d9e0; }
.work { fill: #b6c0ca; }
.wait { fill: #d97706; }
.wait.ours { fill: #1a7f37; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; }
  .facts, .small { fill: #a3abb4; }
  .bad { fill: #f0a35e; }
  .paper { fill: #0d1117; stroke: #3d444d; }
  .work { fill: #59626c; }
  .wait { fill: #e08a2c; }
  .wait.ours { fill: #3fb950; }
}
"""


@dataclass(frozen=True)
class Bar:
    """One contender in one panel."""

    contender: str
    calls: float
    called: str
    """How often the work was done, in words."""
    besides: str
    """Something else to know, in words."""
    work: float
    """Milliseconds of the computation itself."""
    wait: float
    """Milliseconds that the last caller had to wait beyond it."""
    label: str

    @property
    def name(self) -> str:
        """The contender's name for readers who do not know the benchmark."""
        return _NAMES.get(self.contender, self.contender)

    @property
    def mark(self) -> str:
        """A class for what is drawn of ours."""
        return " ours" if self.contender in _NAMES else ""

    @property
    def sentence(self) -> str:
        """The same to be read aloud."""
        return f"{self.name}: {self.called}, {self.besides}, {self.label}."


@dataclass(frozen=True)
class Panel:
    """One half of the picture."""

    title: str
    subtitle: str
    bars: Sequence[Bar]

    @property
    def height(self) -> int:
        """Units that it takes."""
        return PANEL_HEAD + ROW * len(self.bars)


def main() -> None:
    """Read the JSON, write the picture."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.picture", description="Draw the stampede.")
    parser.add_argument("figures", type=Path, help="what `python -m tests.benchmarks stampede --json` wrote")
    parser.add_argument("picture", type=Path, help="the SVG to write")
    options = parser.parse_args()
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    options.picture.write_text(draw(json.loads(options.figures.read_text())), encoding="utf-8")


def draw(report: dict[str, Any]) -> str:
    """The picture of a report that has the stampede in it."""
    medians, rounds = _medians(report)
    panels = (_full(medians), _failing(medians))
    return _svg(panels, _footer(report, rounds))


def _medians(report: dict[str, Any]) -> tuple[dict[str, dict[str, float]], int]:
    """By contender and figure, and of how many rounds."""
    found = [scenario for scenario in report["scenarios"] if scenario["scenario"] == "stampede"]
    if not found:
        raise SystemExit("there is no stampede in these figures")
    medians: dict[str, dict[str, float]] = {}
    figures = found[0]["figures"]
    for figure in figures:
        medians.setdefault(figure["contender"], {})[figure["what"]] = median(figure["rounds"])
    return medians, len(figures[0]["rounds"])


def _full(medians: dict[str, dict[str, float]]) -> Panel:
    bars = [
        Bar(
            contender,
            calls=figures[stampede.COMPUTATIONS],
            called=_count(figures[stampede.COMPUTATIONS], "call"),
            besides=_count(figures[stampede.COMMANDS], "command"),
            work=figures[stampede.SINCE_START] - figures[stampede.AFTER],
            wait=figures[stampede.AFTER],
            label=f"+ {_millis(figures[stampede.AFTER])}",
        )
        for contender, figures in medians.items()
    ]
    return Panel(
        f"{stampede.CALLERS} callers, one empty key",
        f"calls of a {stampede.SECONDS * 1000:.0f} ms computation; Redis commands",
        bars,
    )


def _failing(medians: dict[str, dict[str, float]]) -> Panel:
    work = stampede.SECONDS_TO_FAILURE * 1000
    bars = [
        Bar(
            contender,
            calls=figures[stampede.CALLS],
            called=_count(figures[stampede.CALLS], "call"),
            besides=_count(figures[stampede.ERRORS], "error"),
            work=work,
            wait=max(0.0, figures[stampede.KNOWN] - work),
            label=f"+ {_millis(max(0.0, figures[stampede.KNOWN] - work))}",
        )
        for contender, figures in medians.items()
    ]
    return Panel(
        f"{stampede.CALLERS_OF_FAILURE} callers, and the computation fails",
        f"calls of a computation that fails after {work:.0f} ms",
        bars,
    )


def _footer(report: dict[str, Any], rounds: int) -> list[str]:
    python = ".".join(report["python"].split(".")[:2])
    redis = report["packages"]["redis"]
    lines = [
        f"Medians of {rounds} rounds; {stampede.PROCESSES} processes, {report['cpus']} CPUs. Callers are",
        "threads; on asyncio, and for cashews, they are tasks.",
        f"Python {python}, redis-py {redis}, {report['server']}.",
    ]
    if report["quick"]:
        lines.append("A quick run: no figures to quote.")
    return lines


def _svg(panels: Sequence[Panel], footer: Sequence[str]) -> str:
    top = 62
    parts: list[str] = list(_legend())
    for panel in panels:
        parts += _panel(panel, top)
        top += panel.height + 16
    for line in footer:
        parts.append(_text(MARGIN, top + 8, line, "small"))
        top += 20
    return _frame(parts, top + 10, panels)


def _frame(parts: Sequence[str], height: int, panels: Sequence[Panel]) -> str:
    heard = [f"{panel.title}, {panel.subtitle}. " + " ".join(bar.sentence for bar in panel.bars) for panel in panels]
    title = "A cache stampede: how often the value is computed, and how long the last caller waits beyond that"
    view = f'viewBox="0 0 {WIDTH} {height}"'
    size = f'width="{SIZE_ON_PAGE}" height="{round(height * SIZE_ON_PAGE / WIDTH)}"'
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" {view} {size} role="img" aria-labelledby="title desc">',
            f'<title id="title">{title}</title>',
            f'<desc id="desc">{escape(" ".join(heard))}</desc>',
            f"<style>{_STYLE}</style>",
            f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>',
            *parts,
            "</svg>\n",
        )
    )


def _legend() -> Iterator[str]:
    """What the colours of a bar mean, above everything."""
    yield _rect(MARGIN, 21, 14, 13, "work")
    yield _text(MARGIN + 21, 33, "the computation", "small")
    yield _rect(MARGIN + 158, 21, 14, 13, "wait ours")
    yield _rect(MARGIN + 175, 21, 14, 13, "wait")
    yield _text(MARGIN + 196, 33, "extra wait of the last caller", "small")


def _panel(panel: Panel, top: int) -> Iterator[str]:
    longest = max(bar.work + bar.wait for bar in panel.bars)
    scale = (WIDTH - 2 * MARGIN - LABEL) / longest
    yield _text(MARGIN, top + 17, panel.title, "title")
    yield _text(MARGIN, top + 38, panel.subtitle, "small")
    for number, bar in enumerate(panel.bars):
        yield from _row(bar, top + PANEL_HEAD + number * ROW, scale)


def _row(bar: Bar, top: int, scale: float) -> Iterator[str]:
    work, wait = bar.work * scale, max(1.5, bar.wait * scale)
    yield _text(MARGIN, top + 12, bar.name, f"name{bar.mark}")
    yield _facts(top + 12, bar)
    yield _rect(MARGIN, top + 20, work, 12, "work")
    yield _rect(MARGIN + work, top + 20, wait, 12, f"wait{bar.mark}")
    yield _text(MARGIN + work + wait + 7, top + 31, bar.label, f"label{bar.mark}")


def _facts(y: float, bar: Bar) -> str:
    """How often it was computed, loud where once would have done; and what else to know."""
    kind = "facts" if bar.calls <= 1 else "facts bad"
    words = f'<tspan class="{kind}">{escape(bar.called)}</tspan>, {escape(bar.besides)}'
    return f'<text class="facts" x="{WIDTH - MARGIN}" y="{y}" text-anchor="end">{words}</text>'


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _text(x: float, y: float, words: str, kind: str, *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _count(number: float, noun: str) -> str:
    return f"{number:,.0f} {noun}" if number == 1 else f"{number:,.0f} {noun}s"


def _millis(number: float) -> str:
    return f"{number:.1f} ms" if number < 10 else f"{number:,.0f} ms"


if __name__ == "__main__":
    main()
