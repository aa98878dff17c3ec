#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# rhea-suite: timeout=600
"""Runs the bare-metal guests under --dbt-verify: optimised and reference translation must agree in every interval.

Each guest once with a short and once with a long interval. The guests' own verdicts are tests/guest's affair; here a
guest passes if it came to its end and the machines agreed. The last line is "N passed, N failed, N skipped".
"""
import argparse
import os
import pathlib
import subprocess
import sys

GUESTS = ["hello", "exceptions", "paging", "paging32", "realmode", "rings", "irq", "smc", "features", "tasks",
          "debug", "triple"]
INTERVALS = ["251", "20011"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build-dir", default=os.environ.get("RHEA_BUILD_DIR", "build"))
    options = parser.parse_args()
    build = pathlib.Path(options.build_dir)
    rhea = os.environ.get("RHEA_BIN", str(build / "rhea"))
    passed = failed = skipped = 0
    for guest in GUESTS:
        image = build / "tests" / "guest" / f"{guest}.elf"
        for interval in INTERVALS:
            name = f"{guest}, every {interval}"
            if not image.exists():
                print(f"skip {name}: {image} is not built")
                skipped += 1
                continue
            command = [rhea, "run", "--kernel", str(image), "-m", "64M", "--debug-exit", "--no-reboot", "--console", "stdio",
                       "--dbt-verify", interval]
            try:
                run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=180)
                errors = run.stderr.decode(errors="replace")
                good = "instructions verified" in errors
            except subprocess.TimeoutExpired:
                errors, good = "not done in 180 s", False
            passed += good
            failed += not good
            print(f"{'ok' if good else 'FAIL'} {name}")
            if not good:
                print(errors)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
