"""What was installed where: runs of tools as a transcript, a bisection by installs, and the versions that machines hold."""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mllandscape import BadInput
from mllandscape.charts.figure import (
    BLUE,
    DPI,
    GREEN,
    VERMILLION,
    WIDTH,
    Described,
    add_axes,
    lettering,
    new_figure,
    paper,
    sentence,
    set_text,
    text_outline,
    text_width,
    title_lines,
    write_title,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORKS, FAILS = (BLUE, "o"), (VERMILLION, "X")
"""Colour and marker of a version that has what the program imports, and of one that lacks it."""


def _here(page: str) -> str:
    """A part of the HTML that differs between machines and versions by nature; nbval.cfg takes it out of the comparison by this class."""
    return f'<div class="here">{page}</div>'


@dataclass(frozen=True)
class Noted:
    """A table or figure with a line under it that differs between machines: the line stands in the HTML alone."""

    shown: Any
    note: str

    def __repr__(self) -> str:
        return repr(self.shown)

    def _repr_html_(self) -> str:
        page = self.shown._repr_mimebundle_()["text/html"] if hasattr(self.shown, "_repr_mimebundle_") else self.shown._repr_html_()
        return page + _here(f"<p><small>{html.escape(self.note)}</small></p>")


# -- runs of tools, as text --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transcript:
    """Runs by scene: each command with its exit code and what it left installed, or what the program printed last.

    A run has ``command``, ``exit_code``, ``installed``, ``words`` and ``problems``. The tools' own words and ``line``, which says where this was
    run, differ between versions and machines: they stand in the HTML alone.
    """

    title: str
    scenes: Mapping[str, Sequence[Any]]
    line: str = ""

    @property
    def rows(self) -> list[tuple[str, str, str, str]]:
        """(scene, command, exit code, outcome)."""
        rows = []
        for name, runs in self.scenes.items():
            before = None
            for place, run in enumerate(runs):
                rows.append(("" if place else name, run.command, "time-out" if run.exit_code is None else f"exit {run.exit_code}", _outcome(run, before)))
                before = run.installed
        return rows

    def __repr__(self) -> str:
        width = max((len(command) for _, command, _, _ in self.rows), default=0)
        lines = [self.title]
        for scene, command, code, outcome in self.rows:
            lines += [f"{scene}:"] if scene else []
            lines.append(f"  $ {command:{width}}  {code}  {outcome}".rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col" style="text-align:left">{name}</th>' for name in ("where", "command", "exit code", "afterwards"))
        body = ""
        for scene, command, code, outcome in self.rows:
            cells = "".join(f'<td style="text-align:left">{cell}</td>' for cell in (f"<code>{html.escape(command)}</code>", code, html.escape(outcome)))
            body += f'<tr><th scope="row" style="text-align:left">{html.escape(scene)}</th>{cells}</tr>'
        said = "\n\n".join(f"$ {run.command}\n{quoted(run.words)}" for runs in self.scenes.values() for run in runs)
        words = f"<details><summary>What the tools said</summary><pre>{html.escape(said)}</pre></details>"
        note = f"<p><small>{html.escape(self.line)}</small></p>" if self.line else ""
        caption = f'<caption style="text-align:left">{html.escape(self.title)}</caption>'
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{_here(note + words)}"


def _outcome(run: Any, before: Mapping[str, str] | None) -> str:
    """What a run of a program printed last, or what a run of a tool left installed."""
    if run.command.startswith("python"):
        return last_line(run.words) or "(prints nothing)"
    if run.exit_code != 0:
        return "refused" if before is None or run.installed == before else f"refused; {packages(run.installed)}"
    if run.installed == (before or {}):
        return "nothing changed"
    return packages(run.installed) + ("" if not run.problems else f"; pip check: {len(run.problems)} problem{'s' * (len(run.problems) > 1)}")


def packages(installed: Mapping[str, str]) -> str:
    """``toynumpy 1.23.0, toytransformers 4.20.1``, or that there are none."""
    return ", ".join(f"{name} {version}" for name, version in installed.items()) or "nothing installed"


def last_line(words: str) -> str:
    """The last line of what a program printed. Python 3.13 began to add advice to the place of an import that fails; the place is kept."""
    lines = [line for line in words.splitlines() if line.strip()]
    return re.sub(r"\(consider renaming '([^']+)'[^)]*\)", r"(\1)", lines[-1]) if lines else ""


def quoted(words: str) -> str:
    """A tool's words without addresses, and of a traceback its last line alone."""
    kept, inside = [], False
    for line in words.splitlines():
        if line.startswith("Traceback "):
            inside = True
        elif inside and line.startswith(" "):
            continue
        elif "://" not in line:
            inside = False
            kept.append(line)
    return "\n".join(kept)


# -- a bisection -------------------------------------------------------------------------------------------------------


def bisection(versions: Sequence[str], tried: Sequence[tuple[str, bool]], title: str = "") -> Described:
    """Installs in the order in which they were tried, ``(version, works)``, over all ``versions``, oldest first.

    A bar is where the first version that works can still be, before that install.
    """
    unknown = [version for version, _ in tried if version not in versions]
    if unknown or not tried:
        raise BadInput(f"{', '.join(unknown) or 'no install'}: each install is (version, works), with a version of {', '.join(versions)}.")
    heading, top = title_lines(title)
    place = {version: index for index, version in enumerate(versions)}
    low, high = 0, len(versions) - 1
    with paper():
        figure = new_figure(top + 34 * len(tried) + 66 + 26)
        write_title(figure, heading)
        axes = add_axes(figure, 128, 24, top, 66 + 26)
        for row, (version, works) in enumerate(tried):
            axes.barh(row, high - low + 0.6, left=low - 0.3, height=0.62, color="#DDEBF5", edgecolor="#666666", linewidth=0.8, zorder=1)
            colour, marker = WORKS if works else FAILS
            axes.plot([place[version]], [row], marker, color=colour, markersize=11, markeredgecolor="black", zorder=3)
            low, high = (low, min(high, place[version])) if works else (max(low, place[version] + 1), high)
        axes.set_yticks(range(len(tried)), [f"{row + 1}: {version}" for row, (version, _) in enumerate(tried)])
        axes.set_ylim(len(tried) - 0.5, -0.5)
        axes.set_xlim(-1, len(versions))
        _version_ticks(axes, versions)
        axes.set_xlabel("version, oldest first")
        _legend(figure)
    said = [f"Install {row + 1}: {version} {'works' if works else 'fails'}." for row, (version, works) in enumerate(tried)]
    last = f"The first of {len(versions)} versions that works: {versions[high]}." if high >= low else "No version works."
    return Described(figure, sentence(title, said, last))


def _version_ticks(axes: "Axes", versions: Sequence[str]) -> None:
    """A tick for each version, and a label where its first two numbers change, as far as there is room."""
    minors = {".".join(version.split(".")[:2]): place for place, version in reversed(list(enumerate(versions)))}
    labels, last = {}, float("-inf")
    for minor, place in sorted(minors.items(), key=lambda item: item[1]):
        x = axes.transData.transform((place, 0))[0] * 96 / DPI
        if x - last > text_width(minor) + 7:
            labels[place], last = minor, x
    axes.set_xticks(list(labels), list(labels.values()))
    axes.set_xticks(range(len(versions)), minor=True)


def _legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], linestyle="none", marker=marker, color=colour, markersize=10, markeredgecolor="black") for colour, marker in (WORKS, FAILS)]
    figure.legend(marks, ["has what the app imports", "lacks it"], loc="lower left", ncols=2, frameon=False, bbox_to_anchor=(0.005, 0), columnspacing=1.6)


# -- what machines hold ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MachinesRecord:
    """Which version of each package a machine holds, why a program fails there (missing: it runs), and which versions may be installed today."""

    installed: Mapping[str, Mapping[str, str]]
    failures: Mapping[str, str]
    allowed: Mapping[str, Sequence[str]]
    verdict: str
    lines: Sequence[str] = ()


class Machines:
    """The live chart of a panel: a row for each machine, an axis of versions for each package. Made once, then moved: see Panel.

    ``packages`` maps each package to its versions, oldest first; ``broken`` to those with which the program cannot run, and why.
    """

    def __init__(self, packages: Mapping[str, Sequence[str]], machines: Sequence[str], broken: Mapping[str, tuple[Sequence[str], str]], top: float = 8):
        self.packages = {name: tuple(versions) for name, versions in packages.items()}
        self.machines = tuple(machines)
        self._broken = broken
        self._top = top + 30
        self._left = max(text_width(machine) for machine in (*machines, "allowed today")) + 20
        self.height = self._top + 46 * (len(machines) + 1) + 54 + 30

    def setup(self, figure: "Figure") -> None:
        """For each package axes with the broken versions hatched; for each machine a mark and its word at the right."""
        shares = {name: max(len(versions), 12) for name, versions in self.packages.items()}
        room, left = WIDTH - self._left - 118 - 22 * (len(self.packages) - 1), self._left
        self._axes, self._marks, self._bars = {}, {}, {}
        for name, versions in self.packages.items():
            width = room * shares[name] / sum(shares.values())
            axes = self._axes[name] = add_axes(figure, left, WIDTH - left - width, self._top, 54 + 30)
            left += width + 22
            axes.set_xlim(-1, len(versions))
            axes.set_ylim(len(self.machines) - 0.5, -1.5)
            axes.set_yticks(range(-1, len(self.machines)), ["allowed today", *self.machines] if len(self._axes) == 1 else [])
            axes.tick_params(axis="y", length=0)
            _version_ticks(axes, versions)
            axes.set_xlabel(name)
            versions_broken, why = self._broken.get(name, ((), ""))
            if places := [versions.index(version) for version in versions_broken]:
                axes.axvspan(min(places) - 0.5, max(places) + 0.5, facecolor="#F7E3D6", edgecolor="#C98B62", hatch="//", linewidth=0, zorder=0)
                edge = max(places) + 0.5 if min(places) == 0 else min(places) - 0.5
                axes.axvline(edge, color="black", linewidth=1.6, linestyle=(0, (4, 2)))
                middle = (min(places) + max(places)) / 2
                axes.annotate(why, (middle, 1), (0, 5), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center", size=9.5)
            for row in range(len(self.machines)):
                axes.axhline(row, color="#DDDDDD", linewidth=0.8, zorder=0)
                for style in (WORKS, FAILS):
                    (mark,) = axes.plot([], [], style[1], color=style[0], markersize=13, markeredgecolor="black", animated=True, zorder=4)
                    self._marks[name, row, style] = mark
            (self._bars[name],) = axes.plot([], [], color=GREEN, linewidth=9, solid_capstyle="butt", animated=True, zorder=2)
        self._words = [lettering(axes, "black") for _ in self.machines]
        _legend(figure)

    def limit(self, record: MachinesRecord) -> bool:
        """Always the same: the background is drawn once."""
        return True

    def rescale(self, limit: bool) -> None:
        """The axes never change."""

    def draw(self, record: MachinesRecord) -> list["Artist"]:
        """What is allowed, then the marks of every machine and the words at its row."""
        artists: list[Artist] = []
        for name, versions in self.packages.items():
            places = [versions.index(version) for version in record.allowed[name]]
            xs = [x for place in places for x in (place - 0.5, place + 0.5, float("nan"))]
            self._bars[name].set_data(xs, [-1] * len(xs))
            artists.append(self._bars[name])
            for row, machine in enumerate(self.machines):
                if (version := record.installed[machine].get(name)) is not None:
                    style = FAILS if version in self._broken.get(name, ((), ""))[0] else WORKS
                    self._marks[name, row, style].set_data([versions.index(version)], [row])
                    artists.append(self._marks[name, row, style])
        axes = list(self._axes.values())[-1]
        for row, machine in enumerate(self.machines):
            text = "ImportError" if record.failures.get(machine) else "imports"
            x, y = (WIDTH - 106) * DPI / 96, axes.transData.transform((0, row))[1]
            set_text(self._words[row], text_outline(text, 10.5, "bold", 0), (x, y))
            artists.append(self._words[row])
        return artists

    def words(self, record: MachinesRecord) -> tuple[str, ...]:
        """The verdict, what each machine holds, and what stands beside it."""
        held = [f"{machine}: {packages(record.installed[machine])}, {record.failures.get(machine) or 'imports'}." for machine in self.machines]
        return (record.verdict, *held, *record.lines)
