"""Independent seeds: each is a hash of its purpose."""

import hashlib


def seeded(*parts: str | int) -> int:
    """Return a 63-bit seed for a purpose, such as ``seeded("order", seed, epoch)``.

    Examples:
        >>> seeded("order", 0, 1) == seeded("order", 1, 0)
        False
    """
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1
