#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# rhea-suite: exclusive timeout=900
"""Debian in a guest: kernels boot with clean logs, and a userland computes what it computes on the host's processor.

The boots are tools/soak_boot.py's, the userland is userland.py's. --full or RHEA_TEST_LONG=1: more boots, every case, and
at full size. The last line is "N passed, N failed, N skipped"."""
import argparse
import os
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))
from suite import ROOT, Counts
from userland import Options, Suite, all_cases


def boots(counts, options):
    arguments = ["--boots", "20", "--cpus", "1,2,4", "--pairs", "20"] if options.full else ["--boots", "1", "--pairs", "2"]
    arguments += ["--pair-cpus", "2"]
    arguments += ["--oracle"] if options.oracle else ["--rhea", options.rhea]
    result = subprocess.run([sys.executable, str(ROOT / "tools/soak_boot.py"), *arguments], stdout=subprocess.PIPE, text=True)
    print(result.stdout, flush=True)
    match = re.search(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", result.stdout, re.M)
    if not match:
        counts.verdict("boots", "soak_boot.py said nothing")
        return
    counts.passed += int(match.group(1))
    counts.failed += int(match.group(2))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", default="build")
    parser.add_argument("--oracle", action="store_true", help="run QEMU TCG instead of Rhea, to test the tests")
    parser.add_argument("--rhea-option", action="append", default=[], help="one more option for the userland's `rhea run` (repeatable)")
    parser.add_argument("--only", choices=["boots", "userland"])
    parser.add_argument("--full", action="store_true", default=os.environ.get("RHEA_TEST_LONG") == "1", help="everything at full size")
    parser.add_argument("--memory", help="of the userland's guest (default: 2048M, 4096M at full size)")
    parser.add_argument("--keep", metavar="FILE", help="write the console of the userland's guest there")
    parser.add_argument("cases", nargs="*", help="only these cases of the userland, of either depth")
    arguments = parser.parse_args()

    options = Options(rhea=os.environ.get("RHEA_BIN") or str(ROOT / arguments.build_dir / "rhea"), rhea_options=arguments.rhea_option,
                      oracle=arguments.oracle, full=arguments.full, memory=arguments.memory or ("4096M" if arguments.full else "2048M"),
                      keep=arguments.keep)
    cases = all_cases(options.full or bool(arguments.cases))
    unknown = set(arguments.cases) - {case.name for case in cases}
    if unknown:
        parser.error("unknown cases: " + " ".join(sorted(unknown)))
    if arguments.cases:
        cases = [case for case in cases if case.name in arguments.cases]
    counts = Counts()
    if not options.oracle and not os.path.exists(options.rhea):
        counts.verdict("the program", f"{options.rhea} is not built")
    else:
        if arguments.only != "userland" and not arguments.cases:
            boots(counts, options)
        if arguments.only != "boots":
            Suite(counts, options).run(cases)
    return counts.end()


if __name__ == "__main__":
    sys.exit(main())
