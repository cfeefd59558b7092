#!/usr/bin/env bash
# Unpacks the arm64 libraries that skein is built with, and the packages named as further arguments, into a folder
# for the cross compiler: aarch64-sysroot.sh FOLDER [PACKAGE...]. Takes them from this system's Debian mirrors with
# package lists of its own, so that nothing is installed and no root is needed; does nothing when all are there.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$1"
sysroot=$(cd "$1" && pwd)
mapfile -t libraries <"$here/libraries.txt"
packages=(libc6-dev "${libraries[@]}" "${@:2}")

[ "$(cat "$sysroot/.packages" 2>/dev/null)" = "${packages[*]}" ] && exit 0
if [ -f "$sysroot/.packages" ]; then
  rm -rf "${sysroot:?}"/*
elif [ -n "$(ls -A "$sysroot")" ]; then
  echo "aarch64-sysroot.sh: $sysroot holds something else; name an empty folder or remove it" >&2
  exit 1
fi
touch "$sysroot/.packages"

apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt"/state/lists/partial "$apt"/cache/archives/partial
touch "$apt/state/status"
cat >"$apt/apt.conf" <<CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "";
Dir::State "$apt/state";
Dir::State::status "$apt/state/status";
Dir::Cache "$apt/cache";
CONF
export APT_CONFIG=$apt/apt.conf
apt-get update -qq
# No package counts as installed, so this takes the C library and whatever else they depend on.
apt-get install -qq --yes --no-install-recommends --download-only "${packages[@]}" >/dev/null
for package in "$apt"/cache/archives/*.deb; do
  dpkg-deb -x "$package" "$sysroot"
done

# Absolute links would lead out of the sysroot.
find "$sysroot/usr/lib/aarch64-linux-gnu" -type l -lname '/*' | while read -r link; do
  ln -sfr "$sysroot$(readlink "$link")" "$link"
done
echo "${packages[*]}" >"$sysroot/.packages"
