"""The reference page of all settings, from their structs: `python -m presence_server.config.reference`."""

import sys
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import NODEFAULT

from presence_server.config.setting_keys import KEYS, SettingKey, choices_of, expected, keys_of, shown_default
from presence_server.config.settings import SECTIONS, RoomSettings, ThrottleRule

EXAMPLE: Final = """\
[server]
host = "0.0.0.0"
port = 8080
origins = ["https://app.example.com"]

[presence]
grace_lost_ms = 20000

[auth]
resume_secret_file = "/run/secrets/resume"

[[rooms]]
pattern = "news:*"
mode = "count"
allow = ["watch"]

[[rooms]]
pattern = "*"
members_max = 500
"""

HEAD: Final = """\
# Configuration

This page is made from the code by `python -m presence_server.config.reference`.

A node needs no configuration. Settings come from four layers, each of which wins over the next:

1. flags: `--server.port 9000` or `--server.port=9000`; short names are `--host`, `--port`, `--api-host`,
   `--api-port`, `--redis-url` and `--workers`;
2. environment variables: `PRESENCE_SERVER__PORT=9000`, with two underscores between section and key.
   `PRESENCE_SERVER_PORT` with one is ignored: Kubernetes sets it for a Service named `presence-server`;
3. the TOML file that `--config` names;
4. the defaults on this page.

An unknown key or a wrong value in any layer, also where a higher one wins over it, ends the start with exit
code 2 and one line for each problem:

```
presence-server: presence.toml, line 3: server.prot: unknown key; the nearest valid name is server.port
```

`presence-server check-config FILE` does the same checks without starting, with the environment's variables
over the file.

## How values are written

| type | in the file | in a variable or a flag |
|---|---|---|
| text | `"text"` | the text itself |
| integer | `8080` | `8080` |
| boolean | `true`, `false` | `true`, `false` |
| list | `["a", "b"]` | `a,b`, or the JSON array `["a", "b"]` for texts that have commas; empty: no items |
| list of tables | `[[rooms]]` | in the file only |

Durations are whole milliseconds from 1 to 366 days, unless a table says that 0 is allowed. Sizes are bytes,
up to 1 GiB. The path of a file is relative to the working directory.

Every secret has a twin that ends in `_file`: a file that holds the secret alone (`auth.secrets_file`: one
on each line). Use it rather than a flag, which every user of the machine can read. The secret and its twin
in one layer are refused; of two layers the higher one wins.

## Example

"""

TAIL: Final = """\
## Rates

A rate reads `COUNT/WINDOW`: `60/60s` is sixty in a minute. The window is a whole number and one of `ms`,
`s`, `m`, `h`: `500ms`, `10s`, `5m`, `1h`. An empty text is no limit. `k` and `M` after a count are thousands
and millions.

`COUNT/PERIOD` is as well a rate: `20/second`, `5/minute` and `100/hour` are windows of that length. `1000/day`,
`500/week`, `1M/month` and `10k/year` are calendar quotas: they end with the day, week (on Sunday), month or year,
in UTC or in the rule's `tz`. They are counted as `fixed` and refused with other algorithms.

`50/1s burst 100` is a token bucket that fills at fifty a second and holds a hundred; without `burst` it
holds COUNT. `burst` is refused where `algorithm` is not `bucket`. `throttle.messages` is always a bucket.

| algorithm | counts |
|---|---|
| `fixed` | in windows that begin with the first hit |
| `sliding` | every hit of the last window, from a log; up to 10,000 |
| `counter` | this window, and the last one by the share of it that still counts |
| `bucket` | tokens that come back evenly (GCRA) |

Which to choose, and what each really bounds, is in [throttle.md](throttle.md). SIGHUP reads `[throttle]`
again, but for `deadline_ms` and `decision_log`; what else it reads is in [operations.md](operations.md#signals).

## Rooms and globs

The first `[[rooms]]` whose pattern matches a room's name decides for it; where none does, the defaults
above hold. In a pattern `*` is any text, also none and also across `:` and `/`; `?` is any one character;
everything else is itself.

## What is checked together

- `presence.heartbeat_ms` times 3 is at most `presence.ttl_ms`.
- `limits.outbox_soft_bytes` is less than `limits.outbox_hard_bytes`.
- `server.max_connections`, `limits.pending` and 320 more files fit the hard limit of open files. The soft limit is
  raised at the start.
- `server.tls_cert` and `server.tls_key` are both set or both empty; they can be read and belong together.
- `proxy.protocol` and TLS exclude each other: a PROXY header comes before TLS.
- `server.api_host` beyond loopback needs `api.key`.
- `server.port` and `server.api_port` differ where they are on one host and not 0.
- `server.workers` is at most the number of cores; several need `redis.url` or the extra `embedded`, and a folder for
  their sockets (`server.socket_dir`) that can be written to and whose path is short enough.
- Hosts are IP addresses without brackets, or host names; `throttle.allow` and `proxy.trusted` are addresses
  or networks; `server.origins` are origins as browsers send them, or `*`; `redis.url` is one of the
  forms in [stores.md](stores.md).
- Rates and globs can be read; the rules of `[[throttle.rules]]` have different names.

`auth.mode = "none"` with `server.host` beyond loopback starts with a warning: anybody who can reach the
port can be any user. The modes `jwt` and `session` are in [auth.md](auth.md).
"""


def reference_page() -> str:
    """Write the whole page."""
    tables = "".join(
        _section(f"[{section}]", struct.__doc__, (key for key in KEYS.values() if key.section == section))
        for section, struct in SECTIONS.items()
    )
    rules = _section("[[throttle.rules]]", ThrottleRule.__doc__, keys_of("", ThrottleRule).values())
    rooms = _section("[[rooms]]", RoomSettings.__doc__, keys_of("", RoomSettings).values())
    return f"{HEAD}```toml\n{EXAMPLE}```\n\n{tables}{rules}{rooms}{TAIL}"


def _section(title: str, meaning: str | None, keys: Iterable[SettingKey]) -> str:
    return (
        f"## `{title}`\n\n{meaning}\n\n| key | default | meaning |\n|---|---|---|\n{''.join(_rows(keys))}\n"
    )


def _rows(keys: Iterable[SettingKey]) -> Iterator[str]:
    for key in keys:
        default = "required" if key.default is NODEFAULT else f"`{shown_default(key)}`"
        choices = f" ({expected(key.shape)})" if choices_of(key.shape) else ""
        yield f"| `{key.name}` | {default} | {key.meaning}{choices} |\n"


if __name__ == "__main__":
    sys.stdout.write(reference_page())
