#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# rhea-suite: timeout=600
"""Runs the bare-metal test guests; the last line is "N passed, N failed, N skipped".

Each guest prints "ok NAME", "FAIL NAME" or "skip NAME: WHY" per assertion and "info NAME: ..." for what is only
reported, and ends through the debug-exit port. By default they run on Rhea, twice; --on qemu-tcg (or RHEA_TEST_LONG=1
where QEMU is installed) runs them on QEMU's TCG, as an oracle for the guests themselves: what TCG is known to get wrong
the guest skips there, with the text of the manual that says so. Engines that ran are compared in a table at the end.
Guests with several processors repeat what they do; RHEA_TEST_LONG=1 or --depth multiplies how often.
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

import oracle

LONG = os.environ.get("RHEA_TEST_LONG") == "1"
PASSED_STATUS = (16 << 1) | 1  # see finish() in lib/guest.h


@dataclasses.dataclass
class Guest:
    name: str
    rhea_status: int = PASSED_STATUS
    qemu_status: int = PASSED_STATUS
    timeout: float = 30
    extra: tuple = ()  # further options of `rhea run`
    cpus: int = 1


SMP = ["smp_init", "smp_ipi", "smp_irq", "smp_lock", "smp_atomic", "smp_tlb", "smp_code", "smp_io", "smp_a20", "smp_smm", "litmus"]
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
    Guest("avx512"),
    Guest("smc"),
    Guest("strings"),
    Guest("tasks"),
    Guest("debug"),
    Guest("vme"),
    Guest("encodings"),
    Guest("encodings64"),
    Guest("steps"),
    Guest("codelimit"),
    Guest("a20"),
    Guest("realmode2"),
    Guest("segments"),
    Guest("triple", rhea_status=3, qemu_status=0),  # QEMU: a reset, under -no-reboot
] + [Guest(name, cpus=4, timeout=90) for name in SMP]


@dataclasses.dataclass
class Result:
    ok: list
    failed: list
    skipped: list
    text: str
    info: list = dataclasses.field(default_factory=list)


def command_line(options, guest):
    return f"cpus={guest.cpus} depth={options.depth}"


def rhea_command(options, guest, image):
    """The engine as users run it."""
    command = [str(options.rhea), "run", "--kernel", str(image), "--debug-exit", "--console", "stdio", "--memory", "256M", "--no-reboot"]
    if guest.cpus > 1:
        command += ["--cpus", str(guest.cpus), "--append", command_line(options, guest)]
    return command + list(guest.extra) + options.rhea_option


def reference_command(options, guest, image):
    return rhea_command(options, guest, image) + ["--dbt-opt=0"]


def qemu_command(options, guest, image):
    command = ["qemu-system-x86_64", "-machine", "q35", "-cpu", "max", "-m", "256M", "-display", "none", "-serial", "stdio",
               "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", str(image)]
    if guest.cpus == 1:
        return command + ["-accel", "tcg"]
    return command + ["-accel", "tcg,thread=multi", "-smp", str(guest.cpus), "-append", command_line(options, guest)]


ENGINES = {"rhea": rhea_command, "rhea-reference": reference_command, "qemu-tcg": qemu_command}


def takes_cpus(options, count):
    """Whether Rhea takes that many processors: it is asked, with the smallest guest."""
    guest = Guest("hello", cpus=count)
    command = rhea_command(options, guest, options.build_dir / "tests/guest/hello.elf")
    try:
        process = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return True  # something else is wrong, and the guests will say what
    return process.returncode == PASSED_STATUS or b"processors" not in process.stdout


def run(command, guest, wanted_status, timeout):
    """Runs one guest; whatever is odd about the run is one more failure, "run"."""
    started = time.monotonic()
    try:
        process = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 timeout=timeout, check=False)
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
        elif word == "info":
            result.info.append(rest)
    summary = f"{len(result.ok)} passed, {len(result.failed)} failed, {len(result.skipped)} skipped"
    if status is None:
        result.failed.append(f"run (no end within {timeout:.0f} s)")
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
    elif options.depth > 1:
        print("".join(f"    {line}\n" for line in result.info), end="")
    for failure in result.failed:
        print(f"FAIL {name}: {failure}")


def print_differences(by_engine):
    """What was not "ok" everywhere, by guest and assertion: one column for each engine."""
    rows = {}
    for engine, results in by_engine.items():
        for guest, result in results.items():
            for kind, verdict in (("ok", "ok"), ("failed", "FAIL"), ("skipped", "skip")):
                for text in getattr(result, kind):
                    name = text.partition(":")[0] if kind == "skipped" else text
                    cell = rows.setdefault((guest, name.strip()), {})
                    if cell.get(engine) != "FAIL":
                        cell[engine] = verdict
    different = {key: cells for key, cells in rows.items() if len(cells) > 1 and len(set(cells.values())) > 1}
    print(f"-- differences between {', '.join(by_engine)}: {len(different)}")
    for (guest, name), cells in sorted(different.items()):
        print(f"    {guest + ': ' + name:<60} " + " ".join(f"{cells.get(engine, '-'):<{len(engine)}}" for engine in by_engine))
    for engine in by_engine:
        only = sorted(f"{guest}: {name}" for (guest, name), cells in rows.items() if cells.get(engine) == "skip" and is_skipped_alone(cells))
        print(f"    skipped on {engine} alone: {'; '.join(only) or 'nothing'}")


def is_skipped_alone(cells):
    """Of the engines that have a verdict; a group that is skipped as a whole has a name of its own."""
    return list(cells.values()).count("skip") < len(cells) or len(cells) == 1


def chosen_engines(options):
    if options.on:
        return options.on
    if any(option.startswith("--dbt-opt") for option in options.rhea_option):
        return ["rhea"]
    has_oracle = LONG and shutil.which("qemu-system-x86_64")
    return ["rhea", "rhea-reference"] + (["qemu-tcg"] if has_oracle else [])


def run_engine(options, engine, rhea):
    print(f"-- {engine}")
    results = {}
    guests = [guest for guest in GUESTS if not options.guests or guest.name in options.guests]
    most = max((guest.cpus for guest in guests), default=1)
    has_smp = engine == "qemu-tcg" or most == 1 or takes_cpus(options, most)
    for guest in guests:
        if guest.cpus > 1 and not has_smp:
            print(f"{guest.name}: SKIPPED, {options.rhea} does not take --cpus {guest.cpus}")
            results[guest.name] = Result([], [], [f"everything: no --cpus {guest.cpus}"], "")
            continue
        image = options.build_dir / "tests/guest" / f"{guest.name}.elf"
        wanted = guest.qemu_status if engine == "qemu-tcg" else guest.rhea_status
        timeout = guest.timeout * (options.depth if guest.cpus > 1 else 1)
        results[guest.name] = run(ENGINES[engine](options, guest, image), guest, wanted, timeout)
        if engine == "qemu-tcg":
            judge_tcg(guest.name, results[guest.name], rhea)
        report(options, guest.name, results[guest.name])
    return results


def judge_tcg(name, result, rhea):
    """Against the list of differences; what Rhea skipped itself in this run is none."""
    same = {text.partition(":")[0].strip() for text in rhea[name].skipped} if name in rhea else set()
    oracle.Differences().judge(name, result, same)


def topics(options, by_engine):
    """The counts in docs/guest-tests.md are those of this run."""
    if "rhea" not in by_engine or options.guests or options.depth > 1:
        return []
    if options.write_topics:
        oracle.write_topics(by_engine["rhea"])
    if oracle.topics_are_true(by_engine["rhea"]):
        return [Result(["topics"], [], [], "")]
    print("FAIL topics: the counts in docs/guest-tests.md are not true: tests/guest/run.py --write-topics")
    return [Result([], ["topics"], [], "")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", type=pathlib.Path, default=os.environ.get("RHEA_BUILD_DIR", "build"))
    parser.add_argument("--rhea", type=pathlib.Path, default=os.environ.get("RHEA_BIN"), help="the program (default: BUILD_DIR/rhea)")
    parser.add_argument("--rhea-option", action="append", default=[], help="one more option for `rhea run` (repeatable)")
    parser.add_argument("--on", action="append", choices=list(ENGINES), help="run on this (repeatable; default: rhea and rhea-reference)")
    parser.add_argument("--depth", type=int, default=50 if LONG else 1, help="how much longer guests with several processors repeat what they do")
    parser.add_argument("--write-topics", action="store_true", help="write the counts of assertions into docs/guest-tests.md")
    parser.add_argument("--verbose", action="store_true", help="print what the guests print")
    parser.add_argument("guests", nargs="*", help="names (default: all)")
    options = parser.parse_args()
    options.build_dir = pathlib.Path(options.build_dir)
    options.rhea = options.rhea or options.build_dir / "rhea"

    unknown = set(options.guests) - {guest.name for guest in GUESTS}
    if unknown:
        parser.error("unknown guests: " + " ".join(sorted(unknown)))
    by_engine = {}
    for engine in chosen_engines(options):
        by_engine[engine] = run_engine(options, engine, by_engine.get("rhea", {}))
    results = [result for per_guest in by_engine.values() for result in per_guest.values()]
    results += topics(options, by_engine)
    if "rhea" in by_engine and not options.guests:
        results.append(debug_session(options))
        report(options, "gdb", results[-1])
    if "qemu-tcg" in by_engine and len(by_engine) > 1:
        print_differences(by_engine)
    passed, failed, skipped = (sum(len(getattr(result, kind)) for result in results) for kind in ("ok", "failed", "skipped"))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
