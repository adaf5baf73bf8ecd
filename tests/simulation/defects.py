"""Defects that this project had, to be put back: a check that cannot fail proves nothing.

The numbers are those of the list that they were found with. Not here is 2: what acknowledging 24,000 channels costs
cannot be seen on virtual time (tests/redis_io/test_subscriber.py counts it); and of 15 what was suspected only. Nothing
breaks by 5a in the plans that forget scripts, nor by 5b since repeated claims raise no epochs. `make simulate DEFECT=7`
finds a seed anew where the code has changed so much that the one given here does not break any more.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Final, NamedTuple

from tests.simulation import old_behaviour


class Defect(NamedTuple):
    """One defect: what was wrong, and what puts it back for a while."""

    what: str
    put_back: Callable[[], AbstractContextManager[None]]
    seed: int = 0
    """Whose drawn plan finds it; 0: none that was played does."""
    breaks: str = ""
    """The invariant that breaks then."""
    among: Callable[[], AbstractContextManager[None]] = nullcontext
    """What the world is like with the defect and without it."""


DEFECTS: Final[dict[str, Defect]] = {
    "1": Defect(
        "FLUSHALL with connections kept is not taken for a return",
        old_behaviour.no_lost_history,
        100_001,
        "api_exact",
    ),
    "3": Defect(
        "a view forgotten during a rejoin is waited for",
        old_behaviour.forgotten_views_waited_for,
        100_163,
        "nothing_waits",
    ),
    "4": Defect(
        "an older record is adopted over newer local state",
        old_behaviour.older_record_adopted,
        100_091,
        "updates_kept",
    ),
    "5a": Defect(
        "scripts that the store knows run before the forgotten one they come after",
        old_behaviour.known_scripts_run_first,
    ),
    "5b": Defect(
        "a claim that is repeated raises the epoch, and its client gets no token",
        old_behaviour.no_fresh_token,
    ),
    "5c": Defect(
        "a member whose join is under way is taken for one without a connection",
        old_behaviour.joins_under_way_lingered,
        100_189,
        "replaced_by_another",
    ),
    "6": Defect(
        "nobody asks rooms to hold after a silence", old_behaviour.no_hold, 100_105, "no_false_leave"
    ),
    "7": Defect(
        "who has no members is not told that another node has its connection",
        old_behaviour.watchers_not_replaced,
        100_117,
        "one_connection",
    ),
    "8": Defect(
        "deadlines go by the store's clock, whatever it does",
        old_behaviour.deadlines_by_the_clock,
        100_113,
        "rosters_exact",
    ),
    "9": Defect(
        "a node that died is believed about its users",
        old_behaviour.dead_nodes_believed,
        100_079,
        "api_exact",
    ),
    "10": Defect(
        "a room is swept once a look, however many are due",
        old_behaviour.one_sweep_a_look,
        100_039,
        "api_exact",
        partial(old_behaviour.evicting, 1),
    ),
    "11": Defect(
        "a message whose PUBLISH was carried out is delivered here again",
        old_behaviour.delivered_here_again,
        100_005,
        "never_twice",
    ),
    "12": Defect(
        "what the store says is never trusted after a cut",
        old_behaviour.never_trusted,
        100_015,
        "leaves_heard",
    ),
    "13": Defect(
        "members that a restored store brings back are believed",
        old_behaviour.restored_members_believed,
        101_289,
        "stays_gone",
    ),
    "14a": Defect("fences are kept for as long as their room", old_behaviour.fences_kept, 100_003, "bounded"),
    "14b": Defect(
        "every departure on an isolated node is kept", old_behaviour.all_departures_kept, 100_037, "bounded"
    ),
    "settled-never": Defect(
        "no node says that its members are entered again",
        old_behaviour.never_settled,
        100_345,
        "leaves_heard_on_return",
    ),
    "settled-early": Defect(
        "a node says at once that its members are entered again, though the store was wiped meanwhile",
        old_behaviour.settled_at_once,
        1_000_000_365,
        "no_false_leave",
    ),
    "settled-any": Defect(
        "a node's word that its members are entered counts whatever it was of",
        old_behaviour.settled_whatever_generation,
        1_000_001_089,
        "no_false_leave",
    ),
    "compare-none": Defect(
        "who has no members is not compared with the store's claims on return",
        old_behaviour.nothing_compared,
        100_117,
        "one_connection",
    ),
    "claim-overtaken": Defect(
        "a claim is repeated whatever another node has claimed since it was read",
        old_behaviour.claims_overtaken,
        1_000_000_103,
        "replaced_by_another",
    ),
    "clock-ignored": Defect(
        "a step of the store's clock is ignored", old_behaviour.clock_ignored, 100_205, "no_false_leave"
    ),
    "gap-ignored": Defect(
        "a delta is applied though one before it is missing",
        old_behaviour.gaps_ignored,
        100_051,
        "rosters_exact",
    ),
    "isolated-refuses": Defect(
        "a node without contact refuses joins", old_behaviour.isolated_refuses, 100_037, "served"
    ),
    "isolated-mute": Defect(
        "what is published on a node without contact is told to nobody",
        old_behaviour.isolated_mute,
        100_037,
        "told_on_one_node",
    ),
    "reversed": Defect(
        "messages of one tick are told in reverse", old_behaviour.messages_reversed, 100_009, "in_order"
    ),
    "own-told": Defect("who sends a message is told it", old_behaviour.senders_told, 100_001, "in_order"),
    "all-timeout": Defect(
        "every leave says that the member was lost", old_behaviour.all_timed_out, 100_009, "reasons"
    ),
    "readers-closed": Defect(
        "clients that read are closed as too slow",
        old_behaviour.readers_closed,
        100_001,
        "closed_for_a_reason",
    ),
    "lag-forgotten": Defect(
        "who did not read is not told again of rooms that changed meanwhile",
        old_behaviour.lag_forgotten,
        100_045,
        "rosters_exact",
    ),
}
"""By the number that they had when they were found, or a name."""
