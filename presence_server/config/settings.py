"""Every setting: its key, type, limits, default and meaning, one struct a section.

The file's tables, the environment's variables, the flags with their help and the reference page all
come from these structs. Durations end in `_ms` and are whole milliseconds; sizes end in `_bytes`.
A text of "" means that the thing is not there.
"""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from presence_server.rates import CountingAlgorithm, OnError

DURATION_MS_MAX: Final = 366 * 24 * 3_600_000
"""The longest duration that a setting may have: 366 days."""
BYTES_MAX: Final = 2**30
COUNT_MAX: Final = 10_000_000

Duration = Annotated[int, Meta(ge=1, le=DURATION_MS_MAX)]
DurationOrOff = Annotated[int, Meta(ge=0, le=DURATION_MS_MAX)]
Size = Annotated[int, Meta(ge=1, le=BYTES_MAX)]
Count = Annotated[int, Meta(ge=1, le=COUNT_MAX)]
Pending = Annotated[int, Meta(ge=1, le=65_536)]
CountOrOff = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Host = Annotated[str, Meta(min_length=1)]
Workers = Annotated[int, Meta(ge=1, le=1024)] | Literal["auto"]

Deny = Literal["http", "close"]
AuthMode = Literal["none", "jwt", "session"]
JwtAlgorithm = Literal[
    "HS256", "HS384", "HS512",
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "EdDSA",
]  # fmt: skip
Mode = Literal["full", "count", "none"]
LogLevel = Literal["info", "warning", "error"]
LogFormat = Literal["auto", "json", "text"]
Action = Literal["join", "watch", "publish", "update", "signal"]
ACTIONS: Final[tuple[Action, ...]] = ("join", "watch", "publish", "update", "signal")


def means(description: str) -> Meta:
    """Say what a setting is for, with its unit."""
    return Meta(description=description)


def hides(description: str) -> Meta:
    """Say what a secret is for; its value is never repeated in a message."""
    return Meta(description=description, extra={"secret": True})


class ServerSettings(Struct, frozen=True, kw_only=True):
    """The two ports, and the process behind them."""

    host: Annotated[Host, means("Address or host name that the client port listens on")] = "127.0.0.1"
    port: Annotated[Port, means("The client port; 0 picks a free one")] = 8080
    api_host: Annotated[
        Host,
        means("Address or host name that the internal port listens on; beyond loopback it needs `api.key`"),
    ] = "127.0.0.1"
    api_port: Annotated[Port, means("The internal port; 0 picks a free one")] = 8081
    workers: Annotated[
        Workers,
        means(
            "Processes that share the client port, no more than there are cores; `auto`: one a core. Several need "
            "`redis.url`, or the extra `embedded`"
        ),
    ] = 1
    socket_dir: Annotated[
        str,
        means(
            "Folder in which several workers have a private folder for their sockets; empty: that for temporary files"
        ),
    ] = ""
    max_connections: Annotated[
        Count, means("Connections that one process holds at most; further handshakes get 503")
    ] = 10_000
    drain_ms: Annotated[
        Duration, means("Longest time from the end of `drain_delay_ms` to the end of the process, ms")
    ] = 30_000
    drain_delay_ms: Annotated[
        DurationOrOff,
        means("After SIGTERM `/readyz` is 503 for so long while everything is still served, ms"),
    ] = 0
    origins: Annotated[
        list[str],
        means(
            "Origins of web pages that may connect, such as `https://app.example.com`; "
            "`*`: any; empty: any while clients name themselves, with authentication those of the same host"
        ),
    ] = []
    tls_cert: Annotated[
        str, means("PEM file with the certificate chain of the client port; empty: no TLS")
    ] = ""
    tls_key: Annotated[str, means("PEM file with the certificate's private key, without a passphrase")] = ""
    compression: Annotated[bool, means("Offer permessage-deflate")] = False
    demo: Annotated[bool, means('The demo page at `/`; off anyway unless `auth.mode` is "none"')] = True


class RedisSettings(Struct, frozen=True, kw_only=True):
    """The shared store."""

    url: Annotated[
        str,
        hides(
            "The store: `redis://`, `rediss://`, `unix://`, `redis+sentinel://h:p,h:p/name` or "
            "`redis+cluster://h:p,h:p` (`docs/stores.md`); empty: in this process"
        ),
    ] = ""
    prefix: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z0-9_.:-]{1,64}$"),
        means("What every key and channel in the store begins with"),
    ] = "ps"


class PresenceSettings(Struct, frozen=True, kw_only=True):
    """The lifetimes of members and resume tokens, heartbeats, and pings."""

    ttl_ms: Annotated[Duration, means("A member of a dead node is gone after this, ms")] = 30_000
    heartbeat_ms: Annotated[Duration, means("A node renews its members this often, ms")] = 10_000
    grace_clean_ms: Annotated[
        Duration, means("A member is gone this long after its connection closed with 1000 or 1001, ms")
    ] = 3_000
    grace_lost_ms: Annotated[
        Duration, means("A member is gone this long after its connection was lost, ms")
    ] = 15_000
    resume_ms: Annotated[Duration, means("How long a resume token is good for, ms")] = 86_400_000
    ping_ms: Annotated[Duration, means("The server pings each connection this often, ms")] = 15_000
    ping_timeout_ms: Annotated[
        Duration, means("A connection is closed with 4201 when nothing came this long after a ping, ms")
    ] = 15_000
    last_seen_ms: Annotated[Duration, means("How long it is remembered when a user was last seen, ms")] = (
        604_800_000
    )


class LimitsSettings(Struct, frozen=True, kw_only=True):
    """The limits of one connection, and of a node as a whole."""

    message_bytes: Annotated[Size, means("Longest message from a client, bytes; over it: close 1009")] = (
        16_384
    )
    message_items: Annotated[
        Count, means("Containers and values that a message from a client may have; over it: `bad_message`")
    ] = 4_096
    state_bytes: Annotated[Size, means("Longest `state` as JSON, bytes")] = 4_096
    info_bytes: Annotated[Size, means("Longest `info` as JSON, bytes")] = 1_024
    rooms: Annotated[Count, means("Rooms that one connection may be in")] = 100
    handshake_ms: Annotated[Duration, means("Time that a client has for its handshake, ms")] = 5_000
    pending: Annotated[
        Pending, means("Sockets whose handshake is not done, in all; over it the oldest is dropped")
    ] = 1_024
    pending_per_ip: Annotated[
        Pending, means("The same for one address; trusted proxies' own have no bound of their own")
    ] = 256
    overload_ms: Annotated[
        Duration,
        means("A node that is later than this for a second refuses handshakes, and then drops signals, ms"),
    ] = 250
    outbox_soft_bytes: Annotated[
        Size, means("Above this many unsent bytes a connection gets no diffs, then one `sync`")
    ] = 65_536
    outbox_hard_bytes: Annotated[
        Size, means("Above this many unsent bytes a connection is closed with 4102")
    ] = 1_048_576
    outbox_total_bytes: Annotated[
        Size,
        means(
            "Above this many unsent bytes of all connections of a node those with most are closed with 4102"
        ),
    ] = 268_435_456
    outbox_hard_ms: Annotated[
        Duration, means("A connection that stays above the soft limit this long is closed with 4102, ms")
    ] = 30_000


class ThrottleRule(Struct, frozen=True, kw_only=True):
    """A named rule for the backend's calls of `/v1/throttle/*`."""

    name: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$"), means("What the calls name it by; each name once")
    ]
    limit: Annotated[str, means("The rate that it allows for one key")]
    algorithm: Annotated[CountingAlgorithm, means("How it counts")] = "fixed"
    block_ms: Annotated[DurationOrOff, means("Block a key this long after a breach, ms; 0: do not")] = 0
    tz: Annotated[
        str, means("Time zone of a calendar quota (`1000/day`, `500/week`, `1M/month`, `10k/year`)")
    ] = "UTC"


class ThrottleSettings(Struct, frozen=True, kw_only=True):
    """The rates that clients are held to, counted over all nodes."""

    connect: Annotated[str, means("Rate of handshakes from one address")] = "60/60s"
    resume: Annotated[str, means("Rate of handshakes with a valid resume token from one address")] = "600/60s"
    messages: Annotated[str, means("Rate of messages on one connection; always a token bucket")] = (
        "50/1s burst 100"
    )
    updates: Annotated[str, means("Rate of `update`, and of `join` with another state, of one user")] = ""
    publishes: Annotated[str, means("Rate of `publish` of one user")] = ""
    concurrent_per_ip: Annotated[
        CountOrOff, means("Connections that one address may have at a time; 0: no limit")
    ] = 200
    algorithm: Annotated[
        CountingAlgorithm,
        means(
            "How rates are counted: fixed window, sliding log, sliding window counter or token bucket; "
            "`messages` always has the bucket"
        ),
    ] = "fixed"
    block_ms: Annotated[DurationOrOff, means("Block an address this long after a breach, ms; 0: do not")] = 0
    on_error: Annotated[
        OnError,
        means(
            "While the store is out of reach: let pass, limit on this node alone, refuse, or admit this node's part "
            "of what was left"
        ),
    ] = "open"
    deadline_ms: Annotated[Duration, means("A decision takes no longer than this, ms")] = 50
    deny: Annotated[
        Deny, means("Refuse a throttled browser with HTTP 429, or accept it and close with 4101")
    ] = "http"
    ipv6_prefix: Annotated[
        int, Meta(ge=1, le=128), means("IPv6 addresses that share this many leading bits count as one")
    ] = 64
    allow: Annotated[list[str], means("Addresses and networks that are never throttled")] = []
    shadow: Annotated[bool, means("Count and log what would be refused, refuse nothing")] = False
    decision_log: Annotated[
        int,
        Meta(ge=0, le=1_000_000),
        means("Recent decisions that a node keeps for dry runs, some 200 bytes each; 0: none"),
    ] = 0
    rules: Annotated[list[ThrottleRule], means("Named rules for the backend")] = []


class ProxySettings(Struct, frozen=True, kw_only=True):
    """The trusted proxies, and how they name a client's address."""

    trusted: Annotated[list[str], means("Addresses and networks of proxies whose header is believed")] = []
    header: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9-]{1,64}$"), means("Header in which they name the client's address")
    ] = "x-forwarded-for"
    protocol: Annotated[bool, means("Trusted proxies begin with PROXY protocol v1 or v2")] = False


class AuthSettings(Struct, frozen=True, kw_only=True):
    """The authentication of clients."""

    mode: Annotated[
        AuthMode, means("Clients name themselves, bring a JWT, or bring a token of `/v1/sessions`")
    ] = "none"
    secret: Annotated[str, hides("Key that JWTs are signed with (HS…)")] = ""
    secret_file: Annotated[str, means("File that holds `auth.secret`")] = ""
    secrets: Annotated[list[str], hides("Older keys that are still accepted")] = []
    secrets_file: Annotated[str, means("File that holds `auth.secrets`, one a line; an empty file: none")] = (
        ""
    )
    public_key: Annotated[
        str,
        means("PEM public key that JWTs are checked with (RS…, PS…, ES…, EdDSA), or the file that holds it"),
    ] = ""
    algorithms: Annotated[
        list[JwtAlgorithm], Meta(min_length=1), means("JWT algorithms that are accepted")
    ] = field(default_factory=lambda: ["HS256"])
    jwks_url: Annotated[str, means("Where the issuer publishes its public keys")] = ""
    audience: Annotated[str, means("The `aud` that a JWT must have; empty: any")] = ""
    issuer: Annotated[str, means("The `iss` that a JWT must have; empty: any")] = ""
    resume_secret: Annotated[
        str, hides("Key that resume tokens are signed with; empty: a random one that the nodes share")
    ] = ""
    resume_secret_file: Annotated[str, means("File that holds `auth.resume_secret`")] = ""


class ApiSettings(Struct, frozen=True, kw_only=True):
    """Access to the internal port."""

    key: Annotated[str, hides("Bearer key that every `/v1/…` call needs; empty: none, and loopback only")] = (
        ""
    )
    key_file: Annotated[
        str,
        means(
            "File that holds `api.key`; of several, one a line, a caller needs one, so that they can change"
        ),
    ] = ""


class LogSettings(Struct, frozen=True, kw_only=True):
    """The log on standard error."""

    level: Annotated[LogLevel, means("The least that a line must matter; SIGHUP reads it again")] = "info"
    format: Annotated[
        LogFormat,
        means("One JSON object a line, or text for people; `auto`: text on a terminal, JSON elsewhere"),
    ] = "auto"


class RoomSettings(Struct, frozen=True, kw_only=True):
    """The rules of the rooms that a glob matches; the first glob that matches decides."""

    pattern: Annotated[str, means("Glob of room names: `*` is any text, `?` any one character")] = "*"
    mode: Annotated[Mode, means("What a watcher gets that names no mode: roster, numbers or nothing")] = (
        "full"
    )
    full_max: Annotated[
        CountOrOff, means("With more members than this, watchers get numbers instead of the roster")
    ] = 1_000
    members_max: Annotated[CountOrOff, means("Members that the room may have; 0: no limit")] = 0
    allow: Annotated[list[Action], means("What clients may do there")] = field(
        default_factory=lambda: list(ACTIONS)
    )


class Settings(Struct, frozen=True, kw_only=True):
    """All settings of a node."""

    server: ServerSettings = ServerSettings()
    redis: RedisSettings = RedisSettings()
    presence: PresenceSettings = PresenceSettings()
    limits: LimitsSettings = LimitsSettings()
    throttle: ThrottleSettings = ThrottleSettings()
    proxy: ProxySettings = ProxySettings()
    auth: AuthSettings = AuthSettings()
    api: ApiSettings = ApiSettings()
    log: LogSettings = LogSettings()
    rooms: list[RoomSettings] = []


SECTIONS: Final[dict[str, type[Struct]]] = {
    "server": ServerSettings,
    "redis": RedisSettings,
    "presence": PresenceSettings,
    "limits": LimitsSettings,
    "throttle": ThrottleSettings,
    "proxy": ProxySettings,
    "auth": AuthSettings,
    "api": ApiSettings,
    "log": LogSettings,
}
"""The tables of the file, in order; `[[rooms]]` is a list of tables and stands apart."""
