# SPDX-License-Identifier: Apache-2.0
"""A Debian userland in a guest computes what it computes on the host: compilers, Python, Perl, OpenSSL, filters, 32 bit.

Each cases/NAME.sh runs in one guest, and by chroot from the same files on the host's processor; output and status must
be the same, answers that standards give must be right ("WRONG" is never printed), and the kernel must not complain.
A case names its depth: "quick" ones run always, at a size of their own, "full" ones where everything runs at full size.
"""
import dataclasses
import difflib
import glob
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
from suite import ROOT, Guest, enter, run_limited, tool

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("RHEA_CACHE", ROOT / ".cache"))
QUICK = dict(ROUNDS=300, DIGEST_LINES=100000, CIPHER_LINES=100000, DIGITS=300, BIG_BYTES=4_000_000, XZ_LEVEL=0, FULL="")
FULL = dict(ROUNDS=5000, DIGEST_LINES=300000, CIPHER_LINES=100000, DIGITS=2000, BIG_BYTES=100_000_000, XZ_LEVEL=2, FULL=1)
# Kernel messages of level "warning" and worse that say nothing about the engine.
HARMLESS = re.compile(r"lease upgrade|MDS CPU bug|Spectre|spectre|RETBleed|MMIO Stale|TAA|GDS|ITS:|BHI|SRBDS|Speculative|"
                      r"pci_root|device-mapper|ENERGY_PERF_BIAS|acpi PNP0A|process '.*' started with executable stack")
ALARMING = re.compile(r"BUG:|WARNING:|Oops|Call Trace|lockup|\bstall|segfault at|trap invalid opcode|general protection|clocksource:.*unstable|"
                      r"traps: .* (error|trap)|Kernel panic|double fault|Bad page|hung task", re.I)


@dataclasses.dataclass
class Case:
    name: str
    limit: int
    output: list = dataclasses.field(default_factory=list)
    status: int = -1
    seconds: float = 0


def all_cases(full):
    cases = []
    for script in sorted((HERE / "cases").glob("*.sh")):
        depth, limit = re.search(r"^# case: (quick|full) limit=(\d+)$", script.read_text(), re.M).groups()
        if full or depth == "quick":
            cases.append(Case(script.stem, int(limit) * (4 if full else 1)))
    return cases


def busybox_of_i386(folder):
    """Debian's static busybox for i386, from apt lists of its own: the host's are left alone. None without a network."""
    target = folder / "busybox-i386"
    if not target.exists():
        with tempfile.TemporaryDirectory(prefix="rhea-i386-") as state:
            for name in ("lists/partial", "cache/archives/partial", "out"):
                os.makedirs(f"{state}/{name}")
            options = ["-qq", "-o", "APT::Architecture=i386", "-o", "APT::Architectures=i386", "-o", f"Dir::State={state}",
                       "-o", f"Dir::State::lists={state}/lists", "-o", f"Dir::Cache={state}/cache", "-o", "Dir::State::status=/dev/null"]
            quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=f"{state}/out")
            try:
                subprocess.run(["apt-get", *options, "update"], timeout=120, check=False, **quiet)
                subprocess.run(["apt-get", *options, "download", "busybox-static"], timeout=60, check=True, **quiet)
                package = glob.glob(f"{state}/out/*.deb")[0]
                subprocess.run(["dpkg-deb", "-x", package, f"{state}/tree"], check=True, **quiet)
            except (OSError, subprocess.SubprocessError, IndexError):
                return None
            folder.mkdir(parents=True, exist_ok=True)
            shutil.move(next(path for path in (f"{state}/tree/bin/busybox", f"{state}/tree/usr/bin/busybox") if os.path.exists(path)), target)
    return target


def parse(text):
    found, case = {}, None
    for line in text.splitlines():
        words = line.split()
        if line.startswith("@@begin "):
            case = found[words[1]] = Case(words[1], 0)
        elif line.startswith("@@end ") and case and len(words) == 4:
            case.status, case.seconds = int(words[2]), int(words[3]) / 1000
            case = None
        elif case and line.startswith("| "):
            case.output.append(line[2:])
    return found


@dataclasses.dataclass
class Options:
    rhea: str
    rhea_options: list
    oracle: bool
    full: bool
    memory: str
    keep: str | None  # a file for the guest's console


class Suite:
    def __init__(self, counts, options):
        self.options = options
        self.counts = counts

    def prepare(self, scratch, cases):
        """The folder /test of both sides."""
        folder = scratch / "overlay/test"
        folder.mkdir(parents=True)
        for name in ("cases", "programs"):
            shutil.copytree(HERE / name, folder / name)
        shutil.copy(HERE / "runner.sh", folder)
        (folder / "plan").write_text("".join(f"{case.name} {case.limit}\n" for case in cases))
        settings = FULL if self.options.full else QUICK
        (folder / "settings").write_text("".join(f"export {name}={value}\n" for name, value in settings.items()))
        (folder / "run").write_text("#!/bin/busybox sh\nexec /bin/bash /test/runner.sh guest\n")
        (folder / "run").chmod(0o755)
        if any(case.name == "i386" for case in cases):
            busybox = busybox_of_i386(CACHE / "initramfs")
            if busybox:
                shutil.copy(busybox, folder / "busybox-i386")
                (folder / "busybox-i386").chmod(0o755)
            else:
                self.counts.skip("i386 busybox", "the package cannot be fetched")
        return folder

    def on_host(self, scratch, folder, initrd, limit):
        root = scratch / "root"
        root.mkdir()
        with open(initrd, "rb") as source:
            subprocess.run(["cpio", "-i", "-d", "--quiet", "--no-absolute-filenames"], cwd=root, stdin=source, check=True)
        command = enter(root)
        if not command:
            return None
        # Keys that both sides sign with; what one signs is then the same there.
        (root / "test").mkdir()
        for bits in (1024, 2048):
            subprocess.run([*command, "/usr/bin/openssl", "genrsa", "-out", f"/test/rsa{bits}.pem", str(bits)], check=True,
                           stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            shutil.copy(root / f"test/rsa{bits}.pem", folder)
        shutil.copytree(folder, root / "test", dirs_exist_ok=True)
        text, _ = run_limited([*command, "/bin/bash", "/test/runner.sh"], limit)
        return parse(text)

    def in_guest(self, scratch, limit):
        options = self.options
        guest = Guest(self.counts, options.rhea, options.oracle, options.keep, options.rhea_options)
        return parse(guest.run(scratch, "/test/run", options.memory, limit))

    def compare(self, case, host, guest):
        if case.name not in guest or guest[case.name].status == -1:
            self.counts.verdict(case.name, "the guest did not come to its end")
            return
        ours = guest[case.name]
        wrong = [line for line in ours.output if line.startswith("WRONG")]
        note = f" ({ours.seconds:.1f} s)"
        if host is None:
            problem = "; ".join(wrong) or (f"status {ours.status}" if ours.status else "")
            self.counts.verdict(case.name + " (not compared: chroot is not allowed)", problem, note)
            return
        theirs = host.get(case.name, Case(case.name, 0))
        note = f" ({ours.seconds:.1f} s, host {theirs.seconds:.1f} s)"
        if theirs.status in (-1, 137):
            self.counts.verdict(case.name, "does not end on the host", note)
        elif wrong:
            self.counts.verdict(case.name, wrong[0], note)
        elif (ours.output, ours.status) != (theirs.output, theirs.status):
            self.counts.verdict(case.name, f"differs from the host (status {ours.status}, host {theirs.status})", note)
            for line in list(difflib.unified_diff(theirs.output, ours.output, "host", "guest", n=0, lineterm=""))[:30]:
                print(f"    {line[:200]}")
        else:
            self.counts.verdict(case.name, "", note)

    def check_kernel_log(self, guest):
        log = guest["kernel-log"].output if "kernel-log" in guest else None
        if log is None:
            self.counts.verdict("kernel log", "not there")
            return
        bad = []
        for line in log:
            level, _, message = line.partition(">")
            if ALARMING.search(message) or (level[1:].isdigit() and int(level[1:]) % 8 <= 4 and not HARMLESS.search(message)):
                bad.append(line)
        self.counts.verdict("kernel log", f"{len(bad)} complaints" if bad else "")
        print("".join(f"    {line[:200]}\n" for line in bad[:20]), end="")

    def run(self, cases):
        limit = 24 * 3600 if self.options.full else 780
        with tempfile.TemporaryDirectory(prefix="rhea-userland-") as name:
            scratch = pathlib.Path(name)
            initrd = tool("tools/guest/make_userland_initramfs.sh")
            folder = self.prepare(scratch, cases)
            host = self.on_host(scratch, folder, initrd, limit)
            guest = self.in_guest(scratch, limit)
        for case in cases:
            self.compare(case, host, guest)
        self.check_kernel_log(guest)
