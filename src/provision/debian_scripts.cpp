// SPDX-License-Identifier: Apache-2.0
#include "provision/debian_scripts.h"

namespace rhea::provision {

// An initrd with what leads to the disk, and no more: 5 MB instead of 35, which takes a second less to start.
const std::string_view kDebianBeforePackages = R"sh(set -eu
mkdir -p "$1/etc/initramfs-tools/conf.d"
printf 'MODULES=list\nCOMPRESS=zstd\n' >"$1/etc/initramfs-tools/conf.d/rhea"
printf 'virtio_pci\nvirtio_blk\next4\n' >"$1/etc/initramfs-tools/modules"
)sh";

const std::string_view kDebianAfterPackages = R"sh(set -eu
root=$1
mkdir -p "$root/etc/systemd/system/serial-getty@ttyS0.service.d" "$root/etc/systemd/system/ssh.service.d" \
  "$root/etc/systemd/network" "$root/etc/systemd/resolved.conf.d" "$root/etc/ssh/sshd_config.d" "$root/etc/tmpfiles.d"

# The console is logged in: who can start the machine owns it.
cat >"$root/etc/systemd/system/serial-getty@ttyS0.service.d/rhea.conf" <<'END'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200,57600,38400,9600 %I $TERM
END
chroot "$root" passwd -d root >/dev/null

cat >"$root/etc/systemd/network/80-rhea.network" <<'END'
[Match]
Type=ether

[Network]
DHCP=yes
LLMNR=no
MulticastDNS=no
END
printf '[Resolve]\nLLMNR=no\nMulticastDNS=no\n' >"$root/etc/systemd/resolved.conf.d/rhea.conf"
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"

# The keys that may log in come with each start. The host's key is made at the first one: no two machines share one.
cat >"$root/etc/ssh/sshd_config.d/rhea.conf" <<'END'
PermitRootLogin prohibit-password
PasswordAuthentication no
AuthorizedKeysFile .ssh/authorized_keys /run/rhea/authorized_keys
HostKey /etc/ssh/ssh_host_ed25519_key
END
cat >"$root/etc/systemd/system/ssh.service.d/rhea.conf" <<'END'
[Service]
ExecStartPre=
ExecStartPre=/bin/sh -c '[ -s /etc/ssh/ssh_host_ed25519_key ] || ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key'
ExecStartPre=/usr/sbin/sshd -t
END
printf 'd /run/rhea 0755 root root -\nf^ /run/rhea/authorized_keys 0644 root root - ssh.authorized_keys.root\n' \
  >"$root/etc/tmpfiles.d/rhea.conf"
ln -sf /dev/null "$root/etc/tmpfiles.d/provision.conf"  # would keep the first start's keys for good
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname" "$root/var/lib/dbus/machine-id"
: >"$root/etc/machine-id"

# Packages are fetched as the host fetches them. What is the host's own loopback has another address in the guest. Names and
# passwords of proxies go where only root reads them.
{ apt-config dump 2>/dev/null | sed -n 's/^\(Acquire::[a-z]*::Proxy "[^"]*";\)$/\1/p'
  [ -z "${http_proxy:-}" ] || printf 'Acquire::http::Proxy "%s";\n' "$http_proxy"
  [ -z "${https_proxy:-}" ] || printf 'Acquire::https::Proxy "%s";\n' "$https_proxy"
} | perl -ne '
  BEGIN { umask 077; open AUTH, ">", "$ARGV[0]/etc/apt/auth.conf.d/90rhea-proxy.conf" or die; shift }
  next if /""/;
  my ($name, $password) = s{(://)([^@/"]*)@}{$1} ? map { s/%([0-9a-f]{2})/chr hex $1/egir } split(/:/, $2, 2) : ();
  s{//(localhost|127\.0\.0\.1|\[::1\])([:/"])}{//10.0.2.2$2};
  printf AUTH "machine %s login %s password %s\n", m{"([a-z0-9]+://[^/"]+)}i, $name, $password // "" if defined $name;
  print' "$root" >"$root/etc/apt/apt.conf.d/90rhea-proxy"
for file in "$root/etc/apt/apt.conf.d/90rhea-proxy" "$root/etc/apt/auth.conf.d/90rhea-proxy.conf"; do
  [ -s "$file" ] || rm -f "$file"
done
sed -i 's#//\(localhost\|127\.0\.0\.1\|\[::1\]\)\([:/]\)#//10.0.2.2\2#' "$root/etc/apt/sources.list"
echo 'debconf debconf/frontend select Teletype' | chroot "$root" debconf-set-selections

printf '/dev/vda\t/\text4\terrors=remount-ro\t0\t1\n' >"$root/etc/fstab"
printf 'LANG=C.UTF-8\n' >"$root/etc/default/locale"
zone=$(readlink /etc/localtime 2>/dev/null | sed -n 's#.*/zoneinfo/##p')
[ -z "$zone" ] || [ ! -e "$root/usr/share/zoneinfo/$zone" ] || ln -sf "/usr/share/zoneinfo/$zone" "$root/etc/localtime"

chroot "$root" systemctl -q enable systemd-networkd systemd-resolved ssh
# What takes a processor's time after the start and is of no use in a machine that lives for minutes or days.
chroot "$root" systemctl -q mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service \
  dpkg-db-backup.timer fstrim.timer systemd-networkd-wait-online.service getty@tty1.service systemd-pstore.service
)sh";

// Without root, what is below the folder is out of reach of the namespace's users: the archive comes on standard input,
// and the disk is a descriptor (through /proc, which asks for the rights to the file alone).
const std::string_view kDebianMakeDisk = R"sh(
archive=$1 work=$2 size=$3 fill=$4
shift 4
tar -xOf "$archive" --wildcards './boot/vmlinuz-*' >"$work/vmlinuz"
tar -xOf "$archive" --wildcards './boot/initrd.img-*' >"$work/initrd"
: >"$work/base.raw"
chmod 666 "$work/base.raw"
exec 3<>"$work/base.raw"
"$@" sh -euc "$fill" sh "$size" <"$archive"
chmod 644 "$work/base.raw"
)sh";

// The guest's /dev is the kernel's own; in a namespace the nodes could not be made.
const std::string_view kDebianFillDisk = R"sh(
size=$1
tree=$(mktemp -d "${TMPDIR:-/var/tmp}/rhea-tree-XXXXXX")
trap 'rm -rf "$tree"' EXIT
trap 'exit 143' HUP INT TERM
tar -x -C "$tree" --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/*'
chmod 755 "$tree"
mke2fs -q -t ext4 -L debian -E assume_storage_prezeroed=1,root_owner=0:0 -d "$tree" /proc/self/fd/3 "$size"
)sh";

}  // namespace rhea::provision
