"""Malformed records of every kind become dead letters with a reason of the closed set, and the daemon goes on.

`make test` generates 20,000 malformed records, `make test-fuzz` 1,000,000. CORLLD_TEST_FUZZ_SEED gives other records.
"""

import json
import os
import resource
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from corlld.errors import InvalidEvent, InvalidReason
from corlld.events.decoder import EventDecoder
from corlld.loop.attempts import AttemptJournal
from corlld.loop.intake import Intake
from corlld.loop.jobs import Jobs
from corlld.loop.offsets import LowWatermarks
from corlld.loop.poison import Poison
from corlld.observer import Observer
from corlld.records import DeadLetter, Record
from corlld.settings.sections import DeadLetterSettings, EventSettings
from corlld.sources.dead_letters import letter_headers, letter_key, read_letter
from tests.fuzz.malformed import MalformedRecord, malformed_records, variants
from tests.support.daemon_parts import PSEUDONYMS
from tests.support.decoding import CANARY
from tests.support.fakes import MemoryAttempts, MemoryDeadLetters, tenure

RECORDS = int(os.environ.get("CORLLD_TEST_FUZZ_RECORDS", "20000"))  # malformed records over all shards
SHARDS = 4
SEED = int(os.environ.get("CORLLD_TEST_FUZZ_SEED", "20261130"))
MALFORMED_PER_EXAMPLE = 9  # about; the other records are valid by chance
MOST_GROWTH_BYTES = 256 << 20


class Fate:
    """Takes generated records in as the daemon does, and keeps counts alone."""

    def __init__(self, *, supports_messages: bool, tombstones_erase: bool, key_required: bool) -> None:
        events = EventSettings(tombstones_erase=tombstones_erase, max_record_bytes=1 << 18, max_text_chars=1 << 16)
        self._decoder = EventDecoder(events, supports_messages=supports_messages, key_required=key_required)
        self._letters = MemoryDeadLetters()
        self._watermarks = LowWatermarks()
        self._watermarks.begin(tenure())
        self._jobs = Jobs(1.0, lambda: 0.0, Observer())
        pool = ThreadPoolExecutor(1)
        journal = AttemptJournal(MemoryAttempts(), self._jobs, pool, max_crashes=3)
        poison = Poison(DeadLetterSettings(max_share=1.0), self._decoder, None, self._jobs, pool, journal)
        poison.begin(tenure(), paused=False)
        self._intake = Intake(
            self._decoder,
            PSEUDONYMS,
            self._letters,
            self._watermarks,
            journal,
            poison,
            Observer(),
            self._jobs,
        )
        self._offset = 0
        self.valid = 0
        self.reasons: Counter[str] = Counter()

    def take(self, malformed: MalformedRecord) -> None:
        key, value, headers = malformed
        record = Record(tenure(), self._offset, self._offset + 1, key, value, tuple(headers))
        self._offset += 1
        self._watermarks.start(record, 0.0)
        arrival = self._intake.admit(record, 0.0)
        if arrival is not None:
            assert not self._letters.letters
            assert key is None or arrival.event.user_id.encode() == key
            self._watermarks.finish(record)
            self.valid += 1
            return
        (letter,) = self._letters.letters
        self._letters.letters.clear()
        self._jobs.handle_completions()
        assert self._watermarks.unfinished == 0, "an acknowledged dead letter finishes its record"
        self._check(letter)
        self.reasons[letter.error.reason.value] += 1

    def _check(self, letter: DeadLetter) -> None:
        error = letter.error
        assert type(error) is InvalidEvent
        assert error.reason in InvalidReason
        assert error.__context__ is None, "a context could quote the record"
        written = letter_headers(letter)
        assert CANARY not in f"{letter_key(letter)}{written}{error!r}", "a letter quotes the record"
        stored = [(name, text.encode()) for name, text in written.items()]
        read = read_letter(letter_key(letter).encode(), letter.record.value, stored, None)
        assert read is not None
        assert read.reason == error.reason.value


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_malformed_record_becomes_a_dead_letter_with_a_known_reason(shard: int) -> None:
    fate = Fate(supports_messages=shard % 2 == 0, tombstones_erase=shard < 2, key_required=shard != 3)
    wanted = RECORDS // SHARDS

    # hypothesis starts anew in each round, so that its memory is bounded by a round's, not by the number of records.
    before, number = peak_bytes(), 0
    while fate.reasons.total() < wanted:
        round_size = min(1_000, (wanted - fate.reasons.total()) // MALFORMED_PER_EXAMPLE + 10)

        @seed(SEED * 1_000_003 + shard * 10_007 + number)
        @settings(
            max_examples=round_size,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        )
        @given(malformed_records, st.integers(0, 2**32))
        def take(record: MalformedRecord, salt: int) -> None:
            for variant in variants(record, Random(salt)):
                fate.take(variant)

        with capture_logs() as logged:
            take()
        assert CANARY not in str(logged), "a log line quotes a record"
        number += 1
        if number == 1:
            before = peak_bytes()
    assert peak_bytes() - before < MOST_GROWTH_BYTES, "memory grows with the number of records"
    total = fate.reasons.total()
    print(json.dumps({"shard": shard, "malformed": total, "valid": fate.valid, "reasons": fate.reasons}))
    assert len(fate.reasons) >= 9, f"the records are too much alike: {fate.reasons}"
    assert total >= wanted
