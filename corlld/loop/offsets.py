"""The low watermark of each partition: what may be committed.

Users' batches finish out of order inside a partition, so the offset to commit is the smallest unfinished one; with
nothing unfinished it is the consumer's position (transaction markers take offsets too).
"""

from collections import deque
from collections.abc import Mapping

from corlld.records import Record, Tenure


class LowWatermark:
    """Starts and finishes of one tenure's records. Offsets start in increasing order and finish in any."""

    def __init__(self) -> None:
        self._started: deque[tuple[int, float]] = deque()  # with when; ascending, finished ones leave from the left
        self._unfinished: set[int] = set()
        self._newest = -1

    def start(self, offset: int, now: float) -> None:
        """A record was delivered, at `now` in seconds. Raises ValueError where offsets do not increase."""
        if offset <= self._newest:
            raise ValueError(f"offset {offset} started after {self._newest}")
        self._newest = offset
        self._started.append((offset, now))
        self._unfinished.add(offset)

    def finish(self, offset: int) -> None:
        """The record's outcome is durable. Raises KeyError where it is not unfinished."""
        self._unfinished.remove(offset)
        while self._started and self._started[0][0] not in self._unfinished:
            self._started.popleft()

    def committable(self, position: int) -> int:
        """The smallest unfinished offset, or `position` with nothing unfinished."""
        return self._started[0][0] if self._started else position

    def age_seconds(self, now: float) -> float:
        """Since the smallest unfinished offset was delivered; 0 with nothing unfinished."""
        return now - self._started[0][1] if self._started else 0.0

    @property
    def unfinished(self) -> int:
        return len(self._unfinished)


class LowWatermarks:
    """The low watermark of every live tenure. Outcomes of ended tenures are ignored: another owner replays them."""

    def __init__(self) -> None:
        self._live: dict[Tenure, LowWatermark] = {}

    def begin(self, tenure: Tenure) -> None:
        self._live[tenure] = LowWatermark()

    def end(self, tenure: Tenure) -> None:
        self._live.pop(tenure, None)

    def is_live(self, tenure: Tenure) -> bool:
        return tenure in self._live

    def start(self, record: Record, now: float) -> None:
        self._live[record.tenure].start(record.offset, now)

    def finish(self, record: Record) -> None:
        if (watermark := self._live.get(record.tenure)) is not None:
            watermark.finish(record.offset)

    def committable(self, positions: Mapping[Tenure, int]) -> dict[Tenure, int]:
        """The offset to commit for each live tenure whose position is known."""
        return {tenure: self._live[tenure].committable(p) for tenure, p in positions.items() if tenure in self._live}

    def ages_seconds(self, now: float) -> dict[Tenure, float]:
        """Of every live tenure: since its oldest unfinished record was delivered; 0 with none."""
        return {tenure: watermark.age_seconds(now) for tenure, watermark in self._live.items()}

    @property
    def unfinished(self) -> int:
        return sum(watermark.unfinished for watermark in self._live.values())
