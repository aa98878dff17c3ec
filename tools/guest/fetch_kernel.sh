#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fetches one of Debian's kernels, unmodified, and prints the path of its bzImage: fetch_kernel.sh [--refresh] [PACKAGE]
# PACKAGE is a meta package (linux-image-cloud-amd64, linux-image-amd64, linux-image-6.12-cloud-amd64,
# linux-image-6.12-amd64) or a concrete linux-image package. Kept under .cache/kernels; works offline from there.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

refresh=no
if [ "${1:-}" = --refresh ]; then refresh=yes; shift; fi
package=${1:-linux-image-cloud-amd64}
case "$package" in
  linux-image-*) ;;
  *) echo "fetch_kernel.sh: '$package' is not a linux-image package" >&2; exit 2 ;;
esac

cache=${RHEA_CACHE:-$root/.cache}/kernels/$package
if [ "$refresh" = no ] && [ -s "$cache/vmlinuz" ]; then
  echo "$cache/vmlinuz"
  exit 0
fi

# The meta package depends on the package of the current kernel version, which holds the image.
concrete_of() {
  local dependency
  dependency=$(apt-cache depends "$1" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
  if [ -n "$dependency" ]; then
    echo "$dependency"
  elif apt-cache show "$1" >/dev/null 2>&1; then
    echo "$1"
  fi
}
update_lists() {
  echo "Refreshing the package lists" >&2
  if [ "$(id -u)" = 0 ]; then apt-get update -q >&2 </dev/null
  elif command -v sudo >/dev/null; then sudo apt-get update -q >&2 </dev/null
  else echo "fetch_kernel.sh: run 'apt-get update' as root first" >&2; return 1
  fi
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
download() {
  concrete=$(concrete_of "$package")
  [ -n "$concrete" ] || return 1
  echo "Fetching $concrete" >&2
  (cd "$work" && rm -f ./*.deb && apt-get download -q "$concrete" >&2 </dev/null)
}
if ! download; then
  if ! update_lists || ! download; then
    echo "fetch_kernel.sh: cannot fetch $package; is the network there, and is this Debian 12?" >&2
    exit 1
  fi
fi

mkdir -p "$work/tree"
dpkg-deb --fsys-tarfile "$work"/*.deb | tar -x -C "$work/tree" ./boot
image=$(find "$work/tree/boot" -name 'vmlinuz-*' | head -n 1)
[ -s "$image" ] || { echo "fetch_kernel.sh: $concrete holds no /boot/vmlinuz-*" >&2; exit 1; }

mkdir -p "$cache"
config=$(find "$work/tree/boot" -name 'config-*' | head -n 1)
[ -z "$config" ] || cp "$config" "$cache/config"
echo "$concrete ${image##*/vmlinuz-}" >"$cache/version"
cp "$image" "$cache/vmlinuz.new"
mv "$cache/vmlinuz.new" "$cache/vmlinuz"  # last, and in one step: its presence says that the folder is complete
echo "$cache/vmlinuz"
