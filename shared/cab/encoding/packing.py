"""Bodies that came compressed although nobody asked: some servers and their caches do."""

from __future__ import annotations

import zlib
from collections.abc import Iterator


def unpacked(body: bytes, *, most: int) -> Iterator[bytes]:
    """As it came, then without gzip, zlib and the bare deflate that some take for it (RFC 9110 section 8.4.1.2). What unpacks
    into more than `most` bytes is not unpacked."""
    yield body
    for kind in (zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS):
        unpacker = zlib.decompressobj(kind)
        try:
            data = unpacker.decompress(body, most)
        except zlib.error:
            continue
        if unpacker.eof and not unpacker.unused_data:
            yield data
