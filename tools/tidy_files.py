#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prepares clang-tidy's run over the release build: writes build/tidy/compile_commands.json and prints the .cpp files to
read, all of src/, or with a revision as argument those changed since it."""
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What clang-tidy must not see: clang refuses libstdc++'s headers without floating point, and does not know g++'s own options.
DROPPED = (" -mgeneral-regs-only", " -fno-tree-loop-distribute-patterns", " -mstringop-strategy=rep_8byte", " -minline-all-stringops")


def main():
    database = json.loads((ROOT / "build/compile_commands.json").read_text())
    for entry in database:
        for flag in DROPPED:
            entry["command"] = entry["command"].replace(flag, "")
    folder = ROOT / "build/tidy"
    folder.mkdir(exist_ok=True)
    (folder / "compile_commands.json").write_text(json.dumps(database))
    files = {entry["file"] for entry in database if entry["file"].endswith(".cpp") and entry["file"].startswith(f"{ROOT}/src/")}
    if len(sys.argv) > 1 and sys.argv[1]:
        changed = subprocess.run(["git", "diff", "--name-only", sys.argv[1]], cwd=ROOT, capture_output=True, text=True, check=True)
        files &= {str(ROOT / name) for name in changed.stdout.split()}
    print("\n".join(sorted(files)))


if __name__ == "__main__":
    main()
