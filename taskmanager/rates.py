"""How a rate limit is written: `100/minute`, `100` (a minute) or `0` (none). Counts nothing."""

import functools
import re
from typing import NamedTuple

SECONDS_OF = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
SYNTAX = "N/second, N/minute, N/hour or N/day (N alone means N/minute, 0 means no limit)"

_RATE = re.compile(r"(0|[1-9][0-9]{0,8})|([1-9][0-9]{0,8})\s*(?:/|\sper\s)\s*([a-z]+?)s?")


class Rate(NamedTuple):
    """`amount` requests in each window of one `unit`; amount 0: as many as one likes."""

    amount: int
    unit: str = "minute"

    @property
    def seconds(self) -> int:
        return SECONDS_OF[self.unit]

    @property
    def is_unlimited(self) -> bool:
        return self.amount == 0

    def __str__(self) -> str:
        return f"{self.amount}/{self.unit}" if self.amount else "0"


@functools.lru_cache(maxsize=256)
def parse_rate(text: str) -> Rate:
    """The rate that `text` stands for. Raises ValueError, whose text says what to write."""
    found = _RATE.fullmatch(text.strip().lower())
    if found is None or found[3] not in (None, *SECONDS_OF):
        raise ValueError(SYNTAX)
    if found[1] is not None:
        return Rate(int(found[1]))
    return Rate(int(found[2]), found[3])
