#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Packs a folder into an initramfs archive, the same bytes for the same content: make_cpio.sh DIR OUT [none|gzip|zstd]
# The kernel accepts several archives one after the other, so a test can append its own: cat base.cpio mine.cpio.
set -euo pipefail
dir=$1 out=$2 compression=${3:-none}
case "$compression" in
  none) pack=(cat) ;;
  gzip) pack=(gzip -n -6) ;;
  zstd) pack=(zstd -q -3) ;;
  *) echo "make_cpio.sh: unknown compression '$compression' (none, gzip, zstd)" >&2; exit 2 ;;
esac
# newc stores times, owners and inode numbers: fix all three.
find "$dir" -exec touch -h -d @1 {} +
mkdir -p "$(dirname "$out")"
(cd "$dir" && find . -mindepth 1 -print0 | LC_ALL=C sort -z |
  cpio --null --create --quiet --format=newc --reproducible --owner=0:0) | "${pack[@]}" >"$out.new"
mv "$out.new" "$out"
