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
import subprocess
import sys
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
    Guest("triple", rhea_status=3, qemu_status=0),  # QEMU: a reset, under -no-reboot
]


@dataclasses.dataclass
class Result:
    ok: list
    failed: list
    skipped: list
    text: str


def rhea_command(options, guest, image):
    command = [str(options.rhea), "run", "--kernel", str(image), "--debug-exit", "--console", "stdio", "--memory", "256M", "--no-reboot"]
    return command + list(guest.extra) + options.rhea_option


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
    passed = failed = skipped = 0
    engines = [] if options.only_qemu else [("rhea", rhea_command)]
    if options.vs_qemu or options.only_qemu:
        engines.append(("qemu", qemu_command))
    for engine, make_command in engines:
        print(f"-- {engine}")
        for guest in GUESTS:
            if options.guests and guest.name not in options.guests:
                continue
            image = options.build_dir / "tests/guest" / f"{guest.name}.elf"
            wanted = guest.rhea_status if engine == "rhea" else guest.qemu_status
            result = run(make_command(options, guest, image), guest, wanted)
            if options.verbose or result.failed:
                print("".join(f"    {line}\n" for line in result.text.splitlines() if options.verbose or not line.startswith("ok ")), end="")
            for name in result.failed:
                print(f"FAIL {guest.name}: {name}")
            passed += len(result.ok)
            failed += len(result.failed)
            skipped += len(result.skipped)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
