#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# rhea-suite: exclusive timeout=600
"""Several processors under load: stress-ng checks its own results in a guest, and a parallel compilation yields the host's bytes.

Quick form: a few stressors for a second each on two vCPUs. With --full or RHEA_TEST_LONG=1: every stressor of the list for
60 seconds on four vCPUs, then compilations for 30 minutes on two. After each the kernel's log must be clean.
The last line is "N passed, N failed, N skipped"."""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
from suite import ROOT, Counts, Guest, enter, tool

MEMORY = "3072M"
QUICK = ["cpu", "atomic", "futex", "mmap", "tlb-shootdown", "switch"]
# Each with what keeps its memory below the guest's. Stressors that the installed stress-ng does not know are skipped aloud.
FULL = ["cpu", "matrix", "vecfp", "vecmath", "vecshuf", "vecwide", "atomic", "membarrier", "futex", "mutex", "sem", "switch", "mmap", "mmapfork",
        "mprotect", "fault", "fork", "vfork", "clone", "pthread", "vm", "vm-segv", "tlb-shootdown", "rdrand", "x86syscall", "syscall", "lockbus",
        "peterson", "dekker", "mcontend", "icache", "sigtrap", "sigsegv", "sigfpe", "timer", "hrtimers", "nanosleep", "pipe", "memcpy", "memthrash",
        "qsort", "crypt", "fp", "fp-error", "regs", "stack", "prefetch", "cacheline", "flushcache", "far-branch", "funccall", "funcret", "goto"]
OPTIONS = {"vm": ["--vm-bytes", "96m", "--vm-method", "all"], "mmap": ["--mmap-bytes", "64m"], "cpu": ["--cpu-method", "all"],
           "matrix": ["--matrix-method", "all"], "memthrash": ["--memthrash-method", "all"]}
BAD_LOG = re.compile(r"BUG:|WARNING:|Oops|Call Trace|lockup|\bstall|general protection|clocksource:.*unstable|Kernel panic|double fault|Bad page|"
                     r"hung task|unchecked MSR|bad: scheduling|rcu:.*(detected|stall)", re.I)


def copy_program(name, folder):
    """A program of the host and the libraries it loads, for a guest of the same release whose own files stay in front."""
    program = shutil.which(name)
    listing = subprocess.run(["ldd", program], check=True, stdout=subprocess.PIPE, text=True).stdout
    (folder / "stress/lib").mkdir(parents=True)
    shutil.copy(program, folder / "stress" / name)
    for library in re.findall(r"=> (/\S+)", listing):
        shutil.copy(library, folder / "stress/lib")


def write_script(folder, lines):
    path = folder / "stress/run"
    path.write_text("#!/bin/bash\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C\nmkdir -p /tmp/w && cd /tmp/w\n" + "\n".join(lines) +
                    "\necho @@begin kernel-log\nbusybox dmesg -r | sed 's/^/| /'\necho @@end kernel-log 0\necho @@done\n")
    path.chmod(0o755)


def sections(text):
    found = {}
    for match in re.finditer(r"^@@begin (\S+)\n(.*?)^@@end \1 (\d+)$", text, re.M | re.S):
        found[match.group(1)] = (int(match.group(3)), match.group(2))
    return found


def check_log(counts, name, found):
    if "kernel-log" not in found:
        counts.verdict(f"{name}: kernel log", "not there")
        return
    # Stressors make processes fault on purpose: what counts is what the kernel says about itself.
    bad = [line for line in found["kernel-log"][1].splitlines() if BAD_LOG.search(line)]
    counts.verdict(f"{name}: kernel log", f"{len(bad)} complaints" if bad else "")
    print("".join(f"    {line[:200]}\n" for line in bad[:20]), end="")


def stressors(guest, counts, names, seconds, cpus):
    if not shutil.which("stress-ng"):
        counts.skip("stress-ng", "not installed (tools/deps.sh test)")
        return
    known = set(subprocess.run(["stress-ng", "--stressors"], check=True, stdout=subprocess.PIPE, text=True).stdout.split())
    for name in names:
        if name not in known:
            counts.skip(f"stress-ng {name}", "this stress-ng does not have it")
    names = [name for name in names if name in known]
    with tempfile.TemporaryDirectory(prefix="rhea-stress-") as scratch:
        scratch = pathlib.Path(scratch)
        copy_program("stress-ng", scratch / "overlay")
        # The guest's own libraries come first: a loader and a C library of different builds do not mix.
        lines = ["export LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu:/stress/lib"]
        for name in names:
            options = " ".join(OPTIONS.get(name, []))
            lines += [f"echo @@begin {name}",
                      f"timeout -s KILL {seconds * 4 + 60} /stress/stress-ng --{name} {cpus} {options} --verify --metrics-brief --timeout {seconds}s 2>&1",
                      f"echo @@end {name} $?"]
        write_script(scratch / "overlay", lines)
        text = guest.run(scratch, "/stress/run", MEMORY, 120 + len(names) * (seconds * 4 + 60), cpus)
    found = sections(text)
    for name in names:
        if name not in found:
            counts.verdict(f"stress-ng {name}", "did not come to its end")
            continue
        status, output = found[name]
        # Status 3: no resources (it says so and did not run); 4: not implemented here.
        if status in (3, 4) or re.search(r"skipp(ed|ing) (stressor|test)|not supported", output) and status == 0 and not re.search(rf"\] {name} +[1-9]", output):
            counts.skip(f"stress-ng {name}", (output.strip().splitlines() or ["?"])[-1][:120])
            continue
        done = re.search(rf"metrc: \[\d+\] {name} +(\d+) ", output)
        problem = f"status {status}" if status else "verification failed" if re.search(r"\bfail:|verif\w+ fail", output) else ""
        counts.verdict(f"stress-ng {name}, {cpus} instances, {seconds} s", problem, f" ({done.group(1)} operations)" if done else "")
        if problem:
            print("".join(f"    {line[:200]}\n" for line in output.splitlines()[-12:]), end="")
    check_log(counts, "stress-ng", found)


def make_sources(folder, count):
    """C and C++ files that keep a compiler busy, no two alike."""
    for index in range(count):
        (folder / f"c{index}.c").write_text(
            "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <math.h>\n" + "".join(
                f"double f{index}_{k}(const double *a, int n) {{ double s = {k}; for (int i = 0; i < n; i++) s += a[i] * {k + index}.5 + sin(s + i); "
                f"switch (n % 7) {{ case 1: return s * {k}; case 3: return s - n; default: return s + {index}; }} }}\n"
                f"int g{index}_{k}(char *p, int n) {{ int r = 0; for (int i = 0; i < n; i++) {{ r = r * {31 + k} + p[i]; p[i] ^= r; }} return r ^ {index * 7 + k}; }}\n"
                for k in range(30)))
        (folder / f"x{index}.cpp").write_text(
            "#include <algorithm>\n#include <map>\n#include <memory>\n#include <string>\n#include <unordered_map>\n#include <vector>\n" +
            f"template <int N> struct T{index} {{ std::map<std::string, std::vector<int>> m; int run(int v) {{ m[std::to_string(v + N)].push_back(N); "
            f"std::sort(m.begin()->second.begin(), m.begin()->second.end()); return v + T{index}<N - 1>().run(v * N); }} }};\n"
            f"template <> struct T{index}<0> {{ int run(int v) {{ return v; }} }};\nint entry{index}(int v) {{ return T{index}<12>().run(v); }}\n")
    (folder / "Makefile").write_text(
        "all: $(patsubst %.c,%.o,$(wildcard *.c)) $(patsubst %.cpp,%.o,$(wildcard *.cpp))\n%.o: %.c\n\tgcc -O2 -g0 -c -o $@ $<\n"
        "%.o: %.cpp\n\tg++ -O2 -g0 -c -o $@ $<\nclean:\n\trm -f *.o\n")


def compilation(guest, counts, seconds, cpus, files):
    with tempfile.TemporaryDirectory(prefix="rhea-compile-") as scratch:
        scratch = pathlib.Path(scratch)
        sources = scratch / "overlay/stress/src"
        sources.mkdir(parents=True)
        make_sources(sources, files)
        # The host's side runs the same compiler from the same unpacked packages.
        root = scratch / "root"
        root.mkdir()
        with open(tool("tools/guest/make_userland_initramfs.sh"), "rb") as source:
            subprocess.run(["cpio", "-i", "-d", "--quiet", "--no-absolute-filenames"], cwd=root, stdin=source, check=True)
        shutil.copytree(sources, root / "tmp/w/src")
        command = enter(root)
        if not command:
            counts.skip("parallel compilation", "chroot is not allowed here")
            return
        host = subprocess.run([*command, "/bin/sh", "-c", "cd /tmp/w/src && make -s -j2 && sha256sum *.o"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True)
        if host.returncode:
            counts.verdict("parallel compilation", f"the host's own ended with status {host.returncode}")
            return
        write_script(scratch / "overlay", [
            "cp -r /stress/src /tmp/w/src && cd /tmp/w/src", f"end=$((SECONDS + {seconds}))", "round=0", "while :; do",
            "  make -s clean", f"  echo @@begin compile-$round; make -s -j{cpus} && sha256sum *.o; echo @@end compile-$round $?",
            "  round=$((round + 1))", "  [ $SECONDS -lt $end ] || break", "done"])
        text = guest.run(scratch, "/stress/run", MEMORY, seconds + 3600, cpus)
    found = sections(text)
    rounds = [name for name in found if name.startswith("compile-")]
    wrong = [name for name in rounds if found[name][0] or found[name][1].split() != host.stdout.split()]
    problem = "no round was finished" if not rounds else f"{len(wrong)} of {len(rounds)} rounds differ from the host's objects" if wrong else ""
    counts.verdict(f"{len(rounds)} compilations of {2 * files} files on {cpus} vCPUs, bit for bit the host's", problem)
    check_log(counts, "compilation", found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", default="build")
    parser.add_argument("--rhea", help="the program (default: that of the build)")
    parser.add_argument("--full", action="store_true", default=os.environ.get("RHEA_TEST_LONG") == "1", help="everything, at full length")
    parser.add_argument("--oracle", action="store_true", help="run QEMU TCG instead of Rhea, to test the tests")
    parser.add_argument("--only", choices=["stressors", "compilation"])
    parser.add_argument("--seconds", type=int, help="of each stressor")
    parser.add_argument("--compile-seconds", type=int)
    parser.add_argument("--cpus", type=int)
    parser.add_argument("--keep", metavar="FILE", help="write the guest's console there")
    parser.add_argument("stressor", nargs="*", help="only these")
    arguments = parser.parse_args()
    arguments.rhea = arguments.rhea or os.environ.get("RHEA_BIN") or str(ROOT / arguments.build_dir / "rhea")
    counts = Counts()
    guest = Guest(counts, arguments.rhea, arguments.oracle, arguments.keep)
    if not arguments.oracle and not os.path.exists(arguments.rhea):
        counts.verdict("the program", f"{arguments.rhea} is not built")
    else:
        if arguments.only != "compilation":
            stressors(guest, counts, arguments.stressor or (FULL if arguments.full else QUICK), arguments.seconds or (60 if arguments.full else 1),
                      arguments.cpus or (4 if arguments.full else 2))
        if arguments.only == "compilation" or (arguments.full and not arguments.only and not arguments.stressor):
            compilation(guest, counts, arguments.compile_seconds or (1800 if arguments.full else 1), arguments.cpus or 2, 24 if arguments.full else 2)
    return counts.end()


if __name__ == "__main__":
    sys.exit(main())
