#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds an initramfs that holds a Debian userland (compilers, Python, Perl, OpenSSL, compressors) of the host's release
# and prints its path: make_userland_initramfs.sh [--refresh]
# Packages are unpacked, never configured: no maintainer script runs, so no root is needed. Rhea's /init (init.sh) is in
# it: rhea.run=PATH runs a program and powers off. Give the guest 1.5 GiB: half of its RAM is the root file system.
# A test appends what it wants to run: make_cpio.sh mydir my.cpio; cat userland.cpio my.cpio >both.cpio
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cache=${RHEA_CACHE:-$root/.cache}
out=$cache/initramfs/userland.cpio

packages=(base-files bash bc binutils bsdutils busybox-static bzip2 coreutils dash diffutils file findutils g++ gawk gcc
  gcc-multilib grep gzip libc-bin libpython3.11-testsuite make openssl perl procps python3 sed tar util-linux xz-utils
  zstd)

refresh=no
[ "${1:-}" != --refresh ] || refresh=yes
if [ "$refresh" = no ] && [ -s "$out" ] && [ "$out" -nt "$0" ] && [ "$out" -nt "$root/tools/guest/init.sh" ]; then
  echo "$out"
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
debs=$cache/debs
mkdir -p "$debs" "$work/tree"
: >"$work/status"

# apt's own solver computes the closure: it is asked what it would install on a machine that has nothing.
# Left out afterwards: what only maintainer scripts use, sanitizer runtimes, and the x32 side of gcc-multilib.
closure() {
  apt-get -s -qq -o Dir::State::status="$work/status" -o APT::Install-Recommends=0 -o APT::Get::AllowUnauthenticated=0 \
    install "${packages[@]}" 2>"$work/apt.log" |
    sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*/\1=\2/p' |
    grep -vE '^(usrmerge|init-system-helpers|debconf|dpkg|net-tools|media-types|readline-common|rpcsvc-proto|libfile-find-rule-perl|libnumber-compare-perl|libtext-glob-perl)=' |
    grep -vE '^(libx32|libc6-x32|libc6-dev-x32|lib32asan|lib32ubsan|libasan|liblsan|libtsan|libubsan|libgprofng)' |
    LC_ALL=C sort
}
closure >"$work/list" || true
if [ ! -s "$work/list" ]; then
  if [ "$(id -u)" = 0 ]; then apt-get update -q >&2 </dev/null || true
  elif command -v sudo >/dev/null; then sudo apt-get update -q >&2 </dev/null || true
  fi
  closure >"$work/list" || true
fi
if [ ! -s "$work/list" ]; then
  cat "$work/apt.log" >&2
  echo "make_userland_initramfs.sh: apt cannot resolve the packages; is this Debian 12 with package lists (apt-get update)?" >&2
  exit 1
fi

mapfile -t list <"$work/list"
echo "Fetching ${#list[@]} packages for the guest's userland (kept in $debs)" >&2
fetch() { (cd "$debs" && apt-get download -qq "${list[@]}" >"$work/apt.log" 2>&1 </dev/null); }
if ! fetch; then
  if [ "$(id -u)" = 0 ]; then apt-get update -q >&2 </dev/null || true
  elif command -v sudo >/dev/null; then sudo apt-get update -q >&2 </dev/null || true
  fi
  closure >"$work/list"
  mapfile -t list <"$work/list"
  if ! fetch; then
    cat "$work/apt.log" >&2
    echo "make_userland_initramfs.sh: cannot fetch the packages; is the network there?" >&2
    exit 1
  fi
fi

# One /usr, as Debian installs today: the packages' /bin, /sbin and /lib land in it through these links.
tree=$work/tree
chmod 755 "$tree"
mkdir -p "$tree"/usr/{bin,sbin,lib,lib32,lib64} "$tree"/{proc,sys,dev,run,tmp,root,etc/alternatives,var/tmp}
for name in bin sbin lib lib32 lib64; do ln -s "usr/$name" "$tree/$name"; done
chmod 1777 "$tree/tmp"
for entry in "${list[@]}"; do
  version=${entry#*=}
  file=$(find "$debs" -name "${entry%%=*}_${version//:/%3a}_*.deb" | head -n 1)
  [ -n "$file" ] || { echo "make_userland_initramfs.sh: $entry was not fetched" >&2; exit 1; }
  dpkg-deb --fsys-tarfile "$file" | tar -x -C "$tree" --keep-directory-symlink --no-same-owner --exclude='./usr/share/doc' \
    --exclude='./usr/share/man' --exclude='./usr/share/info' --exclude='./usr/share/locale' --exclude='./usr/share/lintian' \
    --exclude='./usr/share/bug' --exclude='./usr/share/gdb' --exclude='*/gconv/[A-BD-Z]*' --exclude='*/lto1' \
    --exclude='./usr/libx32' --exclude='*/12/x32' --exclude='*/c++/12/x32' --exclude='./usr/lib/systemd' \
    --exclude='*/python3.11/test/decimaltestdata' --exclude='*/python3.11/test/test_email' \
    --exclude='*/python3.11/test/test_importlib' --exclude='*/python3.11/test/test_asyncio' \
    --exclude='*/python3.11/test/cjkencodings' --exclude='*/python3.11/test/audiodata' \
    --exclude='*/python3.11/lib2to3' --exclude='*/python3.11/test/test_lib2to3'
done

# What maintainer scripts would have made.
ln -sf gcc "$tree/usr/bin/cc"
ln -sf g++ "$tree/usr/bin/c++"
ln -sf gawk "$tree/usr/bin/awk"
ln -sf dash "$tree/usr/bin/sh"
echo 'root:x:0:0:root:/root:/bin/bash' >"$tree/etc/passwd"
echo 'root:x:0:' >"$tree/etc/group"
echo '127.0.0.1 localhost rhea' >"$tree/etc/hosts"
printf 'passwd: files\ngroup: files\nhosts: files\n' >"$tree/etc/nsswitch.conf"
echo "export PS1='(rhea) \\w # '" >"$tree/etc/profile"
install -m 755 "$root/tools/guest/init.sh" "$tree/init"

"$root/tools/guest/make_cpio.sh" "$tree" "$out" none
cp "$work/list" "$cache/initramfs/userland.packages"
echo "$out"
