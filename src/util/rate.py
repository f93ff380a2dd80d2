"""Rates such as `60/minute`."""

import re
from dataclasses import dataclass

PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}

_RATE = re.compile(rf"([1-9][0-9]{{0,8}})/({'|'.join(PERIODS)})")


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` requests in `seconds`: a burst of `count`, then a steady refill."""

    count: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """Parse a text such as `60/minute`. Raises ValueError."""
        match = _RATE.fullmatch(text)
        if match is None:
            raise ValueError(f"should be <count>/<{'|'.join(PERIODS)}>, such as 60/minute")
        return cls(int(match[1]), PERIODS[match[2]])
