#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs the cases named in /test/plan ("NAME SECONDS" per line), in a guest or in a chroot, and prints what each printed.
# Every line of a case's output starts with "| ", so that the kernel's words on the same console can be told apart.
export LC_ALL=C.UTF-8 TZ=UTC PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1
export PROGRAMS=/test/programs
. /test/settings
umask 022
work=/tmp/case
while read -r name limit; do
  rm -rf "$work"
  mkdir -p "$work"
  cd "$work" || exit 1
  echo "@@begin $name"
  started=${EPOCHREALTIME/./}
  timeout -s KILL "$limit" bash "/test/cases/$name.sh" >/tmp/output 2>&1 </dev/null
  status=$?
  sed 's/^/| /; $a\' /tmp/output
  echo "@@end $name $status $(((${EPOCHREALTIME/./} - started) / 1000))"
done </test/plan
cd / && rm -rf "$work" /tmp/output
if [ "$1" = guest ]; then
  echo "@@begin kernel-log"
  busybox dmesg -r | sed 's/^/| /'
  echo "@@end kernel-log 0 0"
fi
echo "@@done"
