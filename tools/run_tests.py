#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds Rhea and runs every test; the last line printed is exactly "N passed, N failed, N skipped".

What runs:
  - the checks of the source tree: tools/check_*.py, one test each;
  - what CTest knows (see cmake/RheaModule.cmake): label "unit" is a GoogleTest binary whose cases are counted one by
    one, label "suite" is any command that ends with a line "N passed, N failed, N skipped", others count as one test;
  - every script tests/*/run.py, called with --build-dir DIR, ending with the same line. A comment line
    "# rhea-suite: exclusive timeout=600" among its first ten lines gives it the machine to itself or more time.
Suites find the program through RHEA_BIN and RHEA_BUILD_DIR; RHEA_TEST_LONG=1 asks them for full depth.
"""
import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUMMARY = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$")
BUDGET_SECONDS = 25 * 60
UNIT_TIMEOUT, SUITE_TIMEOUT = 180, 900


@dataclasses.dataclass
class Job:
    name: str
    command: list
    kind: str  # unit, suite or plain
    timeout: float
    exclusive: bool = False
    cwd: str = str(ROOT)
    environment: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Outcome:
    job: Job
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    notes: list = dataclasses.field(default_factory=list)  # names of failed and skipped cases
    output: str = ""


def run_command(job, environment):
    """Runs a job in a process group of its own; returns (status or None on timeout, output)."""
    with tempfile.TemporaryFile() as sink:
        process = subprocess.Popen(job.command, cwd=job.cwd, env=environment, stdin=subprocess.DEVNULL, stdout=sink,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(timeout=job.timeout)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)  # what the job left behind, too
            except ProcessLookupError:
                pass
            process.wait()
        sink.seek(0)
        return status, sink.read().decode(errors="replace")


def count_gtest(report, outcome, status):
    try:
        suites = json.loads(pathlib.Path(report).read_text())["testsuites"]
    except (OSError, ValueError, KeyError):
        # Crashed before the report was written: count what it had said so far.
        outcome.passed = len(re.findall(r"^\[       OK \] ", outcome.output, re.M))
        outcome.failed = 1
        started = re.findall(r"^\[ RUN      \] (\S+)", outcome.output, re.M)
        outcome.notes.append(f"FAILED {outcome.job.name}: ended early in {started[-1] if started else 'start-up'}")
        return
    for suite in suites:
        for case in suite["testsuite"]:
            name = f"{suite['name']}.{case['name']}"
            if "failures" in case:
                outcome.failed += 1
                outcome.notes.append(f"FAILED {outcome.job.name}: {name}")
            elif case.get("result") in ("SKIPPED", "SUPPRESSED") or case.get("status") == "NOTRUN":
                outcome.skipped += 1
                outcome.notes.append(f"skipped {outcome.job.name}: {name}")
            else:
                outcome.passed += 1
    if status != 0 and outcome.failed == 0:
        outcome.failed = 1
        outcome.notes.append(f"FAILED {outcome.job.name}: every case passed but the program ended with status {status}")


def count_suite(outcome, status):
    lines = [line.strip() for line in outcome.output.strip().splitlines()]
    match = SUMMARY.match(lines[-1]) if lines else None
    if match:
        outcome.passed, outcome.failed, outcome.skipped = map(int, match.groups())
        if outcome.failed:
            outcome.notes.append(f"FAILED {outcome.job.name}: {outcome.failed} cases")
        if outcome.skipped:
            outcome.notes.append(f"skipped {outcome.job.name}: {outcome.skipped} cases")
        if status != 0 and outcome.failed == 0:
            outcome.failed = 1
            outcome.notes.append(f"FAILED {outcome.job.name}: ended with status {status}")
    else:
        outcome.failed = 1
        outcome.notes.append(f"FAILED {outcome.job.name}: status {status} and no last line 'N passed, N failed, N skipped'")


def run_job(job, base_environment):
    outcome = Outcome(job)
    environment = dict(base_environment, **job.environment)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        report = os.path.join(scratch, "report.json")
        if job.kind == "unit":
            environment["GTEST_OUTPUT"] = f"json:{report}"
        status, outcome.output = run_command(job, environment)
        if status is None:
            outcome.failed = 1
            outcome.notes.append(f"FAILED {job.name}: still running after {job.timeout:.0f} s")
        elif job.kind == "unit":
            count_gtest(report, outcome, status)
        elif job.kind == "suite":
            count_suite(outcome, status)
        elif status == 0:
            outcome.passed = 1
        else:
            outcome.failed = 1
            outcome.notes.append(f"FAILED {job.name}: status {status}")
    outcome.seconds = time.monotonic() - started
    return outcome


def ctest_jobs(build_dir, scale):
    listing = subprocess.run(["ctest", "--show-only=json-v1", "--test-dir", str(build_dir)], capture_output=True, text=True,
                             check=True)
    jobs = []
    for test in json.loads(listing.stdout)["tests"]:
        if not test.get("command"):
            jobs.append(Job(test["name"], ["false"], "plain", 1))  # registered, but its program was not built
            continue
        properties = {item["name"]: item["value"] for item in test.get("properties", [])}
        labels = properties.get("LABELS", [])
        kind = "suite" if "suite" in labels else "unit" if "unit" in labels else "plain"
        default = SUITE_TIMEOUT if kind == "suite" else UNIT_TIMEOUT
        environment = dict(item.split("=", 1) for item in properties.get("ENVIRONMENT", []))
        jobs.append(Job(test["name"], test["command"], kind, scale * float(properties.get("TIMEOUT") or default),
                        bool(properties.get("RUN_SERIAL", False)), properties.get("WORKING_DIRECTORY", str(ROOT)), environment))
    return jobs


def script_jobs(build_dir, scale):
    jobs = []
    for script in sorted(ROOT.glob("tests/*/run.py")):
        timeout, exclusive = SUITE_TIMEOUT, False
        for line in script.read_text().splitlines()[:10]:
            if line.startswith("# rhea-suite:"):
                exclusive = "exclusive" in line
                match = re.search(r"timeout=(\d+)", line)
                timeout = int(match.group(1)) if match else timeout
        jobs.append(Job(str(script.relative_to(ROOT).parent), [sys.executable, str(script), "--build-dir", str(build_dir)],
                        "suite", scale * timeout, exclusive))
    return jobs


def check_jobs(build_dir):
    jobs = []
    for script in sorted(ROOT.glob("tools/check_*.py")):
        command = [sys.executable, str(script)]
        if script.name == "check_docs.py":
            command += ["--rhea", str(build_dir / "rhea")]
        jobs.append(Job(str(script.relative_to(ROOT)), command, "plain", 120))
    return jobs


def build(preset, build_dir, verbose):
    """Configures and builds; returns an Outcome, passed = 1 where it worked."""
    outcome = Outcome(Job(f"build ({preset})", [], "plain", 0))
    started = time.monotonic()
    jobs = str(os.cpu_count() or 2)
    for command in (["cmake", "--preset", preset, "-B", str(build_dir)], ["cmake", "--build", str(build_dir), "-j", jobs]):
        result = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=None if verbose else subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
        if result.returncode != 0:
            outcome.failed = 1
            # ninja prints the failed commands with the compiler's words: the last lines hold the cause.
            outcome.output = "\n".join((result.stdout or "").splitlines()[-120:])
            outcome.notes.append(f"FAILED build ({preset}): {' '.join(command)}")
            break
    outcome.passed = 1 - outcome.failed
    outcome.seconds = time.monotonic() - started
    return outcome


def show(outcome):
    verdict = "ok    " if not outcome.failed else "FAILED"
    print(f"{verdict} {outcome.job.name:<32} {outcome.passed:>7} passed {outcome.failed:>4} failed {outcome.skipped:>4} skipped "
          f"{outcome.seconds:8.1f} s", flush=True)
    if outcome.failed and outcome.output:
        lines = outcome.output.rstrip().splitlines()
        print("\n".join("    | " + line for line in lines[-80:]), flush=True)


def run_all(jobs, environment, workers):
    outcomes = []
    shared = [job for job in jobs if not job.exclusive]
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(run_job, job, environment) for job in shared]
        for future in concurrent.futures.as_completed(futures):
            outcomes.append(future.result())
            show(outcomes[-1])
    for job in jobs:
        if job.exclusive:
            outcomes.append(run_job(job, environment))
            show(outcomes[-1])
    return outcomes


def sanitizer_run(preset, environment, workers, scale):
    """Unit tests once more, built with a sanitizer; hostile guests too with the one for addresses."""
    build_dir = ROOT / f"build-{preset}"
    outcomes = [build(preset, build_dir, False)]
    show(outcomes[0])
    if not outcomes[0].failed:
        units = [job for job in ctest_jobs(build_dir, scale)
                 if job.kind == "unit" or (preset == "asan" and job.name == "hostile_guest")]
        for job in units:
            job.name = f"{preset}: {job.name}"
        outcomes += run_all(units, environment, workers)
    return outcomes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", default="build")
    parser.add_argument("--only", metavar="REGEX", help="run only the tests whose name matches")
    parser.add_argument("--no-build", action="store_true", help="take the build directory as it is")
    parser.add_argument("--long", action="store_true", help="full depth, and the unit tests under sanitizers")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2, help="tests that run at once")
    parser.add_argument("--verbose", action="store_true", help="show the build's output")
    arguments = parser.parse_args()
    build_dir = (ROOT / arguments.build_dir).resolve()
    started = time.monotonic()
    outcomes = []

    if not arguments.no_build:
        outcomes.append(build("release", build_dir, arguments.verbose))
        show(outcomes[-1])
    if not any(outcome.failed for outcome in outcomes):
        environment = dict(os.environ, RHEA_BIN=str(build_dir / "rhea"), RHEA_BUILD_DIR=str(build_dir))
        scale = 1
        if arguments.long:
            environment["RHEA_TEST_LONG"] = "1"
            scale = 30
        jobs = check_jobs(build_dir) + ctest_jobs(build_dir, scale) + script_jobs(build_dir, scale)
        if arguments.only:
            jobs = [job for job in jobs if re.search(arguments.only, job.name)]
        outcomes += run_all(jobs, environment, arguments.workers)
        if arguments.long and not arguments.only:
            for preset in ("asan", "tsan"):
                outcomes += sanitizer_run(preset, environment, arguments.workers, scale)

    notes = [note for outcome in outcomes for note in outcome.notes]
    skipped = [note for note in notes if note.startswith("skipped")]
    for note in skipped[:20] + [note for note in notes if note.startswith("FAILED")]:
        print(note)
    if len(skipped) > 20:
        print(f"... and {len(skipped) - 20} more lines of skipped tests")
    total = time.monotonic() - started
    print(f"Total time {total / 60:.1f} minutes" +
          (f", over the budget of {BUDGET_SECONDS // 60}" if total > BUDGET_SECONDS and not arguments.long else ""))
    passed, failed, skipped_count = (sum(getattr(outcome, field) for outcome in outcomes) for field in ("passed", "failed", "skipped"))
    print(f"{passed} passed, {failed} failed, {skipped_count} skipped", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
