"""How a compact trace is told from other files, by whoever reads one and whoever does not."""

HVT_MAGIC = b"\x89HVT\r\n\x1a\n"
"""What a compact trace starts with."""
_FIRST = (HVT_MAGIC[:1], bytes([HVT_MAGIC[0] & 0x7F]))


def is_hvt_head(head: bytes) -> bool:
    """Return whether a file that starts with *head* is, or was, a compact trace."""
    return head[1:4] == HVT_MAGIC[1:4] and head[:1] in _FIRST
