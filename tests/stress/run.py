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
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
QEMU = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot"]
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


def tool(*words):
    return subprocess.run([str(ROOT / words[0]), *map(str, words[1:])], check=True, stdout=subprocess.PIPE, text=True).stdout.strip().splitlines()[-1]


def run_limited(command, limit, keep):
    with open(keep, "w+b") if keep else tempfile.TemporaryFile() as sink:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        sink.seek(0)
        return sink.read().decode(errors="replace").replace("\r", ""), status


class Counts:
    passed = failed = skipped = 0

    def verdict(self, name, problem, note=""):
        print(f"{'FAIL' if problem else 'ok'} {name}{': ' + problem if problem else ''}{note}", flush=True)
        self.failed += bool(problem)
        self.passed += not problem

    def skip(self, name, why):
        print(f"skip {name}: {why}", flush=True)
        self.skipped += 1


def copy_program(name, folder):
    """A program of the host and the libraries it loads, for a guest of the same release whose own files stay in front."""
    program = shutil.which(name)
    listing = subprocess.run(["ldd", program], check=True, stdout=subprocess.PIPE, text=True).stdout
    (folder / "stress/lib").mkdir(parents=True)
    shutil.copy(program, folder / "stress" / name)
    for library in re.findall(r"=> (/\S+)", listing):
        shutil.copy(library, folder / "stress/lib")


class Guest:
    def __init__(self, arguments, counts):
        self.arguments = arguments
        self.counts = counts

    def run(self, scratch, cpus, limit):
        """The console of a guest that runs /stress/run from the folder scratch/overlay; None (and a failure) where it did not end well."""
        overlay = scratch / "overlay.cpio"
        subprocess.run([str(ROOT / "tools/guest/make_cpio.sh"), str(scratch / "overlay"), str(overlay)], check=True)
        kernel = tool("tools/guest/fetch_kernel.sh")
        initrd = tool("tools/guest/make_userland_initramfs.sh")
        line = "console=ttyS0 quiet log_buf_len=1M rhea.run=/stress/run"
        if self.arguments.oracle:
            both = scratch / "both.cpio"
            with open(both, "wb") as sink:
                for part in (initrd, overlay):
                    with open(part, "rb") as source:
                        shutil.copyfileobj(source, sink)
            command = [*QEMU, "-smp", str(cpus), "-m", "3072M", "-kernel", kernel, "-initrd", str(both), "-append", line]
        else:
            command = [self.arguments.rhea, "run", "--cpus", str(cpus), "--memory", "3072M", "--console", "stdio", "--no-reboot", "--kernel", kernel,
                       "--initrd", initrd, "--initrd", str(overlay), "--append", line]
        started = time.monotonic()
        text, status = run_limited(command, limit, self.arguments.keep)
        problem = "" if status == 0 and "@@done" in text else f"status {status}" if status is not None else f"no end within {limit} s"
        self.counts.verdict(f"guest with {cpus} vCPUs ran to its end and powered off", problem, f" ({time.monotonic() - started:.0f} s)")
        if problem:
            print("".join(f"    {line[:200]}\n" for line in text.splitlines()[-40:]), end="")
        return text


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
        text = guest.run(scratch, cpus, 120 + len(names) * (seconds * 4 + 60))
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
        work = scratch / "host"
        shutil.copytree(sources, work / "stress/src")
        # The host's side runs the same compiler from the same unpacked packages.
        root = scratch / "root"
        root.mkdir()
        with open(tool("tools/guest/make_userland_initramfs.sh"), "rb") as source:
            subprocess.run(["cpio", "-i", "-d", "--quiet", "--no-absolute-filenames"], cwd=root, stdin=source, check=True)
        shutil.copytree(sources, root / "tmp/w/src")
        command = "mount --rbind /dev \"$0/dev\" && exec chroot \"$0\" /bin/sh -c 'cd /tmp/w/src && make -s -j2 && sha256sum *.o'"
        host = subprocess.run(["unshare", "--mount", "sh", "-c", command, str(root)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        if host.returncode:
            counts.skip("parallel compilation", "chroot is not allowed here")
            return
        write_script(scratch / "overlay", [
            "cp -r /stress/src /tmp/w/src && cd /tmp/w/src", f"end=$((SECONDS + {seconds}))", "round=0", "while :; do",
            "  make -s clean", f"  echo @@begin compile-$round; make -s -j{cpus} && sha256sum *.o; echo @@end compile-$round $?",
            "  round=$((round + 1))", "  [ $SECONDS -lt $end ] || break", "done"])
        text = guest.run(scratch, cpus, seconds + 3600)
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
    guest = Guest(arguments, counts)
    if not arguments.oracle and not os.path.exists(arguments.rhea):
        counts.verdict("the program", f"{arguments.rhea} is not built")
    else:
        if arguments.only != "compilation":
            stressors(guest, counts, arguments.stressor or (FULL if arguments.full else QUICK), arguments.seconds or (60 if arguments.full else 1),
                      arguments.cpus or (4 if arguments.full else 2))
        if arguments.only == "compilation" or (arguments.full and not arguments.only and not arguments.stressor):
            compilation(guest, counts, arguments.compile_seconds or (1800 if arguments.full else 1), arguments.cpus or 2, 24 if arguments.full else 2)
    print(f"{counts.passed} passed, {counts.failed} failed, {counts.skipped} skipped", flush=True)
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
