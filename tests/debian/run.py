#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# rhea-suite: exclusive timeout=900
"""Debian in a guest: kernels boot with clean logs, and a userland computes what it computes on the host's processor.

The userland's script runs in a guest and natively, by chroot into the same root file system (needs root; else its sections are
skipped where nothing can be compared). RHEA_TEST_LONG=1: the full size of everything, more boots. The last line is
"N passed, N failed, N skipped"."""
import argparse
import difflib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LONG = os.environ.get("RHEA_TEST_LONG") == "1"
LINES = 12_900_000 if LONG else 1_300_000  # 100 MB, 10 MB
QEMU = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "2048", "-display", "none", "-serial", "stdio",
        "-monitor", "none", "-no-reboot"]


class Counts:
    passed = failed = skipped = 0

    def verdict(self, name, good, detail=""):
        print(f"{'ok' if good else 'FAIL'} {name}{': ' + detail if detail else ''}", flush=True)
        self.passed += good
        self.failed += not good

    def skip(self, name, why):
        print(f"skip {name}: {why}", flush=True)
        self.skipped += 1


def output_of(*words):
    return subprocess.run([str(ROOT / words[0]), *words[1:]], check=True, stdout=subprocess.PIPE, text=True).stdout.strip().splitlines()[-1]


def boots(counts, command, oracle):
    arguments = ["--boots", "20" if LONG else "1", "--pairs", "20" if LONG else "2"]
    arguments += ["--oracle"] if oracle else ["--rhea", command]
    result = subprocess.run([sys.executable, str(ROOT / "tools/soak_boot.py"), *arguments], stdout=subprocess.PIPE, text=True)
    print(result.stdout, flush=True)
    match = re.search(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", result.stdout, re.M)
    if not match:
        counts.verdict("boots", False, "soak_boot.py said nothing")
        return
    counts.passed += int(match.group(1))
    counts.failed += int(match.group(2))


def native_run(initrd, test_folder, scratch):
    """The script's output on the host's processor, in the guest's root file system; None where chroot is not allowed."""
    root = scratch / "root"
    root.mkdir()
    with open(initrd, "rb") as source:
        subprocess.run(["cpio", "-i", "-d", "--quiet"], cwd=root, stdin=source, check=True)
    shutil.copytree(test_folder, root / "test")
    (root / "dev").mkdir(exist_ok=True)
    prefix = [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user"]
    if subprocess.run([*prefix, "chroot", str(root), "/bin/true"], stderr=subprocess.DEVNULL).returncode != 0:
        return None
    if not (root / "dev/null").exists() and subprocess.run(["mknod", "-m", "666", str(root / "dev/null"), "c", "1", "3"],
                                                           stderr=subprocess.DEVNULL).returncode != 0:
        (root / "dev/null").touch()
    subprocess.run([*prefix, "chroot", str(root), "/usr/bin/openssl", "genrsa", "-out", "/test/rsa.pem", "2048"],
                   stderr=subprocess.DEVNULL)
    if (root / "test/rsa.pem").exists():
        shutil.copy(root / "test/rsa.pem", test_folder)
    result = subprocess.run([*prefix, "chroot", str(root), "/test/userland.sh", str(LINES)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return result.stdout.decode(errors="replace")


def guest_run(command, limit):
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True)
    try:
        output, _ = process.communicate(timeout=limit)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        status = None
    return output.decode(errors="replace").replace("\r", ""), status


def sections(text):
    found, name = {}, None
    for line in text.splitlines():
        if line.startswith("== "):
            name = line[3:]
            found[name] = []
        elif name is not None and not re.match(r"\[ *\d+\.\d+\] ", line):  # the kernel shares the console
            found[name].append(line)
    return found


def compare(counts, native, guest):
    for name in native:
        if name == "end":
            continue
        if name not in guest:
            counts.verdict(f"userland: {name}", False, "the guest did not get there")
        elif native[name] == guest[name]:
            counts.verdict(f"userland: {name}", True)
        else:
            counts.verdict(f"userland: {name}", False, "differs from the host's processor:")
            for line in list(difflib.unified_diff(native[name], guest[name], "host", "guest", n=0, lineterm=""))[:20]:
                print(f"    {line[:200]}")


def userland(counts, command, keep):
    with tempfile.TemporaryDirectory(prefix="rhea-debian-") as folder:
        scratch = pathlib.Path(folder)
        initrd = output_of("tools/guest/make_userland_initramfs.sh")
        test_folder = scratch / "overlay/test"
        test_folder.mkdir(parents=True)
        shutil.copy(ROOT / "tests/debian/userland.sh", test_folder)
        (test_folder / "run").write_text(f"#!/bin/busybox sh\nexec /test/userland.sh {LINES}\n")
        for name in ("userland.sh", "run"):
            (test_folder / name).chmod(0o755)
        native = native_run(initrd, test_folder, scratch)
        shutil.rmtree(scratch / "root", ignore_errors=True)
        overlay, both = scratch / "overlay.cpio", scratch / "both.cpio"
        subprocess.run([str(ROOT / "tools/guest/make_cpio.sh"), str(scratch / "overlay"), str(overlay)], check=True)
        with open(both, "wb") as sink:
            for part in (initrd, overlay):
                with open(part, "rb") as source:
                    shutil.copyfileobj(source, sink)
        kernel = output_of("tools/guest/fetch_kernel.sh")
        text, status = guest_run([*command, kernel, "console=ttyS0 quiet rhea.run=/test/run", str(both)], 3600 * 6 if LONG else 780)
        if keep:
            pathlib.Path(keep).write_text(text)
        guest = sections(text)
        counts.verdict("userland: the guest ran to its end and powered off", "end" in guest and status == 0, f"status {status}")
        if "end" not in guest:
            print("\n".join(f"    {line[:200]}" for line in text.splitlines()[-15:]))
        if native is None:
            counts.skip("userland: comparison", "chroot is not allowed here")
        else:
            compare(counts, sections(native), guest)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", default="build")
    parser.add_argument("--oracle", action="store_true", help="run QEMU TCG instead of Rhea, to test the tests")
    parser.add_argument("--rhea-options", default="", help="more options for the userland's `rhea run`")
    parser.add_argument("--only", choices=["boots", "userland"])
    parser.add_argument("--keep", metavar="FILE", help="write the guest's console there")
    arguments = parser.parse_args()
    rhea = os.environ.get("RHEA_BIN") or str(ROOT / arguments.build_dir / "rhea")
    counts = Counts()
    if not arguments.oracle and not os.path.exists(rhea):
        counts.verdict("the program", False, f"{rhea} is not built")
    else:
        if arguments.only != "userland":
            boots(counts, rhea, arguments.oracle)
        if arguments.only != "boots":
            if arguments.oracle:
                wrapper = ["sh", "-c", f'exec {" ".join(QEMU)} -kernel "$1" -append "$2" -initrd "$3"', "sh"]
            else:
                options = f"--memory 2048M --console stdio --no-reboot {arguments.rhea_options}"
                wrapper = ["sh", "-c", f'exec "$0" run {options} --kernel "$1" --append "$2" --initrd "$3"', rhea]
            userland(counts, wrapper, arguments.keep)
    print(f"{counts.passed} passed, {counts.failed} failed, {counts.skipped} skipped", flush=True)
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
