"""Versions in `If-Match` (RFC 9110, 13.1.1)."""

import math
from typing import Final

from presence_server.api.problems import ProblemError

MATCH_MAX: Final = int(math.log10(2**53))
"""Digits of the longest version."""


def if_match(header: str | None) -> int:
    """Return the version that a change is for; `*` would overwrite what nobody has read."""
    if header is None:
        raise ProblemError(428, 'If-Match: "version" is needed, so that no change is overwritten unseen')
    text = header.strip()
    digits = text[1:-1]
    if not (
        text[:1] == text[-1:] == '"' and digits.isascii() and digits.isdecimal() and len(digits) <= MATCH_MAX
    ):
        raise ProblemError(400, 'If-Match must be one version in quotes, such as "3"')
    return int(digits)
