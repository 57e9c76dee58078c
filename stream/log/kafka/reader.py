"""Reading a topic of Kafka from any offset: what is asked for, plus what will be asked for next.

A fetch asks for all partitions at once. While its records are used the next one is under way, so a
reader that goes on where it stopped seldom waits; one that jumps is answered by a fetch of its own.
Memory holds at most one fetch's records and the bytes of the next.
"""

import threading
import time
from collections.abc import Mapping
from typing import Any

import kafka.errors
from kafka import TopicPartition
from kafka.admin import OffsetSpec
from kafka.protocol.consumer import FetchRequest

from stream.errors import LogError
from stream.log.base import Record
from stream.log.kafka.batches import decode_batches
from stream.log.kafka.client import Attempts, KafkaClient

FETCH_BYTES_MAX = 16 << 20
PARTITION_BYTES_MAX = 1 << 20
WAIT_S_MAX = 0.5  # that one fetch waits at the broker; a longer wait is several
BEHIND_END_S = 0.02  # how often a read that waits behind a partition's end looks again
SHARED_WAIT_S = 0.02  # when several nodes are asked
FETCH_VERSION_MAX = 12


class _Ahead:
    """Records of one partition that were fetched and not asked for yet, from `offset` on."""

    def __init__(self, offset: int, records: list[Record]) -> None:
        self.offset = offset
        self._records = records
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._records)

    def take(self, max_records: int, max_bytes: int) -> list[Record]:
        records, start = self._records, self._at
        end, size = start, 0
        limit = min(len(records), start + max_records)
        while end < limit:
            size += len(records[end].key) + len(records[end].value)
            if end > start and size > max_bytes:
                break
            end += 1
        self._at = end
        taken = records if end - start == len(records) else records[start:end]
        self.offset = taken[-1].offset + 1
        return taken


class TopicReader:
    """Reads one topic, for one thread at a time."""

    def __init__(self, client: KafkaClient, topic: str, told: str) -> None:
        """`topic` is the cluster's name for it, `told` ours."""
        self._client = client
        self._topic = topic
        self._told = told
        self._ahead: dict[int, _Ahead] = {}
        self._under_way: dict[int, tuple[dict[int, int], Any]] = {}  # node -> ({partition: offset}, future)
        # partition -> (offset asked for, offset of the next record there is): what is between is gone
        self._jumps: dict[int, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connection; a read that waits ends with an error."""
        self._client.close()

    def read(
        self, offsets: Mapping[int, int], max_records: int, max_bytes: int, wait_s: float
    ) -> dict[int, list[Record]]:
        """As `Log.read_any` says.

        Raises:
            LogAwayError: the cluster does not answer.
            LogError: it refuses, or a record is damaged.
        """
        with self._lock:
            deadline = time.monotonic() + wait_s
            if self._under_way and all(future.is_done for _, future in self._under_way.values()):
                self._take_answers()
            while True:
                here = [p for p, offset in offsets.items() if self._has(p, offset)]
                if here:
                    found = {p: self._ahead[p].take(max_records, max_bytes) for p in here}
                    self._send_next(
                        {p: found[p][-1].offset + 1 if p in found else o for p, o in offsets.items()}
                    )
                    return found
                began = time.monotonic()
                left_s = max(deadline - began, 0.0)
                if offsets:
                    self._fetch(offsets, min(left_s, WAIT_S_MAX))
                if any(self._has(p, offset) for p, offset in offsets.items()):
                    continue
                now = time.monotonic()
                if now >= deadline:
                    return {}
                # an offset behind the end is answered at once, whatever the fetch was to wait
                time.sleep(max(min(deadline, began + BEHIND_END_S) - now, 0.0))

    def _has(self, partition: int, offset: int) -> bool:
        ahead = self._ahead.get(partition)
        return bool(ahead) and ahead is not None and ahead.offset == offset

    def _fetch(self, offsets: Mapping[int, int], wait_s: float) -> None:
        """Ask for records of all partitions, and wait for the answer."""
        attempts = Attempts(self._client.settings.away_after_s)
        what = f"reading topic {self._topic!r}"
        if self._under_way:
            self._take_answers()  # what went wrong there will again, and is told then
            if any(self._has(p, offset) for p, offset in offsets.items()):
                return
        while True:
            jumps = dict(self._jumps)
            problem = self._send(offsets, wait_s) or self._take_answers()
            if problem is not None:
                self._client.judge(what, problem)
                if not attempts.wait():
                    raise self._client.away(what, problem)
                self._client.refresh(self._topic)
            elif self._jumps == jumps:
                return

    def _send_next(self, offsets: Mapping[int, int]) -> None:
        """Ask for what comes behind what was taken, unless it is here or under way."""
        wanted = {p: o for p, o in offsets.items() if not self._has(p, o)}
        if wanted and not self._under_way:
            self._send(wanted, 0.0)

    def _send(self, offsets: Mapping[int, int], wait_s: float) -> kafka.errors.KafkaError | None:
        """Send fetches; an error if there is a partition whose leader is not known."""
        client = self._client
        leaders = client.leaders(self._topic, list(offsets))
        if len(leaders) < len(offsets):
            client.refresh(self._topic)
            leaders = client.leaders(self._topic, list(offsets))
            if len(leaders) < len(offsets):
                return kafka.errors.LeaderNotAvailableError()
        by_node: dict[int, dict[int, int]] = {}
        for partition, node in leaders.items():
            by_node.setdefault(node, {})[partition] = offsets[partition]
        # each node answers for itself: none may hold up long what another one has
        wait_s = wait_s if len(by_node) == 1 else min(wait_s, SHARED_WAIT_S)
        for node, wanted in by_node.items():
            self._under_way[node] = wanted, client.begin(node, self._request(wanted, wait_s))
        return None

    def _take_answers(self) -> kafka.errors.KafkaError | None:
        """Wait for all that is under way and keep its records; the last error, if any."""
        problem: kafka.errors.KafkaError | None = None
        under_way, self._under_way = self._under_way, {}
        for wanted, future in under_way.values():
            try:
                response = self._client.finish(future)
            except kafka.errors.KafkaError as error:
                problem = error
                continue
            if response.error_code:
                problem = kafka.errors.for_code(response.error_code)()
            for topic in response.responses:
                for part in topic.partitions:
                    problem = self._keep(part, wanted[part.partition_index]) or problem
        return problem

    def _keep(self, part: Any, asked: int) -> kafka.errors.KafkaError | None:
        """Keep the records of one partition, from the offset that was asked for; the error, if any."""
        partition = part.partition_index
        error = kafka.errors.for_code(part.error_code)
        if error is kafka.errors.OffsetOutOfRangeError:
            place = TopicPartition(self._topic, partition)
            found = self._client.call(
                f"reading the ends of topic {self._topic!r}",
                lambda admin: admin.list_partition_offsets({place: OffsetSpec.EARLIEST}),
            )
            if found[place].offset > asked:
                self._jumps[partition] = asked, found[place].offset
            return None  # else it is behind the end, where there is nothing yet
        if error is not kafka.errors.NoError:
            return error()
        start = self._start(partition, asked)
        try:
            records, behind = decode_batches(bytes(part.records or b""), self._told, partition, start)
        except (ValueError, IndexError) as damage:
            raise LogError(
                f"{self._client}: topic {self._topic!r}, partition {partition}: {damage}"
            ) from None
        if not records and behind > start:
            self._jumps[partition] = asked, behind  # only what other producers' transactions leave behind
        if records or not self._has(partition, asked):
            self._ahead[partition] = _Ahead(asked, records)
        return None

    def _start(self, partition: int, asked: int) -> int:
        jump = self._jumps.get(partition)
        if jump is not None and jump[0] == asked:
            return jump[1]
        return max(asked, 0)

    def _request(self, offsets: Mapping[int, int], wait_s: float) -> FetchRequest:
        topic = FetchRequest.FetchTopic
        parts = [
            topic.FetchPartition(
                partition=partition,
                current_leader_epoch=-1,
                fetch_offset=self._start(partition, offset),
                last_fetched_epoch=-1,
                log_start_offset=-1,
                partition_max_bytes=PARTITION_BYTES_MAX,
            )
            for partition, offset in offsets.items()
        ]
        return FetchRequest(
            max_wait_ms=int(wait_s * 1e3),
            min_bytes=1,
            max_bytes=FETCH_BYTES_MAX,
            isolation_level=0,
            session_id=0,
            session_epoch=-1,  # no session: each fetch says all that it wants
            topics=[topic(topic=self._topic, partitions=parts)],
            forgotten_topics_data=[],
            rack_id="",
            max_version=FETCH_VERSION_MAX,
        )
