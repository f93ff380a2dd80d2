"""A rate, as people write it."""

import re
from dataclasses import dataclass

PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}

_RATE = re.compile(rf"([1-9][0-9]{{0,8}})/({'|'.join(PERIODS)})")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many seconds: a burst of `count`, then a smooth refill."""

    count: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """`60/minute` and the like. Raises ValueError."""
        match = _RATE.fullmatch(text)
        if match is None:
            raise ValueError(f"should be <count>/<{'|'.join(PERIODS)}>, such as 60/minute")
        return cls(int(match[1]), PERIODS[match[2]])
