#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks every #include under src/ against the file LAYERS: what a module may include, and in what order they stand."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')


def read_layers(problems):
    allowed = {}
    for number, line in enumerate((ROOT / "LAYERS").read_text().splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        name, _, rest = line.partition(":")
        for other in rest.split():
            if other != "*" and other not in allowed:
                problems.append(f"LAYERS:{number}: {name} names {other}, which does not stand above it; "
                                "a module may use only what is listed before it")
        allowed[name.strip()] = set(rest.split())
    return allowed


def module_of(path, modules):
    candidates = [name for name in modules if path == name or path.startswith(name + "/")]
    return max(candidates, key=len, default=None)


def check_file(path, allowed, problems):
    relative = path.relative_to(ROOT / "src").as_posix()
    own = module_of(relative, allowed)
    where = path.relative_to(ROOT).as_posix()
    if own is None:
        problems.append(f"{where}: belongs to no module of LAYERS; add a line for its folder")
        return
    may = set(allowed[own]) | {own}
    if re.search(r"_(test|fuzz)\.(cpp|h)$", path.name):
        may.add("testing")
    elif own != "testing":
        may.discard("testing")
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        target = match.group(1)
        other = module_of(target, allowed)
        if other is None:
            problems.append(f'{where}:{number}: "{target}" is in no module; include by full path from src/')
        elif not (ROOT / "src" / target).exists():
            problems.append(f'{where}:{number}: "{target}" does not exist')
        elif other == "testing" and "testing" not in may:
            problems.append(f"{where}:{number}: only *_test.cpp and *_fuzz.cpp may include testing/")
        elif "*" not in may and other not in may:
            problems.append(f"{where}:{number}: {own} may not include {other} (\"{target}\"); move the code, pass what is "
                            f"needed through an interface of a lower module, or allow it in LAYERS and say why in docs/adr")


def main():
    problems = []
    allowed = read_layers(problems)
    files = [path for path in sorted((ROOT / "src").rglob("*")) if path.suffix in (".h", ".cpp", ".inc", ".S")]
    for path in files:
        check_file(path, allowed, problems)
    print("\n".join(problems) if problems else f"layers: {len(files)} files, {len(allowed)} modules, no forbidden include")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
