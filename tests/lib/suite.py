# SPDX-License-Identifier: Apache-2.0
"""What the suites with Debian guests share: verdicts, programs under a time limit, a guest that runs one program and powers off."""
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
QEMU = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot"]


class Counts:
    passed = failed = skipped = 0

    def verdict(self, name, problem="", note=""):
        print(f"{'FAIL' if problem else 'ok'} {name}{': ' + problem if problem else ''}{note}", flush=True)
        self.failed += bool(problem)
        self.passed += not problem

    def skip(self, name, why):
        print(f"skip {name}: {why}", flush=True)
        self.skipped += 1

    def end(self):
        """Prints the last line of a suite; its exit status."""
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped", flush=True)
        return 1 if self.failed else 0


def tool(*words):
    """The last line that a script of this tree prints."""
    return subprocess.run([str(ROOT / words[0]), *map(str, words[1:])], check=True, stdout=subprocess.PIPE, text=True).stdout.strip().splitlines()[-1]


def run_limited(command, limit, keep=None):
    """Output and status (None: killed after `limit` seconds); the output grows in the file `keep`, if given."""
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


def enter(root):
    """The command that runs a program in the unpacked root file system with /proc and /dev, or None where that is not allowed."""
    script = 'mount --rbind /dev "$0/dev" && mount --rbind /proc "$0/proc" && exec chroot "$0" "$@"'
    for user in ([], ["--user", "--map-root-user"]):
        command = ["unshare", *user, "--mount", "sh", "-c", script, str(root)]
        if subprocess.run([*command, "/bin/true"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return command
    return None


class Guest:
    """Debian's kernel with the userland's initramfs; on Rhea, or on QEMU TCG to test the tests."""

    def __init__(self, counts, rhea, oracle=False, keep=None, options=()):
        self.counts, self.rhea, self.oracle, self.keep, self.options = counts, rhea, oracle, keep, options

    def command(self, scratch, program, memory, cpus):
        overlay = scratch / "overlay.cpio"
        subprocess.run([str(ROOT / "tools/guest/make_cpio.sh"), str(scratch / "overlay"), str(overlay)], check=True)
        kernel, initrd = tool("tools/guest/fetch_kernel.sh"), tool("tools/guest/make_userland_initramfs.sh")
        line = f"console=ttyS0 quiet log_buf_len=1M rhea.run={program}"
        if not self.oracle:
            return [self.rhea, "run", "--memory", memory, "--cpus", str(cpus), "--console", "stdio", "--no-reboot", "--kernel", kernel, "--initrd",
                    initrd, "--initrd", str(overlay), "--append", line, *self.options]
        both = scratch / "both.cpio"
        with open(both, "wb") as sink:
            for part in (initrd, overlay):
                with open(part, "rb") as source:
                    shutil.copyfileobj(source, sink)
        return [*QEMU, "-smp", str(cpus), "-m", memory, "-kernel", kernel, "-initrd", str(both), "-append", line]

    def run(self, scratch, program, memory, limit, cpus=1):
        """The console of a guest that runs `program`, from the folder scratch/overlay laid over its files. A failure is counted where it did
        not say "@@done" and power off within `limit` seconds."""
        command = self.command(scratch, program, memory, cpus)
        started = time.monotonic()
        text, status = run_limited(command, limit, self.keep)
        problem = "" if status == 0 and "@@done" in text else f"status {status}" if status is not None else f"no end within {limit} s"
        vcpus = f" with {cpus} vCPUs" if cpus > 1 else ""
        self.counts.verdict(f"guest{vcpus} ran to its end and powered off", problem, f" ({time.monotonic() - started:.1f} s)")
        if problem:
            print("".join(f"    {line[:200]}\n" for line in text.splitlines()[-40:]), end="")
        return text
