# SPDX-License-Identifier: Apache-2.0
"""A machine whose console is a shell: what it says is waited for, lines are sent, commands are run. And ssh to it."""
import os
import re
import select
import signal
import socket
import subprocess
import time


class Ended(Exception):
    pass


class Machine:
    """A running program with a guest's console on its standard streams, and what that has said. `name` is the guest's host name."""

    def __init__(self, command, name, environment=None):
        self.prompt = f"root@{name}:~# ".encode()
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        start_new_session=True)
        self.said = b""

    def wait_for(self, text, seconds):
        """What was said up to and including `text`, which is then forgotten."""
        give_up = time.monotonic() + seconds
        while text not in self.said:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, give_up - time.monotonic()))
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not data:
                why = "ended" if ready else f"did not say {text!r} in {seconds} s"
                raise Ended(f"{why}; its last words: {self.said[-600:].decode(errors='replace')!r}")
            self.said += data
        at = self.said.index(text) + len(text)
        before, self.said = self.said[:at], self.said[at:]
        return before.decode(errors="replace").replace("\r", "")

    def send(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def run(self, line, seconds=120):
        """Output and status of a command."""
        self.send(f"{line}; echo @@status:$?")
        text = self.wait_for(b"@@status:$?", seconds) and self.wait_for(b"@@status:", seconds)
        status = self.wait_for(self.prompt, seconds)
        return text, int(re.match(r"\d+", status).group())

    def log_in(self, seconds):
        """Seconds until the console was ready for a login; a shell stands there when this returns."""
        self.wait_for(b"login:", seconds)
        reached = time.monotonic() - self.started
        self.wait_for(self.prompt, 60)
        return reached

    def end(self, seconds=60):
        """The exit status, None where it did not end by itself."""
        try:
            tail, _ = self.process.communicate(timeout=seconds)
            self.said += tail
            return self.process.returncode
        except subprocess.TimeoutExpired:
            return None

    def kill(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ssh_command(home, port, *command):
    return ["ssh", "-i", str(home / ".ssh/id_ed25519"), "-p", str(port), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o",
            "LogLevel=ERROR", "-o", "BatchMode=yes", "root@127.0.0.1", *command]


def ssh(home, port, command, seconds=120):
    return subprocess.run(ssh_command(home, port, command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds)
