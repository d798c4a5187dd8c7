"""A minute of files that were real and are not any more: the reader of GPU code reads each or refuses it in one line, in bounded memory and time."""

import random
import time
import tracemalloc

from mllandscape.cuda import listings
from mllandscape.cuda.kernels import kernels
from tests.test_fatbin import container, header, library, read_or_refused

SECONDS = 60
NUMBERS = [b"\0" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f\0\0\0\0", b"\0\0\0\0\0\0\0\x80", b"\x50\xed\x55\xba", b"\x7fELF"]


def samples() -> list[bytes]:
    """Whole small files, and the beginning, the section headers and a cut of each shipped library."""
    files = [kernel.path.read_bytes() for kernel in kernels()]
    files += [library({b".nv_fatbin": files[-1], b"__nv_relfatbin": container(header(1, 90), b"x" * 8)})]
    for path in listings.library_paths().values():
        data = path.read_bytes()
        files += [data[:200_000], data[-200_000:]]
    return files


def changed(data: bytes, draw: random.Random) -> bytes:
    """Cut, repeated, moved, or with some fields overwritten; mostly near the beginning, where the headers are."""
    data = bytearray(data)
    for _ in range(draw.randint(1, 12)):
        if not data:
            break
        at = draw.randrange(min(len(data), draw.choice([64, 400, len(data)])))
        how = draw.randrange(6)
        if how == 0:
            del data[draw.randrange(len(data)) :]
        elif how == 1:
            data[at : at + 8] = draw.choice(NUMBERS)
        elif how == 2:
            data[at] = draw.randrange(256)
        elif how == 3:
            data[at:at] = data[: draw.randrange(200)]
        elif how == 4:
            del data[at : at + draw.randrange(1, 65)]
        else:
            data[at : at + 2] = draw.randrange(65536).to_bytes(2, "little")
    return bytes(data)


def test_a_minute_of_broken_files(capsys):
    draw, files, tried, slowest = random.Random(8), samples(), 0, 0.0
    tracemalloc.start()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        data = changed(draw.choice(files), draw)
        begun = time.process_time()
        read_or_refused(data)
        slowest = max(slowest, time.process_time() - begun)
        tried += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with capsys.disabled():
        print(f"\n{tried:,} broken files, the slowest took {slowest * 1e3:.1f} ms, peak {peak / 2**20:.1f} MiB of memory")
    assert tried > 1000 and slowest < 5 and peak < 64 * 2**20 + sum(map(len, files))
