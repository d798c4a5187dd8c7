"""A content-addressed store: every object lies under the SHA-256 of its bytes, so nothing in it can be overwritten, and damage has a name."""

import hashlib
import os
import re
import uuid
from pathlib import Path

from mllandscape import BadInput


class Store:
    """Bytes in a folder, by digest (64 hexadecimal digits), and names that never move. Raises BadInput for all that is not whole or not there."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    def put(self, content: bytes) -> str:
        """Keep these bytes and return their digest. The same bytes again are the same object; an object that is damaged is not put right in silence."""
        digest = hashlib.sha256(content).hexdigest()
        path = self._path(digest)
        if path.exists():
            self.get(digest)
            return digest
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{uuid.uuid4().hex}.part")
        part.write_bytes(content)
        part.chmod(0o444)
        os.replace(part, path)  # whole or not at all; two that write at once write the same bytes
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes, checked against their digest each time they are read."""
        try:
            content = self._path(digest).read_bytes()
        except OSError:
            raise BadInput(f"object {digest[:12]} is not in this store: whoever recorded it must have kept it, too.") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise BadInput(f"object {digest[:12]} is damaged: its {len(content):,} bytes have another digest than its name; restore it from a copy.")
        return content

    def name(self, name: str, digest: str) -> None:
        """Give an object a name, such as a version of a model. A name that is taken stays where it is."""
        self.get(digest)
        path = self._name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(path, "x", encoding="ascii") as file:
                file.write(digest)
        except FileExistsError:
            if (held := self.named(name)) != digest:
                raise BadInput(f"the name {name!r} is taken by object {held[:12]} and does not move: take another name, such as the next version.") from None

    def named(self, name: str) -> str:
        """The digest under a name."""
        try:
            return self._name(name).read_text(encoding="ascii")
        except OSError:
            raise BadInput(f"there is no name {name!r} in this store; it has {', '.join(self.names()) or 'none'}.") from None

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "names").glob("*"))

    def objects(self) -> list[str]:
        return sorted(path.parent.name + path.name for path in (self.folder / "objects").glob("??/*") if path.suffix != ".part")

    def damaged(self) -> list[str]:
        """What no longer has the bytes of its name: one line each, of objects, and of names whose object is gone or damaged."""
        lines = []
        for digest in [*self.objects(), *(self.named(name) for name in self.names())]:
            try:
                self.get(digest)
            except BadInput as error:
                lines.append(str(error))
        return list(dict.fromkeys(lines))

    def _path(self, digest: str) -> Path:
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise BadInput(f"{str(digest)[:40]!r} is no digest: it is 64 hexadecimal digits, as put returns them.")
        return self.folder / "objects" / digest[:2] / digest[2:]

    def _name(self, name: str) -> Path:
        if not isinstance(name, str) or not re.fullmatch(r"[0-9a-z]+([._-][0-9a-z]+)*", name):
            raise BadInput(f"{str(name)[:40]!r} is no name: use small letters and digits, with '-', '_' or '.' between, such as 'digits-v1'.")
        return self.folder / "names" / name
