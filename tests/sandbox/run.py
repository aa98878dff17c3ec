#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# rhea-suite: timeout=300
"""The sandbox around a running VM: which threads are confined, and that what users do with a VM works inside it.

What a confined thread may call is the affair of src/sandbox/sandbox_test.cpp. The last line is "N passed, N failed, N skipped"."""
import argparse
import os
import pathlib
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time

# A Multiboot image (its header says where it goes) that prints a letter and then does as the code says.
BASE = 0x100000
PRINT = bytes.fromhex("66baf803" "b041" "ee")                    # mov dx,0x3f8; mov al,'A'; out dx,al
IDLE = bytes.fromhex("fa" "f4" "ebfd")                           # cli; 1: hlt; jmp 1b
RESET = bytes.fromhex("66baf90c" "b002" "ee" "b006" "ee" "ebfe")  # port 0xcf9: 2, 6


def image(code):
    header = struct.pack("<8I", 0x1BADB002, 0x10000, -(0x1BADB002 + 0x10000) & 0xFFFFFFFF, BASE, BASE, 0, 0, BASE + 32)
    return header + PRINT + code


class Suite:
    def __init__(self, rhea, guests, folder):
        self.rhea, self.guests, self.folder = rhea, guests, folder
        self.passed = self.failed = self.skipped = 0
        self.idle, self.reset = folder / "idle", folder / "reset"
        self.idle.write_bytes(image(IDLE))
        self.reset.write_bytes(image(RESET))

    def verdict(self, name, good, detail=""):
        print(f"{'ok' if good else 'FAIL'} {name}{'' if good else ': ' + detail}", flush=True)
        self.passed += good
        self.failed += not good

    def start(self, kernel, *options, console="stdio", **how):
        command = [self.rhea, "run", "--kernel", str(kernel), "-m", "64M", "--console", console, *options]
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        return subprocess.Popen(command, **how)

    def letters(self, process, count):
        got = b""
        deadline = time.monotonic() + 30
        while got.count(b"A") < count and time.monotonic() < deadline:
            if select.select([process.stdout], [], [], 1)[0]:
                piece = os.read(process.stdout.fileno(), 4096)
                if not piece:
                    break
                got += piece
        return got.count(b"A")

    def end(self, process):
        """As a user ends it: the guest has no ACPI, so the first SIGTERM is enough."""
        process.terminate()
        try:
            errors = process.communicate(timeout=30)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            return None, process.communicate()[1]
        return process.returncode, errors


def confinement(status):
    """Name of the thread, and (Seccomp mode, number of filters, no_new_privs)."""
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return fields["Name"].strip(), tuple(int(fields[key]) for key in ("Seccomp", "Seccomp_filters", "NoNewPrivs"))


def threads(process):
    return dict(confinement(status) for status in pathlib.Path(f"/proc/{process.pid}/task").glob("*/status"))


def confined_threads(suite, cpus, options, wanted, wanted_network, name):
    process = suite.start(suite.idle, "--cpus", str(cpus), *options)
    started = suite.letters(process, 1)
    names = ["rhea", "rhea-io", *(f"vcpu{i}" for i in range(cpus))] + ([] if "none" in options else ["rhea-net0"])
    wanted = dict.fromkeys(names, wanted) | ({} if "none" in options else {"rhea-net": wanted_network})
    deadline = time.monotonic() + 20
    while (found := threads(process)) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)  # the last vCPU's thread may not have got there
    status, errors = suite.end(process)
    suite.verdict(name, started == 1 and found == wanted and status == 1 and b"ended by a signal" in errors,
                  f"threads {found}, wanted {wanted}; status {status}, {errors}")


def restarts(suite):
    process = suite.start(suite.reset)
    count = suite.letters(process, 5)
    status, errors = suite.end(process)
    suite.verdict("a guest that restarts is loaded anew", count >= 5 and status == 1 and b"sandbox" not in errors,
                  f"{count} starts, status {status}, {errors}")


def every_output(suite):
    """Options that write files and the log from vCPU threads, and a triple fault's report."""
    perf_map, debugcon = suite.folder / "map", suite.folder / "debugcon"
    options = ["--trace", "all", "--stats", "--no-reboot", "--debug-exit", "--dbt-perf-map", str(perf_map), "--debugcon", str(debugcon)]
    process = suite.start(suite.guests / "triple.elf", *options, console=f"file:{suite.folder / 'console'}")
    errors = process.communicate(timeout=60)[1]
    said = (suite.folder / "console").read_bytes()
    good = process.returncode == 3 and b"triple fault" in errors and b"sandbox" not in errors and b"1 passed" in said
    suite.verdict("traces, perf map, statistics and a dying guest", good and perf_map.stat().st_size > 0,
                  f"status {process.returncode}, {errors[-500:]}")


def terminal(suite):
    """Raw mode, SIGCONT, and Ctrl-A x, which restores the terminal."""
    ours, theirs = pty.openpty()
    process = suite.start(suite.idle, console="tty", stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    said = b""

    def wait_for(what):
        nonlocal said
        deadline = time.monotonic() + 20
        while what not in said and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.2)[0]:
                said += os.read(ours, 4096)
        return what in said

    good = wait_for(b"A")
    process.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGCONT)
    os.write(ours, b"\x01h")
    good = good and wait_for(b"Ctrl-A x ends")
    os.write(ours, b"\x01x")
    try:
        status = process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    os.close(ours)
    suite.verdict("a terminal", good and status == 0, f"status {status}, said {said}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build-dir", default=os.environ.get("RHEA_BUILD_DIR", "build"))
    options = parser.parse_args()
    build = pathlib.Path(options.build_dir)
    rhea = os.environ.get("RHEA_BIN", str(build / "rhea"))
    with tempfile.TemporaryDirectory(prefix="rhea-sandbox-") as folder:
        suite = Suite(rhea, build / "tests" / "guest", pathlib.Path(folder))
        refused = subprocess.run([rhea, "run", "--kernel", "/nonexistent", "--sandbox", "on"], capture_output=True, check=False)
        if b"sanitizers" in refused.stderr:
            print("skip all: a build with sanitizers has no sandbox")
            print("0 passed, 0 failed, 1 skipped")
            return 0
        # Seccomp mode 2 is a filter. One filter for all, one more for all but the network's own thread; a container around
        # this test may have put filters of its own before them.
        _, outside = confinement(pathlib.Path("/proc/self/status"))
        one_filter, two_filters = (2, outside[1] + 1, 1), (2, outside[1] + 2, 1)
        confined_threads(suite, 2, [], two_filters, one_filter, "every thread is confined without being asked")
        confined_threads(suite, 12, ["--net", "none"], two_filters, None, "... and with 12 processors")
        confined_threads(suite, 1, ["--sandbox", "off"], outside, outside, "--sandbox off")
        restarts(suite)
        every_output(suite)
        terminal(suite)
        print(f"{suite.passed} passed, {suite.failed} failed, {suite.skipped} skipped")
        return 1 if suite.failed else 0


if __name__ == "__main__":
    sys.exit(main())
