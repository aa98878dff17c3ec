#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks file sizes: .cpp at most 800 lines, headers 300; tables (*.inc) aside. Lists long functions without failing."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIMITS = {".cpp": 800, ".c": 800, ".h": 300}
LONG_FUNCTION = 80
NOT_A_FUNCTION = re.compile(r"^(namespace|struct|class|enum|union|extern|template|constexpr|inline constexpr|const|static constexpr)\b")


def long_functions(path, lines):
    """Definitions at the left margin, as clang-format lays them out: from a line ending in { to the next line }."""
    start = None
    for number, line in enumerate(lines, 1):
        if start is None and line.endswith("{") and line[:1] not in (" ", "", "}", "#", "/"):
            if "(" in line and not NOT_A_FUNCTION.match(line):
                start = number
        elif start is not None and line.startswith("}"):
            if number - start + 1 > LONG_FUNCTION:
                yield start, number - start + 1
            start = None


def main():
    problems, notes, count = [], [], 0
    for folder in ("src", "tests", "bench"):
        for path in sorted((ROOT / folder).rglob("*")):
            limit = LIMITS.get(path.suffix)
            if not limit:
                continue
            count += 1
            lines = path.read_text(errors="replace").splitlines()
            where = path.relative_to(ROOT).as_posix()
            if len(lines) > limit:
                problems.append(f"{where}: {len(lines)} lines, at most {limit}: split it by concern (a table belongs in a .inc file)")
            notes += [f"note: {where}:{start}: a function of {length} lines; aim at 50"
                      for start, length in long_functions(path, lines)]
    print("\n".join(notes + problems + ([] if problems else [f"sizes: {count} files, none too long"])))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
