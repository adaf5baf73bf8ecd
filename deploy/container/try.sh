#!/usr/bin/env bash
# Runs the image that build.sh built, and says what holds: as its own user, as process 1 of its own process ids, with a root
# that cannot be written, the server gets ready, its health check passes, a client joins a room, SIGTERM drains.
# As root, because `podman run` needs more of a machine than many have: a mount and a process namespace do here.
set -euo pipefail
folder=$(realpath "${1:?usage: try.sh FOLDER}")
image=localhost/presence-server
podman=(podman --root "$folder/images" --runroot "$folder/run" --storage-driver vfs)
config() { "${podman[@]}" image inspect --format "{{$1}}" "$image"; }
words() { "${podman[@]}" image inspect --format "{{range $1}}{{.}}{{\"\\n\"}}{{end}}" "$image"; }

user=$(config .User)
mapfile -t environment < <(words .Config.Env | sed '/^$/d')
mapfile -t command < <(words .Config.Entrypoint | sed '/^$/d'; words .Config.Cmd | sed '/^$/d')
mapfile -t health < <(words .HealthCheck.Test | sed '/^$/d')
[ "${user%%:*}" -gt 0 ] || { echo "the image runs as root"; exit 1; }
[ "${health[0]}" = CMD ] || { echo "the image has no health check"; exit 1; }

work=$(mktemp -d)
root=$("${podman[@]}" image mount "$image")
mapfile -t given < <(env | grep '^PRESENCE_' || true)
# Free ports, because this is the network of the machine; a container has its own.
environment+=(PRESENCE_SERVER__PORT=0 PRESENCE_SERVER__API_PORT=0 PRESENCE_SERVER__HOST=127.0.0.1 "${given[@]}")
start=0
cleanup() {
  [ "$start" = 0 ] || kill -KILL "$start" 2>/dev/null || true
  "${podman[@]}" image unmount "$image" >/dev/null
  rm -rf "$work"
}
trap cleanup EXIT

# In namespaces of its own: nothing that is mounted here outlives them.
inside='
  root=$1 user=$2; shift 2
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount -t tmpfs tmpfs "$root/dev"
  for device in null urandom; do touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"; done
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
  mount -o remount,bind,ro "$root"
  exec chroot --userspec="$user" "$root" env -i "$@"'
unshare --mount --pid --fork --kill-child sh -euc "$inside" sh "$root" "$user" "${environment[@]}" "${command[@]}" \
  >"$work/out" 2>"$work/log" &
start=$!
for _ in $(seq 600); do
  grep -q '^ready ' "$work/out" && break
  kill -0 "$start" 2>/dev/null || { cat "$work/log"; echo "the server ended before it was ready"; exit 1; }
  sleep 0.1
done
ready=$(grep '^ready ' "$work/out") || { cat "$work/log"; echo "the server did not get ready"; exit 1; }
echo "ok: $ready"
server=$(pgrep -P "$start")
port=$(sed -E 's/.* client=[^ ]*:([0-9]+) .*/\1/' <<<"$ready")
api_port=$(sed -E 's/.* api=[^ ]*:([0-9]+) .*/\1/' <<<"$ready")

within() {  # runs a command beside the server, as its user and with its environment
  nsenter --target "$server" --mount --pid chroot --userspec="$user" "$root" \
    env -i "${environment[@]}" "PRESENCE_SERVER__API_PORT=$api_port" "$@"
}
[ "$(grep -cE "^Uid:\s+${user%%:*}\s" "/proc/$server/status")" = 1 ] || { echo "the server runs as another user"; exit 1; }
echo "ok: it runs as $user"
if within touch /opt/presence-server/written 2>/dev/null; then echo "the root can be written"; exit 1; fi
echo "ok: its root cannot be written"
within "${health[@]:1}"
if within env PRESENCE_SERVER__API_PORT=1 "${health[@]:1}" 2>/dev/null; then echo "it passes without a server"; exit 1; fi
echo "ok: its health check passes"
within python - "ws://127.0.0.1:$port/ws" <<'END'
import asyncio, sys
from presence_server.client import connect

async def main() -> None:
    async with connect(sys.argv[1], user="alice") as client:
        room = await client.join("lobby")
        assert set(room.users) == {"alice"}, room.users

asyncio.run(main())
END
echo "ok: a client joined a room over a WebSocket"
kill -TERM "$server"
code=0
wait "$start" || code=$?
start=0
[ "$code" = 0 ] || { cat "$work/log"; echo "SIGTERM ended it with $code"; exit 1; }
echo "ok: SIGTERM ended it with 0"
"${podman[@]}" image inspect --format 'size: {{.Size}} bytes' "$image"
