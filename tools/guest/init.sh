#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# /init of Rhea's test images: the kernel's file systems, a word of welcome, a shell with job control.
# On the kernel command line: rhea.run=PATH runs that program instead, prints its status and powers off;
# rhea.settle=SECONDS waits before that, so that the kernel's timer watchdogs get their say.
# Programs are called through busybox by name: in the Debian userland its applets are not installed.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev 2>/dev/null  # the kernel may have done so itself
$b mkdir -p /dev/pts /dev/shm
$b mount -t devpts devpts /dev/pts
$b mount -t tmpfs tmpfs /dev/shm
$b mount -t tmpfs tmpfs /tmp
[ -e /bin/ls ] || $b --install -s
[ -e /dev/fd ] || $b ln -s /proc/self/fd /dev/fd
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM="${TERM:-vt100}"
$b hostname rhea
$b ip link set lo up 2>/dev/null

run=
settle=
for word in $($b cat /proc/cmdline); do
  case "$word" in
    rhea.run=*) run=${word#rhea.run=} ;;
    rhea.settle=*) settle=${word#rhea.settle=} ;;
  esac
done

# The line that boot tests wait for: the kernel came up and user space runs.
echo "rhea-init: reached after $($b cut -d' ' -f1 /proc/uptime) s, Linux $($b uname -r)"

cd /root
if [ -n "$run" ]; then
  "$run"
  echo "rhea-init: $run ended with status $?"
  [ -z "$settle" ] || $b sleep "$settle"
  $b sync
  $b poweroff -f
fi

shell='/bin/sh'
userland=busybox
if [ -x /bin/bash ]; then
  shell=/bin/bash
  userland='a Debian userland'
fi
$b cat <<WELCOME

Welcome to a virtual machine on Rhea. This is Linux $($b uname -r) with $userland.
'poweroff -f' switches it off.

WELCOME
[ -e /sbin/poweroff ] || [ -e /bin/poweroff ] || $b ln -s $b /sbin/poweroff
# A shell that exits is replaced by a new one: init must not end.
while :; do
  $b setsid $b cttyhack $shell -l
  echo "The shell has ended; here is another one ('poweroff -f' switches the machine off)."
done
