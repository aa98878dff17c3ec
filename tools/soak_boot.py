#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Boots Debian kernels again and again and judges every boot by its log.

A boot is good when /init is reached, the program ends with status 0 in time, and the kernel's log is free of oopses,
lockups, stalls, clock trouble and firmware complaints. Singles run one after the other (--jobs), then pairs at once:
timer calibration on a loaded host is what breaks first. The last line is "N passed, N failed, N skipped".

--command takes any command line with {kernel} {initrd} {append} {memory} in it, so that another emulator can be the
reference for the same kernels and the same checks; --oracle is short for QEMU TCG.
"""
import argparse
import concurrent.futures
import itertools
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ["linux-image-cloud-amd64", "linux-image-amd64", "linux-image-6.12-cloud-amd64", "linux-image-6.12-amd64"]
RHEA = "{rhea} run --kernel {kernel} --initrd {initrd} --append {append} --memory {memory} --cpus {cpus} --console stdio --no-reboot"
QEMU = ("qemu-system-x86_64 -accel tcg -cpu max -smp {cpus} -m {memory} -display none -serial stdio -monitor none -no-reboot "
        "-kernel {kernel} -initrd {initrd} -append {append}")
REACHED = re.compile(r"^rhea-init: reached after ([0-9.]+) s", re.M)
BAD = re.compile(r"\b[Oo]ops\b|\bBUG\b|\bWARNING\b|Call Trace|Kernel panic|lockup|\bstall(s|ed)?\b|unable to handle|"
                 r"clocksource.*(unstable|skew|watchdog|wrong|too (long|large))|timekeeping.*(Marking|too)|"
                 r"TSC .*(unstable|halts)|Unhandled|ACPI (Error|Warning|BIOS)|Firmware Bug|"
                 r"general protection|invalid opcode|segfault|hrtimer: interrupt took|nobody cared")
# Lines that say nothing about the machine; each is here for a reason.
HARMLESS = re.compile(r"Unprivileged eBPF is enabled"  # a Spectre note that depends on the CPU model only
                      r"|Memory accounting of cgroups")


def judge(log, status, seconds, limit):
    problems = []
    if not REACHED.search(log):
        problems.append("init was not reached")
    if status is None:
        problems.append(f"still running after {limit:.0f} s")
    elif status != 0:
        problems.append(f"ended with status {status}")
    problems += [line.strip() for line in log.splitlines() if BAD.search(line) and not HARMLESS.search(line)][:5]
    return problems


def boot(template, values, limit, log_path):
    command = [word.format(**values) for word in shlex.split(template)]
    started = time.monotonic()
    with open(log_path, "wb") as sink:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
                                   start_new_session=True)
        try:
            status = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            status = None
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = time.monotonic() - started
    log = pathlib.Path(log_path).read_text(errors="replace").replace("\r", "")
    match = REACHED.search(log)
    return judge(log, status, seconds, limit), seconds, float(match.group(1)) if match else None


def resolve(name):
    if "/" in name:
        return name
    result = subprocess.run([str(ROOT / "tools/guest/fetch_kernel.sh"), name], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(result.stderr)
    return result.stdout.strip().splitlines()[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boots", type=int, default=20, help="single boots of each kernel")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of boots at once, kernels taken in turn")
    parser.add_argument("--jobs", type=int, default=1, help="single boots that run at once")
    parser.add_argument("--kernel", action="append", help="package name or file; may be repeated (default: Debian's four)")
    parser.add_argument("--rhea", default=os.environ.get("RHEA_BIN", str(ROOT / "build/rhea")))
    parser.add_argument("--command", help="command template instead of Rhea's")
    parser.add_argument("--oracle", action="store_true", help="boot under QEMU TCG instead")
    parser.add_argument("--append", default="console=ttyS0 rhea.run=/bin/true rhea.settle=2")
    parser.add_argument("--memory", default="512M")
    parser.add_argument("--cpus", default="1", help="numbers of vCPUs, with commas: single boots go through all of them")
    parser.add_argument("--pair-cpus", type=int, default=1, help="vCPUs of each VM of a pair")
    parser.add_argument("--timeout", type=float, default=120, help="seconds a boot may take")
    parser.add_argument("--logs", help="keep every log in this folder (default: only the logs of failed boots)")
    arguments = parser.parse_args()

    template = arguments.command or (QEMU if arguments.oracle else RHEA)
    initrd = subprocess.run([str(ROOT / "tools/guest/make_initramfs.sh")], check=True, capture_output=True,
                            text=True).stdout.strip()
    kernels = [(name, resolve(name)) for name in arguments.kernel or KERNELS]
    log_folder = pathlib.Path(arguments.logs or tempfile.mkdtemp(prefix="rhea-soak-"))
    log_folder.mkdir(parents=True, exist_ok=True)
    failures = []
    good = {"single": 0, "pair": 0}
    asked = {"single": 0, "pair": 0}

    def one(kind, name, kernel, cpus, number):
        values = dict(rhea=arguments.rhea, kernel=kernel, initrd=initrd, append=arguments.append, memory=arguments.memory, cpus=cpus)
        log_path = log_folder / f"{kind}-{name.replace('/', '_')}-{cpus}cpus-{number}.log"
        problems, seconds, reached = boot(template, values, arguments.timeout, log_path)
        asked[kind] += 1
        if problems:
            failures.append(log_path)
            print(f"FAILED {kind} {name}, vCPUs {cpus}, #{number} ({seconds:.1f} s), log in {log_path}")
            for problem in problems:
                print(f"    {problem}")
        else:
            good[kind] += 1
            if not arguments.logs:
                log_path.unlink()
        return seconds, reached, not problems

    for cpus, (name, kernel) in itertools.product(arguments.cpus.split(","), kernels):
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            results = list(pool.map(lambda number: one("single", name, kernel, cpus, number), range(1, arguments.boots + 1)))
        if results:
            init_times = sorted(reached for _, reached, _ in results if reached is not None)
            middle = f", init after {init_times[len(init_times) // 2]:.2f} s (median)" if init_times else ""
            print(f"{name}, vCPUs {cpus}: {sum(fine for _, _, fine in results)}/{len(results)}{middle}", flush=True)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for number in range(1, arguments.pairs + 1):
            name, kernel = kernels[number % len(kernels)]
            for _ in pool.map(lambda side: one("pair", name, kernel, arguments.pair_cpus, f"{number}{side}"), "ab"):
                pass
    if arguments.pairs:
        print(f"pairs at once: {good['pair']}/{asked['pair']} boots")
    total, fine = sum(asked.values()), sum(good.values())
    print(f"soak-boot: {fine}/{total}")
    print(f"{fine} passed, {total - fine} failed, 0 skipped", flush=True)
    if not arguments.logs and not failures:
        log_folder.rmdir()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
