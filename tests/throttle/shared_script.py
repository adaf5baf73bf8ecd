"""The script of decisions on a real server, asked without a limiter."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import redis

from presence_server.redis_io.keys import Keys
from presence_server.throttle.batch import DecisionBatch, DecisionRow, Verb, verdicts_of
from presence_server.throttle.flight_calls import Answers, script_call_of
from presence_server.throttle.rows import row_of
from presence_server.throttle.rule import Rule
from tests.support.redis_server import RedisServer

KEYS = Keys("ps")
MS = 1_000
SECOND_US = 1_000 * MS
HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US


class Shared:
    """The script on a real server, and how it is asked."""

    def __init__(self, server: RedisServer) -> None:
        self.client = redis.Redis.from_url(server.url)
        self.client.flushall()
        self.node = "node"
        """Who asks."""
        self.now_us = 0
        self.drawn_us = 0
        """What the script takes for the server's time; 0: the server's."""

    def ask(self, verb: str, rules: list[Rule], key: str, cost: int | str) -> Any:
        """Return what the store says of one decision."""
        (answer,) = self.ask_all([(verb, rules, key, cost)])
        return answer if isinstance(answer, str) else verdicts_of(answer)

    def ask_all(self, asked: Sequence[tuple[str, list[Rule], str, int | str]]) -> list[Any]:
        batch = DecisionBatch(0, 0)
        for verb, rules, key, cost in asked:
            places = [KEYS.throttle(rule.place, key) for rule in rules]
            batch.add_decision(
                places, DecisionRow(cast("Verb", verb), cost, tuple(row_of(rule) for rule in rules)), print
            )
        return self.ask_batch(batch)

    def ask_batch(self, batch: DecisionBatch) -> list[Any]:
        call = script_call_of([batch], KEYS.purge_channel(), self.node)
        command = [*call.by_text()]
        if self.drawn_us:
            command[1] = str(command[1]).replace("call('TIME')", "{ ARGV[5], ARGV[6] }")
            command += map(str, divmod(self.drawn_us, 1_000_000))
        answered = self.client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py
        said = msgspec.msgpack.decode(answered, type=Answers, strict=False)
        self.now_us = said.now_us
        return list(said.answers)
