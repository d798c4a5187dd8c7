"""The workshop's verbs of the command ``mllandscape``: their options, and what each prints. The work is in the files beside this one."""

import argparse
from pathlib import Path

EDITIONS = ("student", "instructor", "slides", "html")
NOTEBOOKS = Path("my_notebooks")


def register(verbs: argparse._SubParsersAction) -> None:
    """Add build, preflight, reset, progress and class."""
    one = verbs.add_parser("build", help="an edition of the notebooks for a workshop, into a new folder", allow_abbrev=False)
    one.add_argument("edition", choices=EDITIONS, help="student: without answers; instructor: with notes and agendas; slides; html: pages to read")
    one.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    one.add_argument("--only", action="append", default=[], metavar="NN", help="one lesson, by its number; may be given several times, in the order wanted")
    one = verbs.add_parser("preflight", help="whether this machine can run the course, and what to do where it cannot", allow_abbrev=False)
    one.add_argument("--folder", type=Path, default=NOTEBOOKS, help=f"where your notebooks are, or will be ({NOTEBOOKS})")
    one = verbs.add_parser("reset", help="a lesson's notebook afresh; the old one is kept under today's date", allow_abbrev=False)
    one.add_argument("number", metavar="NN", help="the lesson's number")
    one.add_argument("--folder", type=Path, default=NOTEBOOKS, help=f"where your notebooks are ({NOTEBOOKS})")
    one = verbs.add_parser("progress", help="your guesses and checks as one file for an instructor", allow_abbrev=False)
    one.add_argument("what", choices=["export"])
    one.add_argument("file", type=Path, metavar="FOLDER", help="where <made-up name>.json goes, or a file that ends in .json")
    one.add_argument("--name", default="", help="your name in the file, instead of a made-up one")
    one = verbs.add_parser("class", help="what a class guessed and solved, from its progress files", allow_abbrev=False)
    one.add_argument("folder", type=Path, metavar="FOLDER", help="where the files are")
    one.add_argument("--to", type=Path, metavar="DIR", help="where the page and the figures go (FOLDER)")


def build(chosen: argparse.Namespace) -> int:
    """Build an edition and say where it is."""
    from mllandscape.kit.build import build

    files = build(chosen.edition, chosen.folder, chosen.only)
    print(f"{chosen.folder}: {', '.join(path.name for path in files)}")
    return 0


def preflight(chosen: argparse.Namespace) -> int:
    """Print the page. Exit status 1 where the course cannot run."""
    from mllandscape.kit.preflight import report
    from mllandscape.machine import look

    return 0 if report(look(), chosen.folder, lambda line: print(line, flush=True)) else 1


def reset(chosen: argparse.Namespace) -> int:
    """Write a fresh notebook and say where the old one is."""
    from mllandscape.kit.reset import reset

    path, kept = reset(chosen.number, chosen.folder)
    print(f"{path} is fresh.{f' Your work is in {kept.name} beside it.' if kept else ''}")
    return 0


def progress(chosen: argparse.Namespace) -> int:
    """Write the export and say under which name."""
    from mllandscape.course import exported
    from mllandscape.interview import session

    path, export = exported.write(chosen.file, chosen.name, session.counts())
    spoken = f" and {len(export.interview)} answers of the interview" if export.interview else ""
    who = export.learner if export.learner == export.id else f"{export.learner} ({export.id})"
    print(f"{path}: {len(export.entries)} entries{spoken} of {who}. It holds no other name, and nothing else of this machine.")
    return 0


def classroom(chosen: argparse.Namespace) -> int:
    """Print the class's tables, and say where page and figures are."""
    from mllandscape.kit.classroom import report

    for line in report(chosen.folder, chosen.to or chosen.folder):
        print(line)
    return 0


VERBS = {"build": build, "preflight": preflight, "reset": reset, "progress": progress, "class": classroom}
