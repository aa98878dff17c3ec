#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks README.md and docs/: every path named exists, every `make` command exists, and every option of `rhea run` that
is named is in its --help (where the program is built)."""
import argparse
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOP = r"(?:src|docs|tools|tests|bench|cmake|\.ci)"
PATH = re.compile(rf"(?<![\w./-])({TOP}/[\w./*<>{{}},+-]*)")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
SPAN = re.compile(r"`([^`\n]+)`")
SPEC = re.compile(r"\[([A-Za-z]+-[A-Z0-9][\w.]*|[A-Z]+-[A-Z]+-[\w.]+) [^\]]+\]")


def expand(path):
    match = re.search(r"\{([^{}]*)\}", path)
    if not match:
        return [path]
    return [result for word in match.group(1).split(",") for result in expand(path[:match.start()] + word + path[match.end():])]


def exists(base, path):
    if "<" in path:  # a placeholder: its folder must exist
        path = path.split("<")[0].rpartition("/")[0]
    if "*" in path:
        return any(base.glob(path.rstrip("/")))
    return (base / path).exists()


def check_paths(document, text, problems):
    where = document.relative_to(ROOT).as_posix()
    for number, line in enumerate(text.splitlines(), 1):
        for match in PATH.finditer(line):
            for path in expand(match.group(1).rstrip(".,")):
                if not exists(ROOT, path):
                    problems.append(f"{where}:{number}: names {path}, which does not exist; mend the path or the text")
        for match in LINK.finditer(line):
            target = match.group(1)
            if "://" not in target and not target.startswith("mailto:") and not (document.parent / target).exists():
                problems.append(f"{where}:{number}: links to {target}, which does not exist")


def check_commands(document, text, targets, options, problems):
    where = document.relative_to(ROOT).as_posix()
    code = [line for block in FENCE.findall(text) for line in block.splitlines()] + SPAN.findall(FENCE.sub("", text))
    for piece in code:
        match = re.match(r"\$?\s*make ([a-z][\w-]*)\s*($|[A-Z#])", piece.strip())
        if match and match.group(1) not in targets:
            problems.append(f"{where}: `make {match.group(1)}` is not a command of the Makefile")
        if options is not None and ("rhea run" in piece or piece.startswith("--")):
            for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", piece):
                if option not in options:
                    problems.append(f"{where}: names {option}, which `rhea run --help` does not know")


def check_specs(problems):
    """Short names of specifications in comments are listed in docs/specs.md."""
    listing = ROOT / "docs/specs.md"
    if not listing.exists():
        return
    known = set(re.findall(r"^\|\s*`([^`]+)`", listing.read_text(), re.M))
    for path in sorted((ROOT / "src").rglob("*")):
        if path.suffix not in (".h", ".cpp", ".inc", ".S"):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            for name in SPEC.findall(line.partition("//")[2]):
                if name not in known:
                    problems.append(f"{path.relative_to(ROOT)}:{number}: specification '{name}' is not listed in docs/specs.md")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rhea", default=str(ROOT / "build/rhea"))
    arguments = parser.parse_args()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    options = None
    if pathlib.Path(arguments.rhea).exists():
        text = subprocess.run([arguments.rhea, "run", "--help"], capture_output=True, text=True, timeout=20).stdout
        options = set(re.findall(r"--[a-z][a-z0-9-]*", text))
    problems = []
    documents = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if path.exists()]
    for document in documents:
        text = document.read_text()
        check_paths(document, text, problems)
        check_commands(document, text, targets, options, problems)
    check_specs(problems)
    print("\n".join(problems) if problems else f"docs: {len(documents)} documents, every path and command exists" +
          ("" if options else " (options not checked: rhea is not built)"))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
