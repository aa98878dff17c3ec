#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the .cpp files clang-tidy should read: all of the release build's (--all, the default), or with a revision as
argument those changed since it."""
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main():
    argument = sys.argv[1] if len(sys.argv) > 1 else ""
    database = json.loads((ROOT / "build/compile_commands.json").read_text())
    files = {entry["file"] for entry in database if entry["file"].endswith(".cpp") and entry["file"].startswith(str(ROOT) + "/src/")}
    if argument and argument != "--all":
        changed = subprocess.run(["git", "diff", "--name-only", argument], cwd=ROOT, capture_output=True, text=True, check=True)
        files &= {str(ROOT / name) for name in changed.stdout.split()}
    print("\n".join(sorted(files)))


if __name__ == "__main__":
    main()
