#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Activates the seeded bugs of docs/seeded-bugs.md one after the other and checks that the suite named there catches each.

Needs a build with -DRHEA_INJECT_BUGS=ON. The last line is "N passed, N failed, N skipped"; a bug that is caught has passed.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CASES = 12


def table():
    """{number: (suite, argument or None)}"""
    bugs = {}
    for line in (ROOT / "docs/seeded-bugs.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].isdigit():
            suite, _, argument = cells[-1].partition(" ")
            bugs[int(cells[0])] = (suite, argument or None)
    return bugs


def output_of(command, bug=0):
    environment = dict(os.environ, RHEA_INJECT_BUG=str(bug))
    process = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             timeout=3600, check=False)
    return process.stdout.decode(errors="replace")


def failures(text):
    """What failed, apart from what the figures of the summary say."""
    return {line for line in text.splitlines() if re.match(r"(FAIL|failed:) ", line)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", type=pathlib.Path, default=os.environ.get("RHEA_BUILD_DIR", "build-bugs"))
    parser.add_argument("bugs", nargs="*", type=int, help="numbers (default: all)")
    options = parser.parse_args()
    build = pathlib.Path(options.build_dir)
    isa = str(build / "tests/isa/isa_conformance")
    bugs = {number: how for number, how in table().items() if not options.bugs or number in options.bugs}
    plain = [number for number, how in bugs.items() if how == ("isa", None)]
    caught = {}
    if plain:
        for line in output_of([isa, "--inject-all", f"{min(plain)}-{max(plain)}", "--cases", str(CASES)]).splitlines():
            if match := re.match(r"bug +(\d+): (caught|NOT CAUGHT)", line):
                caught[int(match[1])] = match[2] == "caught"
    healthy = {}
    for number, (suite, argument) in bugs.items():
        if number not in plain:
            if suite == "isa":
                command = [isa, "--rows", argument, "--cases", "400", "--max-reports", "0"]
            else:
                command = [sys.executable, str(ROOT / "tests/guest/run.py"), "--build-dir", str(build), argument]
            if argument not in healthy:
                healthy[argument] = failures(output_of(command))
            caught[number] = not failures(output_of(command, number) if suite == "guest" else
                                          output_of([*command, "--inject-bug", str(number)])) <= healthy[argument]
        print(f"{'ok' if caught.get(number) else 'FAIL'} bug {number} ({suite} {argument or ''})", flush=True)
    passed = sum(bool(caught.get(number)) for number in bugs)
    print(f"{passed} passed, {len(bugs) - passed} failed, 0 skipped")
    return 0 if passed == len(bugs) else 1


if __name__ == "__main__":
    sys.exit(main())
