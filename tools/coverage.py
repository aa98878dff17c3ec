#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lines of the translator and the instruction table (src/dbt, src/isa) that the tests run through: unit tests, bare-metal guests, the
differential instruction suite, the corpus of hostile guests. Ends with status 1 below the bar.

Only the two modules are compiled with counters (option RHEA_COVERAGE). Translated code is not counted, the code that makes it is; a process that is
killed writes no counters."""
import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BAR = 80
TARGETS = ["isa_test", "cpu_test", "dbt_runtime_test", "dbt_system_test", "engine_conformance_test", "isa_conformance", "hostile_guest", "rhea", "guests"]


def build(folder):
    subprocess.run(["cmake", "--preset", "coverage", "-B", str(folder)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    jobs = str(os.cpu_count() or 1)
    subprocess.run(["cmake", "--build", str(folder), "-j", jobs, "--target", *TARGETS], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def program(folder, name):
    return str(next(path for path in folder.rglob(name) if path.is_file() and os.access(path, os.X_OK)))


def commands(folder, cases):
    for name in TARGETS[:5]:
        yield name, [program(folder, name)]
    yield "isa_conformance", [program(folder, "isa_conformance"), "--config", "all", "--cases", str(cases)]
    yield "tests/guest", [sys.executable, "tests/guest/run.py", "--build-dir", str(folder), "--rhea-option=--sandbox=off"]
    yield "hostile_guest", [program(folder, "hostile_guest"), "--replay", "tests/hostile/corpus", "--artifacts", str(folder)]


def run_tests(folder, cases):
    for counters in folder.rglob("*.gcda"):
        counters.unlink()
    for name, command in commands(folder, cases):
        result = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        last = (result.stdout.strip().splitlines() or [""])[-1]
        print(f"{'ran   ' if result.returncode == 0 else 'FAILED'} {name}: {last}", flush=True)


def read_counters(folder):
    """{file: {line: executed}}; what several objects have of a header is put together."""
    lines = collections.defaultdict(dict)
    notes = [path for module in ("src/dbt", "src/isa") for path in (folder / module).rglob("*.gcno") if "_test" not in path.name and "_fuzz" not in path.name]
    for note in notes:
        answer = subprocess.run(["gcov", "--json-format", "--stdout", str(note)], cwd=folder, capture_output=True, text=True).stdout
        for document in filter(None, answer.splitlines()):
            for file in json.loads(document)["files"]:
                path = pathlib.Path(os.path.normpath(os.path.join(folder, file["file"])))
                name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
                if not name.startswith(("src/dbt/", "src/isa/")) or name.endswith((".inc", "_test.cpp", "_fake.h")):
                    continue
                for line in file["lines"]:
                    lines[name][line["line_number"]] = lines[name].get(line["line_number"], False) or line["count"] > 0
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build-dir", type=pathlib.Path, default=ROOT / "build-coverage")
    parser.add_argument("--no-build", action="store_true", help="take the build folder as it is")
    parser.add_argument("--no-run", action="store_true", help="... and the counters that are there")
    parser.add_argument("--cases", type=int, default=8, help="of the instruction suite, per combination")
    parser.add_argument("--lines", action="store_true", help="name the lines that nothing ran through")
    arguments = parser.parse_args()
    folder = arguments.build_dir.resolve()
    if not arguments.no_build:
        build(folder)
    if not arguments.no_run:
        run_tests(folder, arguments.cases)
    lines = read_counters(folder)
    covered = total = 0
    for name, counts in sorted(lines.items(), key=lambda item: sum(item[1].values()) / len(item[1])):
        hit = sum(counts.values())
        covered, total = covered + hit, total + len(counts)
        missing = " ".join(str(number) for number, executed in sorted(counts.items()) if not executed) if arguments.lines else ""
        if hit < len(counts):
            print(f"{100 * hit / len(counts):6.1f} %  {len(counts) - hit:4} of {len(counts):4} lines missed  {name} {missing}")
    if not total:
        print("no counters: was the folder built with the preset coverage?")
        return 1
    print(f"lines of src/dbt and src/isa: {covered} of {total} run through, {100 * covered / total:.1f} % (bar: {BAR} %)")
    return 0 if 100 * covered >= BAR * total else 1


if __name__ == "__main__":
    sys.exit(main())
