"""The low watermark of each partition: the offset that may be committed.

Users' batches finish out of order inside a partition, so the offset to commit is the smallest unfinished offset. If
nothing is unfinished it is the consumer's position, since transaction markers take offsets too.
"""

from collections import deque
from collections.abc import Mapping

from corlld.records import Record, Tenure


class LowWatermark:
    """The unfinished records of one tenure. Offsets start in increasing order and finish in any order."""

    def __init__(self) -> None:
        # Offset and time, ascending; finished offsets leave from the left.
        self._started: deque[tuple[int, float]] = deque()
        self._unfinished: set[int] = set()
        self._newest = -1

    def start(self, offset: int, now: float) -> None:
        """Note that a record was delivered, at `now` in seconds. Raises ValueError if offsets do not increase."""
        if offset <= self._newest:
            raise ValueError(f"offset {offset} started after {self._newest}")
        self._newest = offset
        self._started.append((offset, now))
        self._unfinished.add(offset)

    def finish(self, offset: int) -> None:
        """Note that the record's outcome is durable. Raises KeyError if the offset is not unfinished."""
        self._unfinished.remove(offset)
        while self._started and self._started[0][0] not in self._unfinished:
            self._started.popleft()

    def committable(self, position: int) -> int:
        """Return the smallest unfinished offset, or `position` if nothing is unfinished."""
        return self._started[0][0] if self._started else position

    def age_seconds(self, now: float) -> float:
        """Return the seconds since the smallest unfinished offset was delivered; 0 if nothing is unfinished."""
        return now - self._started[0][1] if self._started else 0.0

    @property
    def unfinished(self) -> int:
        return len(self._unfinished)

    @property
    def finished_ahead(self) -> int:
        """Return how many finished records wait behind the smallest unfinished offset."""
        return len(self._started) - len(self._unfinished)


class LowWatermarks:
    """The low watermark of every live tenure.

    Outcomes of ended tenures are ignored: the partition's next owner replays those records.
    """

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
        """Return the offset to commit for each live tenure whose position is known."""
        return {tenure: self._live[tenure].committable(p) for tenure, p in positions.items() if tenure in self._live}

    def ages_seconds(self, now: float) -> dict[Tenure, float]:
        """Return, for each live tenure, the seconds since its oldest unfinished record was delivered; 0 with none."""
        return {tenure: watermark.age_seconds(now) for tenure, watermark in self._live.items()}

    def held_up(self, limit: int) -> list[Tenure]:
        """Return the live tenures in which at least `limit` finished records wait behind an unfinished one."""
        return [tenure for tenure, watermark in self._live.items() if watermark.finished_ahead >= limit]

    @property
    def unfinished(self) -> int:
        return sum(watermark.unfinished for watermark in self._live.values())
