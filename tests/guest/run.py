#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# rhea-suite: timeout=600
"""Runs the bare-metal test guests; the last line is "N passed, N failed, N skipped".

Each guest prints "ok NAME", "FAIL NAME" or "skip NAME: WHY" per assertion and ends through the debug-exit port. By
default they run on Rhea; with --vs-qemu on QEMU's TCG too, as an oracle for the guests themselves: what TCG is known to
get wrong the guest skips there, with the text of the manual that says so.
"""
import argparse
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

PASSED_STATUS = (16 << 1) | 1  # see finish() in lib/guest.h


@dataclasses.dataclass
class Guest:
    name: str
    rhea_status: int = PASSED_STATUS
    qemu_status: int = PASSED_STATUS
    timeout: float = 30
    extra: tuple = ()  # further options of `rhea run`


GUESTS = [
    Guest("hello"),
    Guest("exceptions"),
    Guest("paging"),
    Guest("paging32"),
    Guest("realmode"),
    Guest("rings"),
    Guest("timers"),
    Guest("irq"),
    Guest("features"),
    Guest("smc"),
    Guest("strings"),
    Guest("tasks"),
    Guest("debug"),
    Guest("triple", rhea_status=3, qemu_status=0),  # QEMU: a reset, under -no-reboot
]


@dataclasses.dataclass
class Result:
    ok: list
    failed: list
    skipped: list
    text: str


def rhea_command(options, guest, image):
    """The engine as users run it."""
    command = [str(options.rhea), "run", "--kernel", str(image), "--debug-exit", "--console", "stdio", "--memory", "256M", "--no-reboot"]
    return command + list(guest.extra) + options.rhea_option


def reference_command(options, guest, image):
    return rhea_command(options, guest, image) + ["--dbt-opt=0"]


def qemu_command(_options, _guest, image):
    return ["qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-m", "256M", "-display", "none", "-serial", "stdio",
            "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", str(image)]


def run(command, guest, wanted_status):
    """Runs one guest; whatever is odd about the run is one more failure, "run"."""
    started = time.monotonic()
    try:
        process = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 timeout=guest.timeout, check=False)
        status, output = process.returncode, process.stdout
    except subprocess.TimeoutExpired as error:
        status, output = None, error.stdout or b""
    except OSError as error:
        return Result([], [f"run ({error})"], [], "")
    text = output.decode(errors="replace").replace("\r", "")
    result = Result([], [], [], text)
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "ok":
            result.ok.append(rest)
        elif word == "FAIL":
            result.failed.append(rest)
        elif word == "skip":
            result.skipped.append(rest)
    summary = f"{len(result.ok)} passed, {len(result.failed)} failed, {len(result.skipped)} skipped"
    if status is None:
        result.failed.append(f"run (no end within {guest.timeout:.0f} s)")
    elif status != wanted_status and not result.failed:
        result.failed.append(f"run (status {status}, expected {wanted_status})")
    elif summary not in text:
        result.failed.append("run (the summary does not match)")
    elapsed = time.monotonic() - started
    print(f"{guest.name}: {len(result.ok)} passed, {len(result.failed)} failed, {len(result.skipped)} skipped ({elapsed:.1f} s)", flush=True)
    return result


GDB_SCRIPT = """set pagination off
set confirm off
file {symbols}
target remote {socket}
break guest_main
continue
printf "stopped in ring %d, paging %d\\n", $cs & 3, ($cr0 >> 31) & 1
stepi
hbreak run_user
continue
delete
set var *(int*)0x300000 = 0x1234567
printf "memory %#x\\n", *(int*)0x300000
set $rax = 0x5555
printf "rax %#x\\n", $rax
x/i $rip
detach
"""


def debug_session(options):
    """The real gdb on a guest: breakpoints by symbol, step, registers, memory; after detaching the guest ends well."""
    if not shutil.which("gdb"):
        return Result([], [], ["gdb: not installed"], "")
    image = options.build_dir / "tests/guest/paging.elf"
    result = Result([], [], [], "")
    with tempfile.TemporaryDirectory(prefix="rhea-gdb-") as folder:
        socket, script = f"{folder}/socket", f"{folder}/script"
        pathlib.Path(script).write_text(GDB_SCRIPT.format(symbols=f"{image}.linked", socket=socket))
        command = rhea_command(options, Guest("paging"), image) + ["--gdb", f"unix:{socket}", "--gdb-wait"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as guest:
            try:
                deadline = time.monotonic() + 20
                while not os.path.exists(socket) and guest.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.02)
                gdb = subprocess.run(["gdb", "-nx", "-nh", "-batch", "-x", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, timeout=30, check=False)
                output = guest.communicate(timeout=30)[0].decode(errors="replace")
            except subprocess.TimeoutExpired:
                guest.kill()
                result.failed.append("gdb-session (no end)")
                return result
    said = gdb.stdout.decode(errors="replace")
    expected = {"gdb-breakpoint": r"Breakpoint 1, .* in guest_main", "gdb-registers": "stopped in ring 0, paging 1",
                "gdb-hardware-breakpoint": r"Breakpoint 2, .* in run_user", "gdb-memory": "memory 0x1234567", "gdb-write-register": "rax 0x5555",
                "gdb-disassembly": "=> 0x"}
    for name, pattern in expected.items():
        (result.ok if re.search(pattern, said) else result.failed).append(name)
    ended = guest.returncode == PASSED_STATUS and " 0 failed," in output
    (result.ok if ended else result.failed).append("gdb-detach-runs-on")
    result.text = said
    print(f"gdb: {len(result.ok)} passed, {len(result.failed)} failed")
    return result


def report(options, name, result):
    if options.verbose or result.failed:
        print("".join(f"    {line}\n" for line in result.text.splitlines() if options.verbose or not line.startswith("ok ")), end="")
    for failure in result.failed:
        print(f"FAIL {name}: {failure}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", type=pathlib.Path, default=os.environ.get("RHEA_BUILD_DIR", "build"))
    parser.add_argument("--rhea", type=pathlib.Path, default=os.environ.get("RHEA_BIN"), help="the program (default: BUILD_DIR/rhea)")
    parser.add_argument("--rhea-option", action="append", default=[], help="one more option for `rhea run` (repeatable)")
    parser.add_argument("--vs-qemu", action="store_true", help="also run every guest on QEMU TCG")
    parser.add_argument("--only-qemu", action="store_true", help="run on QEMU TCG alone")
    parser.add_argument("--verbose", action="store_true", help="print what the guests print")
    parser.add_argument("guests", nargs="*", help="names (default: all)")
    options = parser.parse_args()
    options.build_dir = pathlib.Path(options.build_dir)
    options.rhea = options.rhea or options.build_dir / "rhea"

    unknown = set(options.guests) - {guest.name for guest in GUESTS}
    if unknown:
        parser.error("unknown guests: " + " ".join(sorted(unknown)))
    results = []
    engines = [] if options.only_qemu else [("rhea", rhea_command), ("rhea, reference mode", reference_command)]
    if any(option.startswith("--dbt-opt") for option in options.rhea_option):
        engines = engines[:1]
    if options.vs_qemu or options.only_qemu:
        engines.append(("qemu", qemu_command))
    for engine, make_command in engines:
        print(f"-- {engine}")
        for guest in GUESTS:
            if options.guests and guest.name not in options.guests:
                continue
            image = options.build_dir / "tests/guest" / f"{guest.name}.elf"
            wanted = guest.qemu_status if engine == "qemu" else guest.rhea_status
            result = run(make_command(options, guest, image), guest, wanted)
            report(options, guest.name, result)
            results.append(result)
    if not options.only_qemu and not options.guests:
        results.append(debug_session(options))
        report(options, "gdb", results[-1])
    passed, failed, skipped = (sum(len(getattr(result, kind)) for result in results) for kind in ("ok", "failed", "skipped"))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
