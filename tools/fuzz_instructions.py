#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The differential instruction suite with new seeds, for as long as wanted; stops at the first difference.

Each round is one seed of isa_conformance. Of every eight rounds five run in the configuration that users run and one in each of the
other three. After every round a line is added to the file of results: date, commit, configuration, seed, cases that agreed, cases that
the host could not judge, failures, processor seconds. `--report` adds such a file up."""
import argparse
import collections
import datetime
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIGS = ["optimised", "reference", "optimised", "tiny-cache", "optimised", "tiny-tlb", "optimised", "optimised"]
SUMMARY = re.compile(r"^isa \S+: seed \d+, (\d+) cases passed, (\d+) failed, (\d+) inconclusive, (\d+) executor deaths")


def commit():
    text = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout
    return text.strip() or "unknown"


def processor_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_round(arguments, config, seed):
    """Returns (passed, failed, inconclusive, processor seconds, output), or None if it was interrupted."""
    command = [arguments.program, "--config", config, "--seed", str(seed), "--cases", str(arguments.cases), "--jobs", str(arguments.jobs)]
    if arguments.rows:
        command += ["--rows", arguments.rows]
    before = processor_seconds()
    result = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = [match for match in map(SUMMARY.match, result.stdout.splitlines()) if match]
    if result.returncode < 0 or (not lines and result.returncode == 0):
        return None
    passed, failed, inconclusive, _ = map(int, lines[0].groups()) if lines else (0, 1, 0, 0)
    return passed, failed, inconclusive, processor_seconds() - before, result.stdout


def report(path):
    totals = collections.defaultdict(lambda: [0, 0, 0.0])
    for line in path.read_text().splitlines():
        date, revision, config, _, passed, _, failed, seconds = line.split("\t")
        for key in ((date, revision, config), ("total", "", "")):
            totals[key][0] += int(passed)
            totals[key][1] += int(failed)
            totals[key][2] += float(seconds)
    for (date, revision, config), (passed, failed, seconds) in sorted(totals.items()):  # the total comes last: letters after digits
        print(f"{date:<11} {revision:<20} {config:<11} {passed:>13,} cases agreed {failed:>4} failed {seconds / 3600:8.2f} h")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default=str(ROOT / "build/tests/isa/isa_conformance"))
    parser.add_argument("--seconds", type=float, default=0, help="stop after the round that is running then (default: never)")
    parser.add_argument("--rounds", type=int, default=0, help="stop after so many rounds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cases", type=int, default=20, help="per combination and round")
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--seed", type=int, default=0, help="of the first round (default: from the time)")
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / ".cache/fuzz/instructions.tsv")
    parser.add_argument("--report", action="store_true", help="add up the results so far, and end")
    arguments = parser.parse_args()
    if arguments.report:
        return report(arguments.results)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    first_seed = arguments.seed or int(time.time())
    started, revision, total = time.monotonic(), commit(), 0
    number = 0
    while True:
        config, seed = CONFIGS[number % len(CONFIGS)], first_seed + number
        outcome = run_round(arguments, config, seed)
        if outcome is None:
            print("interrupted: this round does not count")
            return 1
        passed, failed, inconclusive, seconds, output = outcome
        total += passed
        with arguments.results.open("a") as file:
            today = datetime.date.today().isoformat()
            file.write(f"{today}\t{revision}\t{config}\t{seed}\t{passed}\t{inconclusive}\t{failed}\t{seconds:.1f}\n")
        print(f"seed {seed} {config}: {passed} cases agree, {inconclusive} not judged, {passed / max(seconds, 1e-9):.0f} per processor second; "
              f"{total:,} in this run", flush=True)
        if failed:
            print(output)
            print(f"a difference; again with: {arguments.program} --config {config} --seed {seed} --case N, with N from above")
            return 1
        number += 1
        if (arguments.rounds and number >= arguments.rounds) or (arguments.seconds and time.monotonic() - started > arguments.seconds):
            return 0


if __name__ == "__main__":
    sys.exit(main())
