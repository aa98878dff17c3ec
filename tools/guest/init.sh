#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# /init of Rhea's small initramfs: the kernel's file systems, a word of welcome, a shell with job control.
# On the kernel command line: rhea.run=PATH runs that program instead, prints its status and powers off;
# rhea.settle=SECONDS waits before that, so that the kernel's timer watchdogs get their say.
/bin/busybox mkdir -p /proc /sys /dev /tmp /root /bin /sbin /usr/bin /usr/sbin
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev 2>/dev/null
/bin/busybox mkdir -p /dev/pts /dev/shm
/bin/busybox mount -t devpts devpts /dev/pts
/bin/busybox mount -t tmpfs tmpfs /dev/shm
[ -e /bin/ls ] || /bin/busybox --install -s
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM="${TERM:-vt100}"
hostname rhea
ip link set lo up 2>/dev/null

run=
settle=
for word in $(cat /proc/cmdline); do
  case "$word" in
    rhea.run=*) run=${word#rhea.run=} ;;
    rhea.settle=*) settle=${word#rhea.settle=} ;;
  esac
done

# The line that boot tests wait for: the kernel came up and user space runs.
echo "rhea-init: reached after $(cut -d' ' -f1 /proc/uptime) s, Linux $(uname -r)"

if [ -n "$run" ]; then
  "$run"
  echo "rhea-init: $run ended with status $?"
  [ -z "$settle" ] || sleep "$settle"
  sync
  poweroff -f
fi

cat <<WELCOME

Welcome to a virtual machine on Rhea. This is Linux $(uname -r) with busybox.
'poweroff -f' switches it off.

WELCOME
cd /root
# A shell that exits is replaced by a new one: init must not end.
while :; do
  setsid cttyhack sh -l
  echo "The shell has ended; here is another one ('poweroff -f' switches the machine off)."
done
