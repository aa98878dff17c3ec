#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the small initramfs, busybox and our own /init, and prints its path: make_initramfs.sh [OUT]
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:-${RHEA_CACHE:-$root/.cache}/initramfs/busybox.cpio.gz}
busybox=$(command -v busybox || true)
for candidate in /bin/busybox /usr/bin/busybox "$busybox"; do
  if [ -n "$candidate" ] && [ -x "$candidate" ]; then busybox=$candidate; break; fi
done
if [ -z "$busybox" ] || ! dpkg-query -W -f='${db:Status-Status}' busybox-static 2>/dev/null | grep -qx installed; then
  echo "make_initramfs.sh: busybox-static is missing; run tools/deps.sh guest" >&2
  exit 1
fi

if [ -s "$out" ] && [ "$out" -nt "$busybox" ] && [ "$out" -nt "$root/tools/guest/init.sh" ] && [ "$out" -nt "$0" ]; then
  echo "$out"
  exit 0
fi
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
mkdir -p "$tree"/{bin,sbin,usr/bin,usr/sbin,proc,sys,dev,tmp,root,etc}
install -m 755 "$busybox" "$tree/bin/busybox"
install -m 755 "$root/tools/guest/init.sh" "$tree/init"
ln -s busybox "$tree/bin/sh"
echo 'root:x:0:0:root:/root:/bin/sh' >"$tree/etc/passwd"
echo 'root:x:0:' >"$tree/etc/group"
echo "export PS1='(rhea) \\w # '" >"$tree/etc/profile"
"$root/tools/guest/make_cpio.sh" "$tree" "$out" gzip
echo "$out"
