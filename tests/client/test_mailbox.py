"""A consumer that does not keep up loses events, never the roster, and is told."""

from collections.abc import AsyncIterator

import anyio
import pytest

from presence_server.client.errors import ConnectionEnded
from presence_server.client.events import Event, Message, Overflow, Signal
from presence_server.client.mailbox import Events, Mailbox

pytestmark = pytest.mark.anyio


def message(n: int) -> Message:
    return Message("lobby", "c1", "ann", n, 1000)


def signal(n: int, key: str = "cursor") -> Signal:
    return Signal("lobby", "c1", "ann", key, n)


async def drain(mailbox: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in mailbox]


async def test_events_come_in_order_and_end_with_the_queue() -> None:
    mailbox = Mailbox(8)
    for n in range(3):
        mailbox.put_event(message(n))
    mailbox.close()
    mailbox.put_event(message(9))
    assert await drain(mailbox) == [message(0), message(1), message(2)]


async def test_what_ended_the_client_comes_after_the_last_event() -> None:
    mailbox = Mailbox(8)
    mailbox.put_event(message(1))
    mailbox.close(ConnectionEnded(4003, "kicked"))
    assert await anext(mailbox) == message(1)
    with pytest.raises(ConnectionEnded, match="4003"):
        await anext(mailbox)


async def test_of_two_signals_under_one_key_the_latest_counts() -> None:
    mailbox = Mailbox(8)
    for event in (signal(1), message(1), signal(2), signal(3, key="typing")):
        mailbox.put_event(event)
    mailbox.close()
    assert await drain(mailbox) == [message(1), signal(2), signal(3, key="typing")]


async def test_signals_are_dropped_first_and_without_a_word() -> None:
    mailbox = Mailbox(3)
    for event in (message(1), signal(1, "a"), signal(2, "b"), message(2), message(3)):
        mailbox.put_event(event)
    mailbox.close()
    assert await drain(mailbox) == [message(1), message(2), message(3)]


async def test_the_oldest_are_dropped_next_and_the_consumer_is_told_how_many() -> None:
    mailbox = Mailbox(2)
    for n in range(5):
        mailbox.put_event(message(n))
    assert len(mailbox) == 2
    assert await anext(mailbox) == Overflow(3)
    assert await anext(mailbox) == message(3)
    for n in (5, 6):
        mailbox.put_event(message(n))
    mailbox.close()
    assert await drain(mailbox) == [Overflow(1), message(5), message(6)]


async def test_waiting_ends_when_an_event_comes() -> None:
    mailbox = Mailbox(8)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            taken: list[Event] = []

            async def take() -> None:
                taken.append(await anext(mailbox))

            tasks.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            mailbox.put_event(message(1))
    assert taken == [message(1)]


async def test_each_open_queue_gets_every_event_until_it_is_closed() -> None:
    events = Events(8)
    events.put(message(1))
    with events.open() as second:
        events.put(message(2))
    events.put(message(3))
    events.close()
    second.close()
    assert await drain(events.main) == [message(1), message(2), message(3)]
    assert await drain(second) == [message(2)]
