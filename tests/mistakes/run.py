#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# rhea-suite: timeout=300
"""What users get wrong with disks and networks: each mistake ends the program at once, with the right status and one line that says what it is.

A case that needs rights (network namespaces, mounts) or a device that is not there is skipped aloud. The last line is
"N passed, N failed, N skipped"."""
import argparse
import os
import pathlib
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
from suite import ROOT, Counts

USAGE, HOST = 2, 1
NOBODY = 65534


class Suite:
    def __init__(self, rhea, folder):
        self.rhea, self.folder, self.counts = rhea, folder, Counts()
        # A Multiboot image that halts for ever. [Multiboot 0.6.96 3.1]
        base = 0x100000
        header = struct.pack("<8I", 0x1BADB002, 0x10000, -(0x1BADB002 + 0x10000) & 0xFFFFFFFF, base, base, 0, 0, base + 32)
        self.kernel = self.file("idle", header + bytes.fromhex("faf4ebfd"))
        self.environment = dict(os.environ, HOME=str(folder), XDG_DATA_HOME=str(folder / "data"), TMPDIR=str(folder))

    def file(self, name, content=b"", size=None):
        path = self.folder / name
        path.write_bytes(content)
        if size is not None:
            os.truncate(path, size)
        return str(path)

    def run(self, arguments, prefix=(), **how):
        how = {"env": self.environment, **how}
        return subprocess.run([*prefix, self.rhea, "run", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **how)

    def refused(self, name, status, pattern, *options, what=None, **how):
        """The options end it with this status and one line on standard error, which matches."""
        try:
            result = self.run([*(what or ["--kernel", self.kernel]), "-m", "64M", "--engine", "dbt", "--console", "none", *options], **how)
        except subprocess.TimeoutExpired:
            return self.counts.verdict(name, "it went on")
        lines = result.stderr.splitlines()
        good = result.returncode == status and len(lines) == 1 and lines[0].startswith("rhea: ") and re.search(pattern, lines[0])
        self.counts.verdict(name, "" if good else f"status {result.returncode}, wanted {status} and /{pattern}/: {result.stderr!r}",
                            f": {lines[0]}" if good else "")

    def start(self, *options):
        """A machine that runs; ended by the caller."""
        process = subprocess.Popen([self.rhea, "run", "--kernel", self.kernel, "-m", "64M", "--console", "none", *options], env=self.environment,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        return process


def disks(suite):
    disk = suite.file("disk.img", size=1 << 20)
    other = suite.file("other.img", size=1 << 20)
    suite.refused("a disk that is not there", HOST, r"none\.img.*No such file", "--disk", str(suite.folder / "none.img"))
    suite.refused("a folder as a disk", USAGE, r"Is a directory|neither a file nor a block device", "--disk", str(suite.folder))
    fifo = suite.folder / "pipe"
    os.mkfifo(fifo)
    suite.refused("a pipe as a disk", USAGE, "neither a file nor a block device", "--disk", f"{fifo},readonly=on")
    suite.refused("rhea run PIPE", USAGE, "but a pipe", what=[str(fifo)])
    suite.refused("rhea run FOLDER", USAGE, "but a folder", what=[str(suite.folder)])
    suite.refused("a format that is none", USAGE, "'vmdkk' is none of .*raw, qcow2", "--disk", f"{disk},format=vmdkk")
    suite.refused("a property that is none", USAGE, "did you mean 'readonly'", "--disk", f"{disk},readonli=on")
    suite.refused("a raw disk said to be qcow2", USAGE, r"other\.img.*(qcow2|magic)", "--disk", f"{other},format=qcow2")
    cut = suite.file("cut.qcow2", b"QFI\xfb\0\0\0\3")
    suite.refused("a qcow2 image cut short", HOST, r"cut\.qcow2", "--disk", f"{cut},format=qcow2")
    made = suite.folder / "top.qcow2"
    subprocess.run([suite.rhea, "image", "create", "--backing", "other.img", "--backing-format", "raw", str(made)], check=False, capture_output=True)
    if made.exists():
        os.unlink(other)
        suite.refused("an image whose backing file is gone", HOST, r"other\.img.*No such file", "--disk", f"{made},format=qcow2")
    else:
        suite.counts.verdict("an image whose backing file is gone", "rhea image create did not make one")
    suite.refused("one disk twice", HOST, "in use|lock", "--disk", disk, "--disk", disk)
    holder = suite.start("--disk", disk)
    try:
        give_up = time.monotonic() + 30
        while "vcpu0" not in threads_of(holder.pid) and time.monotonic() < give_up:  # then it has its disk
            time.sleep(0.05)
        suite.refused("a disk that another machine uses", HOST, r"disk\.img.*in use|in use.*disk\.img", "--disk", disk)
    finally:
        holder.kill()
        holder.communicate()


def threads_of(process):
    return {path.read_text().strip() for path in pathlib.Path(f"/proc/{process}/task").glob("*/comm")}


def files_of_others(suite):
    """What rights forbid, as somebody without any."""
    disk = suite.file("fixed.img", size=1 << 20)
    os.chmod(disk, 0o444)
    how = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    try:
        subprocess.run([suite.rhea, "version"], capture_output=True, check=True, **how)
    except (OSError, subprocess.CalledProcessError) as problem:
        suite.counts.skip("a file that may only be read", f"no other user can run {suite.rhea}: {problem}")
        return
    suite.refused("a file that may only be read", HOST, r"readonly=on.*fixed\.img.*Permission denied", "--disk", disk, **how)
    os.chmod(disk, 0)
    suite.refused("a file that may not be read", HOST, r"fixed\.img.*Permission denied", "--disk", f"{disk},readonly=on", **how)
    if os.path.exists("/dev/net/tun"):
        suite.refused("a tap device without rights", HOST, r"no permission for the tap device|/dev/net/tun.*Permission denied", "--net", "tap=rhea-t0", **how)
    else:
        suite.counts.skip("a tap device without rights", "no /dev/net/tun")


def full_disk(suite):
    """A file system of 32 KiB, seen by the program alone."""
    disk = suite.file("big.img", size=1 << 30)
    small = suite.folder / "small"
    small.mkdir()
    prefix = ["unshare", "--mount", "sh", "-euc", f'mount -t tmpfs -o size=32k none "{small}"; dd if=/dev/zero of="{small}/fill" bs=4k count=7 2>/dev/null; exec "$@"', "sh"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        suite.counts.skip("a full disk", "no right to mount")
        return
    full = dict(suite.environment, TMPDIR=str(small))
    suite.refused("--snapshot on a full disk", HOST, "No space left", "--disk", disk, "--snapshot", prefix=prefix, env=full)


def forwards(suite):
    for kind, name in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
        with socket.socket(socket.AF_INET, kind) as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            if kind == socket.SOCK_STREAM:
                taken.listen()
            suite.refused(f"a {name} port that is taken", HOST, rf"cannot forward {name.upper()} port {port} of 127\.0\.0\.1: Address already in use",
                          "--forward", f"{name}:{port}:22")
    suite.refused("an address of another host", HOST, r"port 2222 of 192\.0\.2\.1: Cannot assign", "--forward", "tcp:192.0.2.1:2222:22")
    suite.refused("an address that is none", USAGE, "'1.2.3' is no IPv4 address", "--forward", "tcp:1.2.3:2222:22")
    suite.refused("a forward that is none", USAGE, "a forward is tcp:HOSTPORT:GUESTPORT", "--forward", "2222:22")
    suite.refused("a forward without its network", USAGE, "--forward needs --net user", "--net", "none", "--forward", "tcp:2222:22")


def networks(suite):
    suite.refused("a network that is none", USAGE, "did you mean 'user'", "--net", "usr")
    suite.refused("an address of a card that is none", USAGE, "no address of a card", "--net", "user,mac=1:2:3")
    suite.refused("two cards with one address", USAGE, "same address", "--net", "user,mac=52:48:45:01:02:03", "--net", "user,mac=52:48:45:01:02:03")
    suite.refused("an MTU out of range", USAGE, "'100' is out of range", "--net", "user,mtu=100")
    suite.refused("a capture that cannot be", HOST, r"/nonexistent/x\.pcap", "--capture", "/nonexistent/x.pcap")
    suite.refused("a name of a tap device that cannot be", USAGE, "1 to 15 characters", "--net", "tap=a-name-that-is-too-long")
    suite.refused("a bridge that is not there", HOST, r"there is no bridge rhea-none \(as root: ip link add", "--net", "bridge=rhea-none")
    prefix = ["unshare", "--net", "--"]
    if not os.path.exists("/dev/net/tun") or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        suite.counts.skip("tap devices", "no /dev/net/tun, or no right to make a network of one's own")
        return
    suite.refused("a tap device of another kind", USAGE, "lo is an interface of another kind", "--net", "tap=lo", prefix=prefix)
    suite.refused("a bridge that is none", USAGE, "lo is no bridge", "--net", "bridge=lo", prefix=prefix)
    suite.refused("a tap device that is in use", HOST, "rhea-t0 is in use", "--net", "tap=rhea-t0", "--net", "tap=rhea-t0", prefix=prefix)


def systems(suite):
    suite.refused("a release that is not known", USAGE, "Debian 12 is", what=["debian:99"])
    suite.refused("a machine's name that cannot be", USAGE, "a machine's name is", "--name", "a/b", what=["debian"])
    suite.refused("a mirror that is none", USAGE, "--mirror takes the address", "--mirror", "/srv/debian", what=["debian"])
    suite.refused("a mirror without a system", USAGE, "--mirror goes with a system", "--mirror", "http://x/debian")
    folder = suite.folder / "data/rhea/images/debian-12"
    folder.mkdir(parents=True)
    for name in ("vmlinuz", "initrd", "web.qcow2"):
        (folder / name).write_bytes(b"x")
    suite.refused("a lost base", HOST, r"lacks base\.raw, which the machines there need \(web\).*begin anew: mv", what=["debian"])
    bare = {key: value for key, value in suite.environment.items() if key not in ("HOME", "XDG_DATA_HOME")}
    suite.refused("no place for images", HOST, "set HOME, or XDG_DATA_HOME", what=["debian"], env=bare)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", default="build")
    arguments = parser.parse_args()
    rhea = os.environ.get("RHEA_BIN") or str((ROOT / arguments.build_dir / "rhea").resolve())
    with tempfile.TemporaryDirectory(prefix="rhea-mistakes-") as folder:
        os.chmod(folder, 0o755)
        suite = Suite(rhea, pathlib.Path(folder))
        for part in (disks, files_of_others, full_disk, forwards, networks, systems):
            part(suite)
        return suite.counts.end()


if __name__ == "__main__":
    sys.exit(main())
