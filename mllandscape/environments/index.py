"""A throw-away package index: wheels of a few lines, built byte for byte alike everywhere, served on 127.0.0.1 while a block lasts."""

import base64
import hashlib
import html
import io
import re
import socketserver
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mllandscape import BadInput

_NAME = re.compile(r"[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9]")  # the core metadata specification's "Name"
_EXTRA = re.compile(r"""\bextra == ['"]([^'"]+)['"]""")  # an extra is provided by naming it in a requirement's marker
_TAG = re.compile(r"\w+(\.\w+)*-\w+(\.\w+)*-\w+(\.\w+)*")


@dataclass(frozen=True)
class Wheel:
    """One version of a package: its requirements, and the text of its modules by path (``{"mathlib.py": "def scale(): ..."}``).

    Without ``modules`` it holds one module of its own name with ``__version__``. ``tag`` is the compatibility tag of the file name,
    ``python`` the versions of Python it accepts (``>=3.10``), ``yanked`` the reason why it was withdrawn (PEP 592), if it was.
    Raises BadInput for anything that a real index would not take.
    """

    name: str
    version: str
    requires: tuple[str, ...] = ()
    modules: Mapping[str, str] = field(default_factory=dict, hash=False)
    tag: str = "py3-none-any"
    python: str = ""
    yanked: str | None = None

    def __post_init__(self):
        what = f"wheel {self.name!r} {self.version!r}"
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise BadInput(f"{what}: a name is of letters, digits, '.', '_' and '-', and starts and ends with a letter or digit.")
        if isinstance(self.requires, str):
            raise BadInput(f"{what}: requires={self.requires!r} is one text; pass a tuple of requirements.")
        object.__setattr__(self, "requires", tuple(self.requires))
        for text, kind, example in [(self.version, Version, "1.0"), *((text, Requirement, "mathlib>=1.0,<2") for text in self.requires)]:
            try:
                kind(text)
            except (InvalidVersion, InvalidRequirement, TypeError):
                raise BadInput(f"{what}: {text!r} is not a {kind.__name__.lower()} such as {example!r}.") from None
        try:
            SpecifierSet(self.python)
        except InvalidSpecifier:
            raise BadInput(f"{what}: python={self.python!r} is not a set of versions such as '>=3.10'.") from None
        if not _TAG.fullmatch(self.tag):
            raise BadInput(f"{what}: {self.tag!r} is not a tag such as 'py3-none-any' or 'cp312-cp312-win_amd64'.")
        object.__setattr__(self, "modules", dict(self.modules) or {f"{self._file_name}.py": f'__version__ = "{self.version}"\n'})
        for path in self.modules:
            if not re.fullmatch(r"\w+(/\w+)*\.\w+", path):
                raise BadInput(f"{what}: {path!r} is not a path inside the package, such as 'mathlib/text.py'.")

    @property
    def _file_name(self) -> str:
        return canonicalize_name(self.name).replace("-", "_")

    @property
    def filename(self) -> str:
        return f"{self._file_name}-{Version(self.version)}-{self.tag}.whl"

    @cached_property
    def metadata(self) -> bytes:
        """The METADATA file, core metadata 2.1."""
        lines = ["Metadata-Version: 2.1", f"Name: {self.name}", f"Version: {self.version}"]
        lines += [f"Requires-Python: {self.python}"] if self.python else []
        extras = sorted({name for text in self.requires for name in _EXTRA.findall(text)})
        lines += [f"Provides-Extra: {name}" for name in extras]
        return "\n".join([*lines, *(f"Requires-Dist: {text}" for text in self.requires), ""]).encode()

    @cached_property
    def content(self) -> bytes:
        """The file, the same on every machine: no compression, one fixed time, sorted names."""
        info = f"{self._file_name}-{Version(self.version)}.dist-info"
        pure = "true" if self.tag.endswith("-none-any") else "false"
        tags = [f"Tag: {python}-{abi}-{platform}" for python, abi, platform in _tags(self.tag)]
        files = {path: text.encode() for path, text in sorted(self.modules.items())}
        files[f"{info}/METADATA"] = self.metadata
        files[f"{info}/WHEEL"] = "\n".join(["Wheel-Version: 1.0", "Generator: mllandscape", f"Root-Is-Purelib: {pure}", *tags, ""]).encode()
        record = [f"{path},sha256={_urlsafe(data)},{len(data)}" for path, data in files.items()]
        files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for path, data in files.items():
                entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
                entry.create_system, entry.external_attr = 3, 0o644 << 16
                archive.writestr(entry, data)
        return buffer.getvalue()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def _tags(tag: str) -> list[tuple[str, ...]]:
    pythons, abis, platforms = (part.split(".") for part in tag.split("-"))
    return [(python, abi, platform) for python in pythons for abi in abis for platform in platforms]


def _urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


class Index:
    """The wheels on offer, under ``url`` (a simple index, PEP 503, with sha256 and core metadata). Made by ``serve``.

    ``requests`` counts what was asked for, by kind: ``page``, ``metadata``, ``wheel``, ``missing``. ``fresh`` says for how many seconds
    a client may keep an answer of a kind without asking again, which a real index allows and this one does not, until told.
    """

    def __init__(self, wheels: Iterable[Wheel] = ()):
        self._wheels: dict[str, Wheel] = {}
        self.requests: Counter[str] = Counter()
        self.fresh: dict[str, int] = {}
        self.url = ""
        self.add(*wheels)

    @property
    def wheels(self) -> tuple[Wheel, ...]:
        return tuple(self._wheels[name] for name in sorted(self._wheels))

    @property
    def sha256(self) -> str:
        """One digest over every file on offer."""
        return hashlib.sha256("".join(f"{wheel.filename} {wheel.sha256}\n" for wheel in self.wheels).encode()).hexdigest()

    def add(self, *wheels: Wheel) -> None:
        """Publish. Like a real index, it refuses a file that it already has with other bytes."""
        for wheel in wheels:
            if not isinstance(wheel, Wheel):
                raise BadInput(f"{wheel!r} is not a Wheel.")
            if (old := self._wheels.get(wheel.filename)) and old.content != wheel.content:
                raise BadInput(f"{wheel.filename} is already on the index with other content: publish another version, or use replace().")
            self._wheels[wheel.filename] = wheel

    def replace(self, wheel: Wheel) -> None:
        """Put other bytes in the place of a published file, its hash on the page included: what an attacker with the index's keys can do."""
        if wheel.filename not in self._wheels:
            raise BadInput(f"{wheel.filename} is not on the index: {', '.join(sorted(self._wheels)) or 'it is empty'}.")
        self._wheels[wheel.filename] = wheel

    def answer(self, path: str) -> tuple[str, str, bytes] | None:
        """Kind, media type and body for a path, or None."""
        parts = unquote(path.partition("?")[0]).strip("/").split("/")  # pip asks for 2.1.0%2Bcu121 where the version is 2.1.0+cu121
        if parts[0] == "simple" and len(parts) <= 2:
            return self._page(parts[1]) if len(parts) == 2 else self._root()
        name = parts[1] if parts[0] == "files" and len(parts) == 2 else ""
        if wheel := self._wheels.get(name):
            return "wheel", "application/octet-stream", wheel.content
        if wheel := self._wheels.get(name.removesuffix(".metadata")):
            return "metadata", "text/plain", wheel.metadata
        return None

    def _root(self) -> tuple[str, str, bytes]:
        return _html({name: f'<a href="/simple/{name}/">{name}</a>' for name in sorted({canonicalize_name(wheel.name) for wheel in self._wheels.values()})})

    def _page(self, name: str) -> tuple[str, str, bytes] | None:
        links = {}
        for wheel in self.wheels:
            if canonicalize_name(wheel.name) == canonicalize_name(name):
                more = f' data-core-metadata="sha256={hashlib.sha256(wheel.metadata).hexdigest()}"'
                more += f' data-requires-python="{html.escape(wheel.python)}"' if wheel.python else ""
                more += f' data-yanked="{html.escape(wheel.yanked)}"' if wheel.yanked is not None else ""
                links[wheel.filename] = f'<a href="/files/{wheel.filename}#sha256={wheel.sha256}"{more}>{wheel.filename}</a>'
        return _html(links) if links else None


def _html(links: Mapping[str, str]) -> tuple[str, str, bytes]:
    text = "\n".join(["<!DOCTYPE html><html><head><title>simple</title></head><body>", *(f"{link}<br>" for link in links.values()), "</body></html>"])
    return "page", "text/html", text.encode()


@contextmanager
def serve(wheels: Iterable[Wheel] = ()) -> Iterator[Index]:
    """Serve these wheels on 127.0.0.1, on a port that is free, until the block ends; then nothing listens any more."""
    index = Index(wheels)
    handler = type("Handler", (_Handler,), {"index": index})
    with _Server(("127.0.0.1", 0), handler) as server:
        index.url = f"http://127.0.0.1:{server.server_port}/simple/"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield index
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # uv opens 50 connections at once; one that finds the queue full is tried again after a second

    def server_bind(self) -> None:
        """Without HTTPServer's look-up of the host's name, which waits where no DNS server answers."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # which is a tool that was stopped at its time limit
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    index: Index

    def do_GET(self) -> None:
        self._respond(body=True)

    def do_HEAD(self) -> None:
        self._respond(body=False)

    def _respond(self, body: bool) -> None:
        kind, media, content = self.index.answer(self.path) or ("missing", "text/plain", b"not found\n")
        self.index.requests[kind] += 1
        self.send_response(404 if kind == "missing" else 200)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(content)))
        if kind in self.index.fresh:
            self.send_header("Cache-Control", f"max-age={self.index.fresh[kind]}")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_) -> None:  # nothing on the notebook's stderr
        pass
