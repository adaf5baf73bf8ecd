"""What the scripts about tokens, nodes, users, commands, bans, the index of rooms and the policy do, in Python.

Each is as its text in `presence/lua/`, `registry/lua/` and `throttle/lua/` says; a test plays both.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from presence_server.presence.port import CLAIM_CHANGED
from tests.simulation.keyspace import Argument, Keyspace, by_score, number, raw, text

Publish = Callable[[str, bytes], int]
FORGOTTEN_MAX: Final = 100
COMMANDS_READ_MAX: Final = 1_000
_pack = msgspec.msgpack.Encoder().encode


class Run(NamedTuple):
    """One run of a script: where it runs, its KEYS and its ARGV."""

    store: Keyspace
    publish: Publish
    keys: Sequence[str]
    argv: Sequence[Argument]


# --- tokens ---


def claim(run: Run) -> int:
    """Claim a connection id."""
    (key,) = run.keys
    epoch, node, node_before, ttl_ms, prefix, suffix, cid, known = run.argv
    kept = run.store.get(key) or {}
    if "ended" in kept:
        return 0
    if text(known) and int(kept.get("epoch", 0)) != int(known):
        return CLAIM_CHANGED
    claimed = max(int(kept.get("epoch", 0)), int(epoch)) + 1
    before = kept.get("node", raw(node_before))
    run.store.hash(key).update(epoch=str(claimed).encode(), node=raw(node), token=raw(epoch))
    run.store.expire(key, int(ttl_ms))
    news = _pack(["claimed", text(cid), claimed])
    for told in (before, raw(node_before)):
        if told != raw(node):
            run.publish(f"{text(prefix)}{told.decode()}{text(suffix)}", news)
    return claimed


def end_tokens(run: Run) -> int:
    """End the resume tokens of a connection id."""
    run.store.hash(run.keys[0])["ended"] = b"1"
    run.store.expire(run.keys[0], int(run.argv[0]))
    return 1


# --- nodes ---


def register(run: Run) -> list[Any]:
    """Say that a node is alive, and hear what it missed."""
    store, now_ms = run.store, run.store.now_ms
    expiry, records, secret_key, gone, incarnations, _, _ = run.keys
    node, record, ttl, secret, secret_ttl_ms, probe, _, remembered, sent, late, least = run.argv
    ttl_ms, remembered_ms, name = int(ttl), int(remembered), text(node)
    run.publish(text(probe), b"")
    alive, died = store.sorted_set(expiry), store.sorted_set(gone)
    for dead, ends_ms in by_score(alive)[:FORGOTTEN_MAX]:
        if ends_ms <= now_ms and now_ms - int(sent) > int(late) and int(sent):
            alive[dead] = now_ms + ttl_ms
        elif ends_ms <= now_ms:
            del alive[dead]
            store.hash(records).pop(dead, None)
            store.hash(incarnations).pop(dead, None)
            died[dead] = ends_ms - ttl_ms
    for later in [other for other, ends_ms in alive.items() if ends_ms > now_ms + ttl_ms]:
        alive[later] = now_ms + ttl_ms
    known = int(name in alive)
    heard = [ends_ms - ttl_ms for other, ends_ms in alive.items() if other != name]
    heard += [heard_ms for other, heard_ms in died.items() if other != name]
    died.pop(name, None)
    for dead in [dead for dead, died_ms in died.items() if died_ms <= now_ms - remembered_ms]:
        del died[dead]
    alive[name] = now_ms + ttl_ms
    store.hash(records)[name] = raw(record)
    store.hash(incarnations)[name] = raw(least)
    for key in (expiry, records, gone, incarnations):
        store.expire(key, remembered_ms + ttl_ms)
    agreed = b""
    if raw(secret):
        agreed = store.get(secret_key) or raw(secret)
        store.set(secret_key, agreed, int(secret_ttl_ms))
    store.drop_empty(gone)
    return [now_ms, agreed, known, *_missed(run), 0 if int(sent) else max(heard, default=0)]


def _missed(run: Run) -> list[Any]:
    """Return the last command, the commands above the last that the node knows, and who is banned."""
    commands_key, bans_key = run.keys[5:]
    last = raw(run.argv[6])
    commands: list[list[bytes]] = []
    bans: list[bytes] = []
    stream: list[tuple[bytes, bytes]] = run.store.get(commands_key) or []
    if not last:
        for name, until_ms in by_score(run.store.get(bans_key) or {}):
            if until_ms > run.store.now_ms:
                bans += [name.encode(), number(until_ms)]
        last = stream[-1][0] if stream else b"0-0"
    elif stream:
        wiped = _place(stream[-1][0])[0] < _place(last)[0]
        known = (-1, -1) if wiped else _place(last)
        for command_id, payload in [entry for entry in stream if _place(entry[0]) > known][
            :COMMANDS_READ_MAX
        ]:
            commands.append([command_id, payload])
            last = command_id
    return [last, commands, bans]


def _place(command_id: bytes) -> tuple[int, int]:
    ms, _, count = command_id.partition(b"-")
    return int(ms), int(count)


def command(run: Run) -> list[Any]:
    """Write a command down, and publish it."""
    store, now_ms = run.store, run.store.now_ms
    commands_key, bans_key = run.keys
    payload, kept_ms, commands_max, channel, ban, until, bans_max = run.argv
    held = 0
    if text(ban):
        bans = store.sorted_set(bans_key)
        for name in [name for name, until_ms in bans.items() if until_ms <= now_ms]:
            del bans[name]
        held = int(text(ban) in bans)
        if int(until) <= now_ms:
            bans.pop(text(ban), None)
        elif not held and len(bans) >= int(bans_max):
            return [b"", 0]
        else:
            bans[text(ban)] = float(int(until))
        if bans:
            store.expire(bans_key, int(max(bans.values())) - now_ms)
        store.drop_empty(bans_key)
    stream: list[tuple[bytes, bytes]] = store.get(commands_key) or []
    last_ms, last_count = _place(stream[-1][0]) if stream else (0, 0)
    place = (now_ms, 0) if now_ms > last_ms else (last_ms, last_count + 1)
    command_id = f"{place[0]}-{place[1]}".encode()
    store.set(commands_key, [*stream, (command_id, raw(payload))][-int(commands_max) :], int(kept_ms))
    run.publish(text(channel), command_id + b" " + raw(payload))
    return [command_id, held]


def bans(run: Run) -> list[bytes]:
    """Read a page of the bans in force."""
    ordered = by_score(run.store.get(run.keys[0]) or {})
    now_ms = run.store.now_ms
    until_ms, name, limit = int(run.argv[0]), text(run.argv[1]), int(run.argv[2])
    start = sum(score <= now_ms for _, score in ordered)
    if name:
        if (name, until_ms) in ordered:
            start = max(start, ordered.index((name, float(until_ms))) + 1)
        else:
            start = max(start, sum(score < until_ms for _, score in ordered))
    page = ordered[start : start + limit]
    return [part for found, score in page for part in (found.encode(), number(score))]


# --- users ---


def opened(run: Run) -> int:
    """Note that a user has a connection on a node."""
    (connections,) = run.keys
    cid, node, at, lease_ms, remembered_ms, incarnation, epoch = run.argv
    now_ms = run.store.now_ms
    noted = run.store.hash(connections)
    for old in [old for old, entry in noted.items() if int(entry.split(b" ")[2]) + int(lease_ms) <= now_ms]:
        del noted[old]
    other, *_, other_epoch = noted.get(text(cid), raw(node) + b" 0").split(b" ")
    if other != raw(node) and int(other_epoch) > int(epoch):
        return 0
    noted[text(cid)] = b" ".join(map(raw, (node, at, now_ms, incarnation, epoch)))
    run.store.expire(connections, int(remembered_ms))
    return 1


def located(run: Run) -> int:
    """Note on which node a connection is."""
    (connection,) = run.keys
    *entry, lease_ms = run.argv
    node, _, epoch, _ = entry
    kept = run.store.get(connection)
    if kept is not None:
        other, _, other_epoch, _ = kept.split(b" ", 3)
        if other != raw(node) and int(other_epoch) > int(epoch):
            return 0
    run.store.set(connection, b" ".join(map(raw, entry)), int(lease_ms))
    return 1


def forget(run: Run) -> int:
    """Forget where a connection is."""
    (connection,) = run.keys
    if (run.store.get(connection) or b"").startswith(raw(run.argv[0]) + b" "):
        run.store.delete(connection)
        return 1
    return 0


def closed(run: Run) -> int:
    """Note that a connection of a user has ended."""
    connections, seen = run.keys
    cid, node, remembered_ms = run.argv
    run.store.set(seen, str(run.store.now_ms).encode(), int(remembered_ms))
    kept = run.store.get(connections) or {}
    if kept.get(text(cid), b"").startswith(raw(node) + b" "):
        del kept[text(cid)]
        run.store.drop_empty(connections)
        return 1
    return 0


def user(run: Run) -> list[Any]:
    """Read what is noted of a user."""
    connections, seen = run.keys
    answer: list[Any] = [run.store.now_ms, int(run.store.get(seen) or 0)]
    for cid, entry in (run.store.get(connections) or {}).items():
        answer += [cid.encode(), entry]
    return answer


def message(run: Run) -> int:
    """Publish a message to the nodes that a user is on."""
    prefix, suffix, payload = run.argv
    entries = (run.store.get(run.keys[0]) or {}).values()
    nodes = dict.fromkeys(entry.partition(b" ")[0].decode() for entry in entries)
    return sum(run.publish(f"{text(prefix)}{node}{text(suffix)}", raw(payload)) for node in nodes)


# --- the index of rooms ---


def index_add(run: Run) -> int:
    """Note that rooms may have members."""
    names_key, leases_key = run.keys
    store, now_ms = run.store, run.store.now_ms
    names, leases = store.sorted_set(names_key), store.sorted_set(leases_key)
    for room, until_ms in by_score(leases)[:FORGOTTEN_MAX]:
        if until_ms <= now_ms:
            names.pop(room, None)
            del leases[room]
    for room in map(text, run.argv[1:]):
        names[room] = 0.0
        leases[room] = max(leases.get(room, 0.0), float(now_ms + int(run.argv[0])))
    for key in run.keys:
        store.drop_empty(key)
        if leases:
            store.expire(key, max(int(max(leases.values())) - now_ms, 1))
    return len(names)


def index_names(run: Run) -> list[bytes]:
    """Read names of rooms."""
    lowest, highest, limit = raw(run.argv[0]), raw(run.argv[1]), int(run.argv[2])
    names = sorted(name.encode() for name in run.store.get(run.keys[0]) or {})
    above = [name for name in names if (name > lowest[1:] if lowest[:1] == b"(" else name >= lowest[1:])]
    return [name for name in above if highest == b"+" or name <= highest[1:]][:limit]


# --- the limiter's policy ---


def policy_look(run: Run) -> list[bytes]:
    """Read the policy if it is another than the caller knows."""
    kept = run.store.get(run.keys[0])
    if kept is None:
        return [b"0", b""]
    run.store.expire(run.keys[0], int(run.argv[2]))
    mark = [kept["version"], kept["tag"]]
    return mark if mark == [raw(run.argv[0]), raw(run.argv[1])] else [*mark, kept["document"]]


def policy_change(run: Run) -> int:
    """Replace the policy, if it is at the version that the caller knows."""
    version, new, tag, document, ttl_ms, channel = run.argv
    if (run.store.get(run.keys[0]) or {}).get("version", b"0") != raw(version):
        return 0
    run.store.hash(run.keys[0]).update(version=raw(new), tag=raw(tag), document=raw(document))
    run.store.expire(run.keys[0], int(ttl_ms))
    run.publish(text(channel), raw(new))
    return 1


NODE_SCRIPTS: Final[dict[str, Callable[[Run], Any]]] = {
    script.__name__: script
    for script in (
        claim, end_tokens, register, command, bans, opened, located, forget, closed, user, message, index_add,
        index_names, policy_look, policy_change,
    )
}  # fmt: skip
