"""What is always promised of a node's service to its clients, with contact or without."""

from typing import Final

from presence_server.client.subscriptions import TRANSIENT
from presence_server.protocol.codes import ABNORMAL, FORBIDDEN, KICKED, REPLACED, TOO_SLOW
from tests.simulation.chronicle import NEVER, Life
from tests.simulation.evidence import Broken, Run
from tests.simulation.telling import was_there
from tests.simulation.truth import DELIVERY_MS, SLACK_MS, Truth

SERVED_MS: Final = 5_000
"""How long a node may take to answer: it notices that the store does not answer, and rejoins once or twice."""
WELCOMED_MS: Final = 2_500
"""How long a node may take to welcome a client."""
STOPPED: Final = frozenset(("frozen", "killed"))


def served(run: Run) -> Broken:
    """Who connects to a node that runs is let in, and what it asks is answered, not refused, also without contact."""
    truth = run.truth
    for life in run.chronicle.lives:
        end_ms = life.asked_ms + WELCOMED_MS
        if (
            life.was_ready
            and life.welcomed_ms is None
            and life.over_ms > end_ms
            and _runs(truth, life, end_ms)
        ):
            yield f"{life} was not welcomed within {WELCOMED_MS} ms of {life.asked_ms}"
    for request in run.chronicle.requests:
        life, end_ms = request.life, request.asked_ms + SERVED_MS
        if request.refused in TRANSIENT:
            yield f"{life} was refused {request.what} at {request.answered_ms}: {request.refused}"
        if request.answered_ms is not None and request.answered_ms <= end_ms:
            continue
        end_ms = life.reads_by_ms(request.asked_ms, end_ms)
        if life.over_ms > end_ms and not life.dozes and _runs(truth, life, end_ms, request.asked_ms):
            yield f"{life} asked {request.what} at {request.asked_ms}, answered at {request.answered_ms}"


def told_on_one_node(run: Run) -> Broken:
    """A message that is published on a node that knows of having no contact reaches every watcher on that node."""
    truth = run.truth
    for publication in run.chronicle.publications.values():
        sent_ms, author = publication.sent_ms, publication.life
        late_ms = (publication.ok_ms or sent_ms) + DELIVERY_MS
        if author is None or truth.superseded_ms(author) < late_ms or author.over_ms < late_ms:
            continue
        if not truth.is_isolated(author.node, sent_ms, late_ms):
            continue
        got = {life for _, life in publication.got} | {author}
        for stay in run.chronicle.stays:
            beside = (stay.room, stay.life.node) == (publication.room, publication.node)
            if beside and stay.life not in got and was_there(truth, stay, sent_ms, late_ms):
                yield (
                    f"{stay.life} was in {stay.room} and did not get message {publication.number} of {author} on its "
                    f"node, sent at {sent_ms}, ok at {publication.ok_ms}"
                )


def _runs(truth: Truth, life: Life, end_ms: int, begin_ms: int | None = None) -> bool:
    """Tell whether a connection's node ran all the time."""
    begin_ms = life.asked_ms if begin_ms is None else begin_ms
    return not any(
        fault.kind in STOPPED
        and life.node in fault.nodes
        and fault.begin_ms <= end_ms
        and begin_ms <= fault.end_ms
        for fault in truth.chronicle.faults
    )


def closed_for_a_reason(run: Run) -> Broken:
    """A connection is closed only for what its code says: a command, a ban, a resume elsewhere, or not reading."""
    for life in run.chronicle.lives:
        ended_ms = life.ended_ms
        if ended_ms is None or ended_ms > (life.hung_up_ms or NEVER) or life.code == REPLACED.code:
            continue
        if not _has_reason(run, life, ended_ms):
            yield f"{life} was closed with {life.code} at {ended_ms}, for no reason"


def _has_reason(run: Run, life: Life, ended_ms: int) -> bool:
    truth = run.truth
    if life.code == ABNORMAL.code:
        return not life.was_ready or not _runs(truth, life, ended_ms)
    if life.code == TOO_SLOW.code:
        return bool(life.dozes)
    about = [
        command
        for command in run.chronicle.commands
        if command.kind != "remove"
        and command.asked_ms <= ended_ms
        and (command.cid == life.cid or command.user == life.user)
    ]
    if life.code == FORBIDDEN.code:
        return any(command.ban_ms is not None for command in about)
    if life.code == KICKED.code:
        earlier_ms = min((other.asked_ms for other in truth.lives(life.cid)), default=life.asked_ms)
        return any(earlier_ms <= (command.answered_ms or NEVER) + SLACK_MS for command in about)
    return False
