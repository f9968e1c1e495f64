"""Seeds computed from whatever tells one draw from another."""

from __future__ import annotations

import hashlib


def hash_seed(parts: tuple[object, ...]) -> int:
    """A 48-bit seed from any printable parts."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=6).digest(), "little")


def seed_of(*parts: object) -> int:
    """A 56-bit seed from any printable parts."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")
