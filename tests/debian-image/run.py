#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# rhea-suite: exclusive timeout=900
"""`rhea run debian` as a user has it: made once, logged in on the console and by ssh, packages installed, restarted, switched off.

The system is kept in the cache folder (RHEA_CACHE, else .cache) and made again only with --anew. Where Debian's packages
cannot be had or mmdebstrap may not work (a container without rights), all is skipped aloud.
The last line is "N passed, N failed, N skipped"."""
import argparse
import hashlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
from machine import Ended, Machine, free_port, ssh, ssh_command
from suite import ROOT, Counts

NOT_HERE = re.compile(r"takes root|uidmap|resolve|[Cc]ould not connect|[Ff]ailed to fetch|not permitted|unable to mount|subuid|No route|timed out")


def start(rhea, environment, *options):
    return Machine([rhea, "run", "debian", "--name", "test-vm", "--console", "stdio", *options], "test-vm", environment)


# Answers what it is sent, on the ports 7001 to 7010: the odd ones TCP, the even ones UDP.
ECHO = r"""use IO::Socket::INET; $SIG{CHLD} = "IGNORE";
for my $port (7001 .. 7010) {
  next if fork; my $buffer;
  if ($port % 2) { my $server = IO::Socket::INET->new(LocalPort => $port, Listen => 5, ReuseAddr => 1) or die;
    while (my $peer = $server->accept) { while (sysread $peer, $buffer, 65536) { print $peer $buffer; $peer->flush } close $peer } }
  else { my $server = IO::Socket::INET->new(LocalPort => $port, Proto => "udp") or die;
    while (my $peer = $server->recv($buffer, 65536)) { $server->send($buffer, 0, $peer) } }
  exit }
"""


def ten_forwards(counts, home, port, ports):
    """All at once, each with its own bytes, back and forth."""
    subprocess.run(ssh_command(home, port, "cat >/root/echo.pl && perl /root/echo.pl </dev/null >/dev/null 2>&1 && sleep 1"), input=ECHO.encode(), check=True, timeout=120)
    wrong = []

    def talk(index):
        kind = socket.SOCK_STREAM if index % 2 == 0 else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as peer:
            peer.settimeout(20)
            peer.connect(("127.0.0.1", ports[index]))
            for turn in range(20):
                sent = os.urandom(1000 + 17 * index)
                try:
                    for _ in range(3):  # datagrams may be lost
                        peer.send(sent)
                        got = b""
                        while len(got) < len(sent) and (more := peer.recv(65536)):
                            got += more
                        if got == sent or kind == socket.SOCK_STREAM:
                            break
                except OSError as problem:
                    got = str(problem)
                if got != sent:
                    wrong.append(f"forward {index}, turn {turn}")
                    return

    threads = [threading.Thread(target=talk, args=(index,)) for index in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts.verdict("ten forwards at once, TCP and UDP", ", ".join(wrong))


def bulk(counts, home, port):
    """The same bytes on both sides, there and back."""
    mib = 1024 if os.environ.get("RHEA_TEST_LONG") == "1" else 32
    with tempfile.TemporaryFile() as data:
        digest = hashlib.sha256()
        for _ in range(mib):
            piece = os.urandom(1 << 20)
            digest.update(piece)
            data.write(piece)
        for name, command in ((f"{mib} MiB over ssh to the guest", "cat >/root/bulk; sha256sum </root/bulk"), ("... and back", "cat /root/bulk")):
            data.seek(0)
            started = time.monotonic()
            result = subprocess.run(ssh_command(home, port, command), stdin=data if "sha256" in command else subprocess.DEVNULL, capture_output=True,
                                    timeout=1200)
            got = result.stdout.split()[0].decode() if "sha256" in command else hashlib.sha256(result.stdout).hexdigest()
            counts.verdict(name, "" if got == digest.hexdigest() else f"{got}: {result.stderr[-300:]}", f" ({mib / (time.monotonic() - started):.0f} MiB/s)")


def first_life(counts, rhea, environment, home):
    port, ports = free_port(), [free_port() for _ in range(10)]
    options = [word for index, each in enumerate(ports) for word in ("--forward", f"{'udp' if index % 2 else 'tcp'}:{each}:{7001 + index}")]
    machine = start(rhea, environment, "--fresh", "--forward", f"tcp:{port}:22", *options)
    try:
        reached = machine.log_in(600)
        counts.verdict("login prompt", note=f" (after {reached:.1f} s)")
        text, status = machine.run("hostname && cat /proc/sys/kernel/hostname && systemctl is-system-running --wait; systemctl --failed --no-legend")
        counts.verdict("host name, and nothing failed", "" if text.count("test-vm\n") >= 2 and "running" in text else text[-300:])
        text, _ = machine.run("date +@%s")
        off = abs(int(re.search(r"@(\d+)", text).group(1)) - time.time())
        counts.verdict("the time is right", "" if off < 3 else f"{off:.0f} s off")
        text, status = machine.run("ping -c 1 -W 5 10.0.2.2")
        counts.verdict("the gateway answers", "" if status == 0 else text[-300:])
        second = subprocess.run([rhea, "run", "debian", "--name", "test-vm"], env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                                text=True, timeout=60)
        lines = [line for line in second.stderr.splitlines() if "in use" in line or "lock" in line]
        counts.verdict("a second start of the same machine is refused", "" if second.returncode == 1 and lines else f"{second.returncode}: {second.stderr}")
        text, status = machine.run("apt-get update -qq && apt-get install -y -qq hello", 300)
        counts.verdict("apt-get update and install", "" if status == 0 else text[-600:])
        text, status = machine.run("hello")
        counts.verdict("the program that was installed", "" if "Hello, world!" in text else text[-300:])
        try:
            result = ssh(home, port, "hostname")
            good = result.returncode == 0 and b"test-vm" in result.stdout
            counts.verdict("ssh with the user's key", "" if good else result.stdout.decode(errors="replace"))
            ten_forwards(counts, home, port, ports)
            bulk(counts, home, port)
        except subprocess.TimeoutExpired:
            counts.verdict("ssh with the user's key", "no answer")
        machine.send("reboot")
        machine.started = time.monotonic()
        counts.verdict("reboot", note=f" (prompt after {machine.log_in(300):.1f} s)")
        text, status = machine.run("hello")
        counts.verdict("what was installed is still there", "" if "Hello, world!" in text else text[-300:])
        machine.send("poweroff")
        status = machine.end()
        counts.verdict("poweroff ends it with status 0", "" if status == 0 else f"status {status}: {machine.said[-300:]!r}")
    except Ended as reason:
        counts.verdict("the machine", str(reason))
    finally:
        machine.kill()


def second_life(counts, rhea, environment):
    """Throw-away writes, and the power button."""
    capture = pathlib.Path(environment["TMPDIR"]) / "frames.pcap"
    machine = start(rhea, environment, "--snapshot", "--net", "user", "--net", "user,mtu=9000,queues=2", "--capture", str(capture))
    try:
        counts.verdict("start with --snapshot", note=f" (prompt after {machine.log_in(300):.1f} s)")
        text, _ = machine.run("touch /thrown-away && sync && hello")
        counts.verdict("it shows what the machine has", "" if "Hello, world!" in text else text[-300:])
        left = list(pathlib.Path(environment["TMPDIR"]).glob("rhea-snapshot-*"))
        counts.verdict("the disk that is thrown away has no name", "" if not left else str(left))
        text, _ = machine.run("for i in 1 2 3 4 5 6 7 8 9; do ip -br -4 address | grep -q 10.0.3.15 && break; sleep 1; done; ip -4 address")
        good = re.search(r"mtu 1500 .*\n.*10\.0\.2\.15", text) and re.search(r"mtu 9000 .*\n.*10\.0\.3\.15", text)
        counts.verdict("two network cards", "" if good else text[-600:])
        addresses = {capture.read_bytes().count(bytes([0x52, 0x48, 0x45, 0x41, 0, card])) > 2 for card in (1, 2)}
        counts.verdict("frames of both in one capture", "" if addresses == {True} else "one of them is missing")
        machine.process.send_signal(signal.SIGTERM)
        status = machine.end()
        counts.verdict("SIGTERM presses the power button", "" if status == 0 else f"status {status}: {machine.said[-300:]!r}")
    except Ended as reason:
        counts.verdict("the machine with --snapshot", str(reason))
    finally:
        machine.kill()
    left = list(pathlib.Path(environment["TMPDIR"]).glob("rhea-snapshot-*"))
    counts.verdict("nothing is left of the snapshot", "" if not left else str(left))
    machine = start(rhea, environment)
    try:
        machine.log_in(300)
        _, status = machine.run("[ ! -e /thrown-away ] && hello")
        counts.verdict("what was thrown away is not there", "" if status == 0 else "it is")
        machine.send("poweroff")
        counts.verdict("poweroff", "" if machine.end() == 0 else "did not end it")
    except Ended as reason:
        counts.verdict("the machine after --snapshot", str(reason))
    finally:
        machine.kill()


def available(rhea, environment):
    """Why the system cannot be made here; None where it is there or can. What is our own mistake is left to show itself."""
    for tool in ("mmdebstrap", "mke2fs", "ssh", "ssh-keygen"):
        if not shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            return f"{tool} is not installed (tools/deps.sh test)"
    started = time.monotonic()
    # A debug console that cannot be opened ends it after the system is made and before a machine starts.
    result = subprocess.run([rhea, "run", "debian", "--name", "test-vm", "--debugcon", "/nonexistent/x", "--console", "none"], env=environment,
                            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=800)
    print(f"(the system was there or made after {time.monotonic() - started:.0f} s)", flush=True)
    if "aking a Debian system" in result.stderr and NOT_HERE.search(result.stderr):
        return result.stderr.strip().splitlines()[-1]
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", default="build")
    parser.add_argument("--anew", action="store_true", default=os.environ.get("RHEA_TEST_LONG") == "1", help="make the system again")
    arguments = parser.parse_args()
    rhea = os.environ.get("RHEA_BIN") or str(ROOT / arguments.build_dir / "rhea")
    counts = Counts()
    data = pathlib.Path(os.environ.get("RHEA_CACHE") or ROOT / ".cache").resolve() / "data"
    if arguments.anew:
        shutil.rmtree(data / "rhea/images", ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="rhea-debian-image-") as scratch:
        home = pathlib.Path(scratch) / "home"
        (home / ".ssh").mkdir(parents=True)
        environment = dict(os.environ, XDG_DATA_HOME=str(data), HOME=str(home), TMPDIR=scratch)
        data.mkdir(parents=True, exist_ok=True)
        reason = available(rhea, environment)
        if reason:
            counts.skip("all of it", reason)
        else:
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / ".ssh/id_ed25519")], check=True, stdin=subprocess.DEVNULL)
            first_life(counts, rhea, environment, home)
            if not counts.failed:
                second_life(counts, rhea, environment)
    return counts.end()


if __name__ == "__main__":
    sys.exit(main())
