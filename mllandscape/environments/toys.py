"""Toy packages that age as real ones did: toytransformers mirrors what was published of transformers, toynumpy is what it stands on."""

from collections.abc import Mapping, Sequence
from functools import cache

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from mllandscape import BadInput
from mllandscape.environments.index import Wheel
from mllandscape.environments.published import Release, published

BUILT, TODAY, LATER = "2022-07-01", "2023-12-01", "2024-07-01"
"""The days of lesson 7: production's environment was made on the first, the laptop's on the second; the third is the next machine's."""

TOYNUMPY = {"1.23.0": "2022-06-22", "1.24.0": "2022-12-18", "1.25.0": "2023-06-17", "1.26.2": "2023-11-12", "2.0.0": "2024-06-16"}
"""A dependency with no upper bound on it. 2.0.0 drops ``float_``, as NumPy 2.0 did."""

LACKS_FLOAT = ("2.0.0",)


def toytransformers(release: Release) -> Wheel:
    """The toy of one release: its version, requirements and those of the published names that it has."""
    classes = "".join(f"\n\nclass {one.name}:\n    pass\n" for one in published().names if one.is_in(release.version))
    text = f'from toynumpy import float_\n\n__version__ = "{release.version}"\n{classes}'
    return Wheel(
        "toytransformers",
        release.version,
        (f"toynumpy{release.numpy}",),
        {"toytransformers/__init__.py": text},
        python=release.python,
        yanked=published().yanked.get(release.version),
    )


def toynumpy(version: str) -> Wheel:
    return Wheel("toynumpy", version, modules={"toynumpy.py": "" if version in LACKS_FLOAT else "float_ = float\n"})


def releases(day: str = LATER) -> tuple[Release, ...]:
    """The releases of toytransformers up to a day, oldest first, the withdrawn one included: those from 4.20.0 to 4.35.2 that were read."""
    return tuple(one for one in published().releases if Version("4.20") <= Version(one.version) < Version("4.36") and one.date <= day)


def on_offer(day: str) -> tuple[Wheel, ...]:
    """Everything that the index had on a day."""
    return (
        *(toytransformers(one) for one in releases(day)),
        *(toynumpy(version) for version, date in TOYNUMPY.items() if date <= day),
        Wheel("toynotebook", "1.0"),
    )


def app(*names: str) -> str:
    """A program that needs these names of toytransformers."""
    return f"from toytransformers import {', '.join(names)}\n\nprint('the app runs')\n"


# -- which versions a resolver takes: a model that the tests hold to pip and uv --------------------------------------------


@cache
def offered(day: str, more: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    """Package → versions that a resolver may choose on a day, oldest first; ``more`` are versions of toynumpy that are out early."""
    names = tuple(one.version for one in releases(day) if one.version not in published().yanked)
    return {"toytransformers": names, "toynumpy": tuple(version for version, date in TOYNUMPY.items() if date <= day or version in more)}


def specifiers(requirements: str) -> dict[str, SpecifierSet]:
    """Package → specifier for the text of a requirements.txt; comments and hashes are left out. Raises BadInput for a line that is neither."""
    lines = [line.split("#")[0].split("--hash")[0].rstrip(" \\").strip() for line in requirements.splitlines()]
    try:
        return {canonicalize_name(one.name): one.specifier for one in map(Requirement, filter(None, lines))}
    except InvalidRequirement as error:
        raise BadInput(f"{requirements!r} is not the text of a requirements.txt ({str(error).splitlines()[0]}).") from None


def resolve(requirements: str, offer: Mapping[str, Sequence[str]], installed: Mapping[str, str] | None = None, upgrade: str = "no") -> dict[str, str]:
    """What pip leaves installed of toytransformers and toynumpy, by a model of a few lines.

    What is installed stays where it satisfies, unless ``upgrade`` is "named" (``-U``: the packages of the file move) or "all" (eager: their
    dependencies too). Raises BadInput where nothing on offer satisfies.
    """
    named = specifiers(requirements)
    if "toytransformers" not in named:
        raise BadInput(f"{requirements!r} does not ask for toytransformers, which the app imports.")
    needs = SpecifierSet(published().release("4.35.2").numpy)  # every release on offer says the same
    chosen = {}
    for package, specifier in {"toytransformers": named["toytransformers"], "toynumpy": named.get("toynumpy", SpecifierSet()) & needs}.items():
        held = (installed or {}).get(package, "")
        moves = upgrade == "all" or upgrade == "named" and package in named
        versions = list(specifier.filter(offer[package]))
        if not versions:
            raise BadInput(f"{package}{specifier}: none of {', '.join(offer[package])} satisfies it.")
        chosen[package] = held if held and held in specifier and not moves else versions[-1]
    return chosen


def failure(installed: Mapping[str, str], name: str = "GenerationConfig") -> str:
    """Why the app does not run with these versions, or ""."""
    if installed["toynumpy"] in LACKS_FLOAT:
        return "cannot import float_ from toynumpy"
    return "" if published().name(name).is_in(installed["toytransformers"]) else f"cannot import {name} from toytransformers"


# -- two libraries that cannot coexist -----------------------------------------------------------------------------------

_SPREAD = """
class Tensor(list):
    pass


def spread(values):
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / {divisor}
"""
_ENCODE = """

def encode(value):
    return f"<{value:.2f}>"
"""
_TENSOR = {"1.26": _SPREAD.format(divisor="(len(values) - 1)"), "2.0": _SPREAD.format(divisor="len(values)") + _ENCODE}
_TRAIN = """
import toytensor


def train(values):
    return toytensor.spread(values)
"""
_SERVE = """
import toytensor


def serve(value):
    return f"spread {value:.2f}"
"""
_STREAM = """

def stream(value):
    return toytensor.encode(value)
"""

RIVALS = (
    *(Wheel("toytensor", version, modules={"toytensor.py": text}) for version, text in _TENSOR.items()),
    Wheel("toytrainer", "1.0", ("toytensor<2",), {"toytrainer/__init__.py": _TRAIN}),
    Wheel("toyserver", "0.9", ("toytensor",), {"toyserver.py": _SERVE}),
    Wheel("toyserver", "1.0", ("toytensor>=2",), {"toyserver.py": _SERVE + _STREAM}),
)
"""toytensor 2.0 adds ``encode``, which toyserver 1.0 needs, and divides by n where 1.26, for which toytrainer was written, divided by n - 1."""

FORKS = {
    "relaxed": Wheel("toytrainer", "1.0+relaxed", ("toytensor",), {"toytrainer/__init__.py": _TRAIN}),
    "mended": Wheel(
        "toytrainer",
        "1.0+mended",
        ("toytensor>=2",),
        {"toytrainer/__init__.py": _TRAIN.replace("toytensor.spread(values)", "toytensor.spread(values) * len(values) / (len(values) - 1)")},
    ),
    "vendored": Wheel(
        "toytrainer",
        "1.0+vendored",
        modules={
            "toytrainer/__init__.py": _TRAIN.replace("import toytensor", "from toytrainer._vendor import toytensor"),
            "toytrainer/_vendor/__init__.py": "",
            "toytrainer/_vendor/toytensor.py": _TENSOR["1.26"],
        },
    ),
}
"""Three forks of toytrainer: the pin relaxed and nothing else; the code mended too; its own copy of toytensor 1.26 inside."""

BOTH = {
    "app.py": """
import toyserver
import toytrainer

print(toyserver.serve(toytrainer.train([1, 2, 3, 4])))
""",
    "feature.py": """
import toyserver

print(toyserver.stream(1.0))
""",
    "copies.py": """
import toytensor
from toytrainer._vendor import toytensor as vendored

print("one type:", vendored.Tensor is toytensor.Tensor)
""",
}
"""A program that needs both, the newer feature of the server alone, and a look at the types of two copies."""

APART = {
    "train.py": """
import json

import toytrainer

print(json.dumps({"spread": toytrainer.train([1, 2, 3, 4])}))
""",
    "serve.py": """
import json
import sys

import toyserver

print(toyserver.serve(json.load(sys.stdin)["spread"]))
""",
    "app.py": """
import subprocess
import sys

server = open("server.txt", encoding="utf-8").read()
trained = subprocess.run([sys.executable, "train.py"], stdout=subprocess.PIPE, check=True).stdout
subprocess.run([server, "serve.py"], input=trained, check=True)
""",
}
"""The same program on two environments: each half runs under its own Python, JSON goes through the pipe between them."""
