#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that a task needs and that are missing: tools/deps.sh GROUP...
# Groups: build guest test bench lint fuzz all. Says nothing and touches nothing when all are there.
set -euo pipefail

packages_of() {
  case "$1" in
    build) echo g++ cmake pkg-config ninja-build ccache mold liburing-dev libslirp-dev libfmt-dev libcli11-dev zlib1g-dev liblzma-dev libzstd-dev liblz4-dev libbz2-dev libseccomp-dev ;;
    guest) echo busybox-static cpio kmod xz-utils zstd ca-certificates ;;
    test)  echo python3 libgtest-dev libgmock-dev acpica-tools qemu-utils stress-ng mmdebstrap e2fsprogs openssh-client $(packages_of guest) ;;
    bench) echo python3 qemu-system-x86 iperf3 mmdebstrap e2fsprogs $(packages_of guest) ;;
    lint)  echo python3 git clang-format-19 clang-tidy-19 ;;
    fuzz)  echo clang-19 libclang-rt-19-dev libgtest-dev libgmock-dev ;;
    all)   for group in build guest test bench lint fuzz; do packages_of "$group"; done ;;
    *)     echo "tools/deps.sh: unknown group '$1' (build guest test bench lint fuzz all)" >&2; return 2 ;;
  esac
}

wanted=()
for group in "${@:-all}"; do
  list=$(packages_of "$group")
  # shellcheck disable=SC2206  # package names are words
  wanted+=($list)
done

missing=()
for package in $(printf '%s\n' "${wanted[@]}" | sort -u); do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "Missing packages: ${missing[*]}" >&2
    echo "Not root and there is no sudo. As root, run: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

export DEBIAN_FRONTEND=noninteractive
echo "Installing missing packages: ${missing[*]}" >&2
install_missing() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null >&2
}
# Package lists may be absent (a fresh container) or older than the archive, so one refresh and a second try.
if ! install_missing; then
  "${as_root[@]}" apt-get update -q </dev/null >&2 || true
  if ! install_missing; then
    echo "Could not install: ${missing[*]}" >&2
    echo "Is the network there? Rhea needs these packages of Debian 12; install them by hand with:" >&2
    echo "  apt-get install ${missing[*]}" >&2
    exit 1
  fi
fi
