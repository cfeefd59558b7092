#!/usr/bin/env bash
# Installs the Debian packages that skein is built with, and those named as arguments; does nothing when
# all are there. Needs root or sudo only when something is missing.
set -euo pipefail

mapfile -t libraries <"$(dirname "${BASH_SOURCE[0]}")/libraries.txt"
packages=(build-essential cmake ninja-build pkg-config protobuf-c-compiler "${libraries[@]}" "$@")

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "install-packages.sh: run as root, or install: ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
echo "installing: ${missing[*]}" >&2
"${as_root[@]}" apt-get update -qq >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
