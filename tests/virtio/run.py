#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# rhea-suite: timeout=1200
"""Debian's kernel with its own virtio drivers: what they find, use and say of Rhea's devices.

Each case is a VM with busybox, the kernel's modules and a script. A line "@@name:value" of the script is looked at here.
The last line is "N passed, N failed, N skipped"."""
import argparse
import fcntl
import hashlib
import os
import pathlib
import pty
import random
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
from suite import ROOT, Counts, run_limited, tool

LIMIT = 300


class Bench:
    """Runs scripts in guests."""

    def __init__(self, counts, rhea, scratch):
        self.counts, self.rhea, self.scratch = counts, rhea, scratch
        self.kernel, self.initrd, self.modules = tool("tools/guest/fetch_kernel.sh"), tool("tools/guest/make_initramfs.sh"), None

    def find_modules(self):
        try:
            self.modules = tool("tools/guest/make_modules_initramfs.sh")
        except subprocess.CalledProcessError:
            return False
        return True

    def command(self, name, script, options, cpus, memory, console="stdio", files=(), extra=""):
        folder = self.scratch / name
        (folder / "test").mkdir(parents=True)
        for file in files:
            shutil.copy(file, folder / "test")
        program = folder / "test/run.sh"
        program.write_text("#!/bin/sh\n" + script + "\necho @@done\n")
        program.chmod(0o755)
        overlay = self.scratch / f"{name}.cpio"
        subprocess.run([str(ROOT / "tools/guest/make_cpio.sh"), str(folder), str(overlay)], check=True)
        command = [self.rhea, "run", "--kernel", self.kernel, "--memory", memory, "--cpus", str(cpus), "--console", console, "--no-reboot"]
        for part in (self.initrd, self.modules, overlay):
            command += ["--initrd", str(part)]
        return [*command, "--append", f"console=ttyS0 quiet rhea.run=/test/run.sh {extra}", *options]

    def run(self, name, script, options=(), cpus=1, memory="256M", files=(), extra=""):
        """What the script said, as {name: [values]}; None where the guest did not come to its end."""
        started = time.monotonic()
        text, status = run_limited(self.command(name, script, options, cpus, memory, files=files, extra=extra), LIMIT)
        problem = "" if status == 0 and "@@done" in text else f"status {status}" if status is not None else f"no end within {LIMIT} s"
        if not problem and re.search(r"Call Trace|BUG:|WARNING:|hung_task|I/O error", text):
            problem = "the kernel complains"
        self.counts.verdict(f"{name}: the guest ran to its end", problem, f" ({time.monotonic() - started:.1f} s)")
        if problem:
            print("".join(f"    {line[:200]}\n" for line in text.splitlines()[-40:]), end="")
            return None
        said = {}
        for key, value in re.findall(r"^@@([\w./-]+):(.*)$", text, re.M):
            said.setdefault(key, []).append(value.strip())
        return said

    def expect(self, said, name, wanted):
        """Compares what was said with {name: value or list of values}."""
        if said is None:
            return
        for key, value in wanted.items():
            values = value if isinstance(value, list) else [value]
            got = said.get(key, [])
            good = len(got) == len(values) and all(one(it) if callable(one) else one == it for one, it in zip(values, got))
            self.counts.verdict(f"{name}: {key}", "" if good else f"{got}, not {value}")


def pattern(path, size, seed):
    data = random.Random(seed).randbytes(size)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


NETWORK = """
ip link set eth0 up && udhcpc -q -n -t 3 -i eth0 -s /bin/true >/dev/null 2>&1
ip addr add 10.0.2.15/24 dev eth0
ping -c 2 -W 5 10.0.2.2 >/dev/null && echo @@ping:yes
"""


def transport(bench):
    """Disk, network and entropy over memory-mapped registers, found by ACPI."""
    disk = bench.scratch / "mmio.img"
    digest = pattern(disk, 8 << 20, 1)
    said = bench.run("mmio", """
modprobe virtio_mmio && modprobe virtio_blk && modprobe virtio_net && modprobe virtio-rng
echo @@pci:$(grep -l 1af4 /sys/bus/pci/devices/*/vendor 2>/dev/null | wc -l)
echo @@devices:$(ls /sys/bus/platform/drivers/virtio-mmio | grep -c LNRO0005)
echo @@disk:$(sha256sum /dev/vda | cut -d' ' -f1)
dd if=/dev/zero of=/dev/vda bs=64k count=16 seek=16 conv=fsync 2>/dev/null
echo @@random:$(head -c 64 /dev/hwrng | wc -c)
""" + NETWORK + """
grep -E 'virtio' /proc/interrupts | while read line; do case "$line" in *fasteoi*) echo @@line:fasteoi;; *) echo @@line:"$line";; esac; done
""", ["--transport", "mmio", "--disk", str(disk)], cpus=2)
    bench.expect(said, "mmio", {"pci": "0", "devices": "4", "disk": digest, "random": "64", "ping": "yes", "line": ["fasteoi"] * 3})
    if said is not None:
        written = disk.read_bytes()
        good = written[1 << 20:2 << 20] == bytes(1 << 20) and written[2 << 20:] == random.Random(1).randbytes(8 << 20)[2 << 20:]
        bench.counts.verdict("mmio: what the guest wrote is in the image", "" if good else "it is not")


class Watched:
    """A guest whose console is followed while it runs; with a terminal of its own, if wanted."""

    def __init__(self, command, terminal=False):
        self.said, self.master = "", None
        if terminal:
            self.master, slave = pty.openpty()
            self.resize(100, 30)
            self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=subprocess.STDOUT, start_new_session=True)
            os.close(slave)
            self.output = self.master
        else:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
            self.output = self.process.stdout.fileno()

    def resize(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait_for(self, mark):
        """Whether the guest says this within the limit."""
        give_up = time.monotonic() + LIMIT
        while mark not in self.said:
            ready, _, _ = select.select([self.output], [], [], max(0, give_up - time.monotonic()))
            try:
                data = os.read(self.output, 65536) if ready else b""
            except OSError:  # a terminal whose other side is closed
                data = b""
            if not data:
                return False
            self.said += data.decode(errors="replace").replace("\r", "")
        return True

    def shared_kib(self):
        """Memory that the guest has of the host's."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"RssShmem:\s+(\d+)", status).group(1))

    def end(self):
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            if self.master is not None:
                os.close(self.master)


def channel(bench):
    """A named port of the virtio console, into a file."""
    target = bench.scratch / "channel.txt"
    said = bench.run("channel", """
modprobe virtio_pci && modprobe virtio_console
until grep -q org.example /sys/class/virtio-ports/*/name 2>/dev/null; do sleep 0.2; done
for port in /sys/class/virtio-ports/*; do echo @@name:$(cat $port/name); done
seq 1 20000 >/dev/$(basename $(dirname $(grep -l org.example /sys/class/virtio-ports/*/name)))
echo @@wrote:$?
""", ["--port", f"org.example.log=file:{target}"])
    bench.expect(said, "channel", {"name": ["", "org.example.log"], "wrote": "0"})
    if said is not None:
        good = target.read_text() == "".join(f"{n}\n" for n in range(1, 20001))
        bench.counts.verdict("channel: all of it is in the file", "" if good else f"{target.stat().st_size} bytes")


def terminal(bench):
    """The virtio console on a terminal: its size, a new size, keys."""
    command = bench.command("terminal", """
modprobe virtio_pci && modprobe virtio_console
until stty raw -echo </dev/hvc0 2>/dev/null; do sleep 0.1; done
exec </dev/hvc0 >/dev/hvc0 2>&1
size() { for i in $(seq 60); do [ "$(stty size)" = "$1" ] && break; sleep 0.5; done; echo "@@$2:$(stty size)"; }
size "30 100" first
size "50 132" second
echo @@type
read -r line
echo "@@typed:$line"
sleep 1
""", ["--console-device", "virtio"], 1, "256M", "tty")
    guest = Watched(command, terminal=True)
    first = guest.wait_for("@@first:")
    guest.resize(132, 50)
    guest.process.send_signal(signal.SIGWINCH)  # which the kernel sends where it is the controlling terminal
    typed = guest.wait_for("@@type\n")
    os.write(guest.master, b"some words\n")
    done = guest.wait_for("@@typed:")
    status = guest.end()
    problem = "" if first and typed and done and status == 0 else f"status {status}: {guest.said[-500:]!r}"
    bench.counts.verdict("terminal: the guest ran to its end", problem)
    for mark in ("@@first:30 100", "@@second:50 132", "@@typed:some words"):
        bench.counts.verdict(f"terminal: {mark}", "" if mark in guest.said else f"not among {guest.said[-300:]!r}")


def balloon(bench):
    """Memory that the guest frees leaves the host's process; a balloon makes the guest smaller."""
    guest = Watched(bench.command("balloon", """
mount -o remount,size=90% /dev/shm
modprobe virtio_pci && modprobe virtio_balloon
echo @@start
dd if=/dev/urandom of=/dev/shm/big bs=1M count=250 2>/dev/null
echo @@full
sleep 1
rm /dev/shm/big
echo @@freed
sleep 12
dd if=/dev/urandom of=/dev/shm/again bs=1M count=100 2>/dev/null && sha256sum /dev/shm/again | cut -c1-64 >/tmp/a && sha256sum /dev/shm/again | cut -c1-64 | cmp - /tmp/a && echo @@same
""", (), 1, "512M"))
    guest.wait_for("@@start")
    before = guest.shared_kib()
    guest.wait_for("@@full")
    full = guest.shared_kib()
    guest.wait_for("@@freed")
    least, give_up = full, time.monotonic() + 60
    while least > full - (200 << 10) and time.monotonic() < give_up and guest.process.poll() is None:
        time.sleep(0.2)
        try:
            least = min(least, guest.shared_kib())
        except (OSError, AttributeError):
            break
    done = guest.wait_for("@@done")
    status = guest.end()
    bench.counts.verdict("balloon: the guest ran to its end", "" if done and status == 0 else f"status {status}: {guest.said[-500:]!r}")
    bench.counts.verdict("balloon: what was taken shows", "" if full - before > (200 << 10) else f"{before} to {full} KiB")
    bench.counts.verdict("balloon: what was freed is the host's again", "" if least < full - (200 << 10) else f"{full} to {least} KiB",
                         f" ({before >> 10} MiB, {full >> 10} MiB full, {least >> 10} MiB after)")
    bench.counts.verdict("balloon: memory taken again is whole", "" if "@@same" in guest.said else f"it said {guest.said[-300:]!r}")
    said = bench.run("balloon-size", """
free() { grep MemFree /proc/meminfo | tr -s ' ' | cut -d' ' -f2; }
before=$(free)
modprobe virtio_pci && modprobe virtio_balloon
i=0
while [ $i -lt 60 ]; do
  [ $((before - $(free))) -ge 250000 ] && break
  sleep 0.5; i=$((i + 1))
done
echo @@gone:$((before - $(free)))
""", ["--balloon", "256M"], memory="512M")
    bench.expect(said, "balloon-size", {"gone": lambda kib: 250000 <= int(kib) < 280000})


def disks(bench):
    """What a disk says of itself, as the kernel understands it; discarding; read-only."""
    first, second = bench.scratch / "first.img", bench.scratch / "second.img"
    digest = pattern(first, 16 << 20, 2)
    pattern(second, (4 << 20) + 512, 3)
    said = bench.run("disks", """
modprobe virtio_pci && modprobe virtio_blk
show() { echo @@$1.$2:$(cat /sys/block/$1/$2); }
for name in size serial ro cache_type queue/logical_block_size queue/physical_block_size queue/minimum_io_size queue/discard_granularity queue/max_segments; do show vda $name; show vdb $name; done
echo @@queues:$(ls /sys/block/vda/mq | wc -l)
[ $(cat /sys/block/vda/queue/discard_max_bytes) -gt 0 ] && echo @@discard:yes
[ $(cat /sys/block/vda/queue/write_zeroes_max_bytes) -gt 0 ] && echo @@zeroes:yes
echo @@digest:$(sha256sum /dev/vda | cut -d' ' -f1)
blkdiscard -o 8388608 -l 4194304 /dev/vda && echo @@discarded:yes
dd if=/dev/zero of=/dev/vdb bs=4096 count=1 2>/dev/null || echo @@readonly:yes
""", ["--disk", f"{first},serial=RHEA-17,queues=4", "--disk", f"{second},readonly=on,block=4096"], cpus=4)
    bench.expect(said, "disks", {
        "vda.size": str((16 << 20) // 512), "vda.serial": "RHEA-17", "vda.ro": "0", "vda.cache_type": "write back",
        "vda.queue/logical_block_size": "512", "vda.queue/physical_block_size": "4096", "vda.queue/minimum_io_size": "4096",
        "vda.queue/discard_granularity": "4096", "vda.queue/max_segments": "254", "queues": "4", "discard": "yes", "zeroes": "yes", "digest": digest,
        "discarded": "yes", "vdb.size": str((4 << 20) // 512), "vdb.serial": "", "vdb.ro": "1", "vdb.queue/logical_block_size": "4096",
        "vdb.queue/physical_block_size": "4096", "readonly": "yes"})
    if said is not None:
        data = first.read_bytes()
        good = data[:8 << 20] == random.Random(2).randbytes(16 << 20)[:8 << 20] and data[8 << 20:12 << 20] == bytes(4 << 20)
        bench.counts.verdict("disks: what was discarded is gone, and nothing else", "" if good else "the image says otherwise")


def many(bench):
    """Four disks and four network cards, each with four queues, all of them used by four processors."""
    options, digests = [], []
    for number in range(4):
        image = bench.scratch / f"many{number}.img"
        digests.append(pattern(image, 4 << 20, 10 + number))
        options += ["--disk", f"{image},queues=4", "--net", "user,queues=4"]
    said = bench.run("many", """
modprobe virtio_pci && modprobe virtio_blk && modprobe virtio_net
for disk in vda vdb vdc vdd; do
  echo @@digest:$(sha256sum /dev/$disk | cut -d' ' -f1)
  for cpu in 0 1 2 3; do taskset $((1 << cpu)) dd if=/dev/$disk of=/dev/null bs=64k count=8 skip=$((8 * cpu)) iflag=direct 2>/dev/null; done
done
for card in 0 1 2 3; do
  ip link set eth$card up && ip addr add 10.0.$((2 + card)).15/24 dev eth$card
  for cpu in 0 1 2 3; do taskset $((1 << cpu)) ping -c 1 -W 5 10.0.$((2 + card)).2 >/dev/null && echo @@ping:$card; done
  ip link set eth$card down
  for queue in /sys/class/net/eth$card/queues/tx-*; do echo @@card:$card; done
done
grep -E 'virtio[0-9]+-req' /proc/interrupts | while read line; do set -- $line; echo @@used:$(($2 + $3 + $4 + $5 > 0)); done
""", options, cpus=4)
    bench.expect(said, "many", {"digest": digests, "ping": [str(card) for card in range(4) for _ in range(4)],
                                "card": [str(card) for card in range(4) for _ in range(4)], "used": ["1"] * 16})


def ports(bench):
    """Devices behind PCI Express ports: the kernel numbers the buses and opens the windows; interrupts by messages and by pins."""
    disk = bench.scratch / "ports.img"
    digest = pattern(disk, 4 << 20, 20)
    for name, pins in (("ports", ""), ("ports-intx", "pci=nomsi")):
        said = bench.run(name, """
modprobe virtio_pci && modprobe virtio_blk && modprobe virtio_net && modprobe virtio-rng
echo @@ports:$(ls -d /sys/bus/pci/devices/0000:00:02.* | wc -l)
echo @@behind:$(ls /sys/bus/pci/devices | grep -c '^0000:0[1-9]:00.0')
echo @@disk:$(sha256sum /dev/vda | cut -d' ' -f1)
""" + NETWORK, ["--transport", "pci-ports", "--disk", str(disk)], cpus=2, extra=pins)
        bench.expect(said, name, {"ports": "4", "behind": "4", "disk": digest, "ping": "yes"})


def code_pages(path, count):
    """A function on each page: it returns a number that the page ends in."""
    source = random.Random(4)
    with open(path, "wb") as sink:
        for _ in range(count):
            value, body = source.getrandbits(32), b""
            body += b"\xb8" + value.to_bytes(4, "little")  # mov eax, value
            for _ in range(source.randrange(40)):
                number = source.getrandbits(32)
                body += b"\x05" + number.to_bytes(4, "little")  # add eax, number
                value = (value + number) & 0xffffffff
            body += b"\xc3"
            sink.write(body.ljust(4088, b"\xcc") + value.to_bytes(8, "little"))


def code(bench):
    """Code that a disk's DMA writes over code that has been executed: always the new code runs."""
    program = bench.scratch / "dmacode"
    subprocess.run(["cc", "-O1", "-static", "-pthread", "-o", str(program), str(ROOT / "tests/virtio/programs/dmacode.c")], check=True)
    raw, qcow2 = bench.scratch / "code.img", bench.scratch / "code.qcow2"
    code_pages(raw, 64)
    subprocess.run(["qemu-img", "convert", "-q", "-O", "qcow2", str(raw), str(qcow2)], check=True)
    whole = os.environ.get("RHEA_TEST_LONG") == "1"  # else each image and each way once
    for image, rings in ((f"{raw}", ("on", "off") if whole else ("on",)), (f"{qcow2},format=qcow2", ("on", "off") if whole else ("off",))):
        for ring in rings:
            name = f"code-{'qcow2' if 'qcow2' in image else 'raw'}-uring-{ring}"
            said = bench.run(name, "modprobe virtio_pci && modprobe virtio_blk\n/test/dmacode /dev/vda 64", ["--disk", f"{image},io-uring={ring}"], cpus=2,
                             files=[program])
            bench.expect(said, name, {"code": "new"})


def fuzzers(counts):
    """At full depth: five minutes of each fuzz target of a virtio device."""
    if shutil.which("clang++-19") is None:
        return counts.skip("fuzz targets", "clang++-19 is not installed (tools/deps.sh fuzz)")
    for device in ("balloon", "blk", "console", "net", "rng"):
        text, status = run_limited([str(ROOT / "tools/run_fuzzers.sh"), "300", f"virtio_{device}_fuzz"], 3600)
        counts.verdict(f"fuzz target virtio_{device}", "" if status == 0 else text[-500:])


CASES = [transport, channel, terminal, balloon, disks, many, ports, code]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build-dir", default="build")
    parser.add_argument("--case", action="append", help="only this one")
    arguments = parser.parse_args()
    rhea = os.environ.get("RHEA_BIN") or str(pathlib.Path(arguments.build_dir).resolve() / "rhea")
    counts = Counts()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(counts, rhea, pathlib.Path(scratch))
        if not bench.find_modules():
            counts.skip("all", "the kernel's modules cannot be had")
            return counts.end()
        for case in CASES:
            if not arguments.case or case.__name__ in arguments.case:
                case(bench)
    if os.environ.get("RHEA_TEST_LONG") == "1" and not arguments.case:
        fuzzers(counts)
    return counts.end()


if __name__ == "__main__":
    sys.exit(main())
