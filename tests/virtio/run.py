#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# rhea-suite: timeout=600
"""Debian's kernel with its own virtio drivers: what they find, use and say of Rhea's devices.

Each case is a VM with busybox, the kernel's modules and a script. A line "@@name:value" of the script is looked at here.
The last line is "N passed, N failed, N skipped"."""
import argparse
import hashlib
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
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

    def command(self, name, script, options, cpus, memory):
        folder = self.scratch / name
        (folder / "test").mkdir(parents=True)
        program = folder / "test/run.sh"
        program.write_text("#!/bin/sh\n" + script + "\necho @@done\n")
        program.chmod(0o755)
        overlay = self.scratch / f"{name}.cpio"
        subprocess.run([str(ROOT / "tools/guest/make_cpio.sh"), str(folder), str(overlay)], check=True)
        command = [self.rhea, "run", "--kernel", self.kernel, "--memory", memory, "--cpus", str(cpus), "--console", "stdio", "--no-reboot"]
        for part in (self.initrd, self.modules, overlay):
            command += ["--initrd", str(part)]
        return [*command, "--append", "console=ttyS0 quiet rhea.run=/test/run.sh", *options]

    def run(self, name, script, options=(), cpus=1, memory="256M"):
        """What the script said, as {name: [values]}; None where the guest did not come to its end."""
        started = time.monotonic()
        text, status = run_limited(self.command(name, script, options, cpus, memory), LIMIT)
        problem = "" if status == 0 and "@@done" in text else f"status {status}" if status is not None else f"no end within {LIMIT} s"
        if not problem and re.search(r"Call Trace|BUG:|WARNING:|hung_task|I/O error", text):
            problem = "the kernel complains"
        self.counts.verdict(f"{name}: the guest ran to its end", problem, f" ({time.monotonic() - started:.1f} s)")
        if problem:
            print("".join(f"    {line[:200]}\n" for line in text.splitlines()[-40:]), end="")
            return None
        said = {}
        for key, value in re.findall(r"^@@([\w.-]+):(.*)$", text, re.M):
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
    bench.expect(said, "mmio", {"pci": "0", "devices": "3", "disk": digest, "random": "64", "ping": "yes", "line": ["fasteoi"] * 3})
    if said is not None:
        written = disk.read_bytes()
        good = written[1 << 20:2 << 20] == bytes(1 << 20) and written[2 << 20:] == random.Random(1).randbytes(8 << 20)[2 << 20:]
        bench.counts.verdict("mmio: what the guest wrote is in the image", "" if good else "it is not")


CASES = [transport]


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
    return counts.end()


if __name__ == "__main__":
    sys.exit(main())
