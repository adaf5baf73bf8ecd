#!/usr/bin/env bash
# Builds the image where there is no registry of images: its base is made of Debian's packages. As root:
#
#   apt-get install mmdebstrap podman
#   deploy/container/build.sh FOLDER      # FOLDER keeps the base and the images, about 2 GB
#   deploy/container/try.sh FOLDER        # runs what was built, and looks whether it answers
#
# EXTRAS=embedded build.sh … adds a Valkey for several workers, and PRESENCE_SERVER__WORKERS=2 try.sh … runs them.
# Packages of Python come from where this machine's pip takes them.
set -euo pipefail
folder=$(realpath -m "${1:?usage: build.sh FOLDER}")
project=$(cd "$(dirname "$0")/../.." && pwd)
suite=${SUITE:-bookworm}
podman=(podman --root "$folder/images" --runroot "$folder/run" --storage-driver vfs)
mkdir -p "$folder"

if ! "${podman[@]}" image exists "localhost/python-base:$suite"; then
  mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv "$suite" "$folder/base.tar"
  "${podman[@]}" import --quiet "$folder/base.tar" "localhost/python-base:$suite"
  rm "$folder/base.tar"
fi

# What this machine's pip is told, as a file for the one of the build; --env would write it into the image.
{
  echo "[global]"
  python3 -m pip config list | sed -nE "s/^(:env:|global)\.([a-z-]+)='(.*)'$/\2 = \3/p" | sort -u
} >"$folder/pip.conf"
mounts=(--volume "$folder/pip.conf:/etc/pip.conf:ro")
while read -r path; do
  [ ! -e "$path" ] || mounts+=(--volume "$path:$path:ro")
done < <(sed -nE 's/^(cert|find-links) = (\/.*)$/\2/p' "$folder/pip.conf")

# --format docker: an OCI image has no health check. --layers=false: vfs copies the whole image for each layer.
"${podman[@]}" build --isolation chroot --format docker --layers=false "${mounts[@]}" \
  --build-arg "BASE=localhost/python-base:$suite" --build-arg "EXTRAS=${EXTRAS:-}" --tag localhost/presence-server "$project"
