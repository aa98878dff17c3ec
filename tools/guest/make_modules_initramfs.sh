#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Packs the virtio drivers of one of Debian's kernels, as its package has them, with what they depend on, as an initramfs to
# be given beside another one; prints its path: make_modules_initramfs.sh [PACKAGE]. In the guest: modprobe virtio_pci, ...
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
package=${1:-linux-image-cloud-amd64}
kernel=$("$root/tools/guest/fetch_kernel.sh" "$package")
folder=$(dirname "$kernel")
read -r concrete release <"$folder/version"
out=$folder/modules-$release.cpio
if [ -s "$out" ] && [ "$out" -nt "$0" ]; then
  echo "$out"
  exit 0
fi
PATH=$PATH:/sbin:/usr/sbin
command -v depmod >/dev/null || { echo "make_modules_initramfs.sh: depmod is missing; run tools/deps.sh guest" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
(cd "$work" && apt-get download -q "$concrete" >&2 </dev/null) || {
  echo "make_modules_initramfs.sh: cannot fetch $concrete; is the network there?" >&2
  exit 1
}
mkdir -p "$work/all" "$work/tree/lib/modules/$release"
dpkg-deb --fsys-tarfile "$work"/*.deb | tar -x -C "$work/all" ./lib/modules
depmod -b "$work/all" "$release"
from=$work/all/lib/modules/$release to=$work/tree/lib/modules/$release
for module in virtio_pci virtio_mmio virtio_blk virtio_net virtio_console virtio_balloon virtio-rng; do
  dependencies=$(sed -n "s#^\(.*/$module\.ko\): *\(.*\)#\1 \2#p" "$from/modules.dep")
  [ -n "$dependencies" ] || { echo "make_modules_initramfs.sh: $concrete has no module $module" >&2; exit 1; }
  for file in $dependencies; do install -D -m 644 "$from/$file" "$to/$file"; done
done
cp "$from"/modules.{order,builtin,builtin.modinfo} "$to/"
depmod -b "$work/tree" "$release"
"$root/tools/guest/make_cpio.sh" "$work/tree" "$work/out.cpio"
mv "$work/out.cpio" "$out"
echo "$out"
