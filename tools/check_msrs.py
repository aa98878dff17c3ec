#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""docs/msrs.md says which model-specific registers there are, as the sources do. --write: writes it from them."""
import pathlib
import re
import sys

TOP = pathlib.Path(__file__).resolve().parents[1]
SYSTEM = TOP / "src/dbt/system"
DOCUMENT = TOP / "docs/msrs.md"
HEAD = """# Model-specific registers

Made by `tools/check_msrs.py --write` from `src/dbt/system`. A register that is in neither table, or that CPUID does not announce, raises #GP(0),
as does a write of reserved bits. The registers of the paravirtual clock are in [paravirtual.md](paravirtual.md), x2APIC's in 800h to 8FFh.
"""


def implemented():
    """The enumeration in msr.cpp: what is kept or computed."""
    text = (SYSTEM / "msr.cpp").read_text()
    body = re.search(r"enum Msr : uint32_t \{\n(.*?)\n\};", text, re.DOTALL)[1]
    for name, index in re.findall(r"k(\w+) = (0x[0-9a-f]+),", body):
        handled = len(re.findall(rf"\bk{name}\b", text)) > 1
        if not handled:
            raise SystemExit(f"msr.cpp: k{name} is named and not used")
        yield int(index, 16), name


def fixed():
    text = (SYSTEM / "fixed_msrs.inc").read_text()
    return re.findall(r"^FIXED_MSR\((0x[0-9a-f]+), (\w+), k(\w+), ([^,]+), k(\w+)\)", text, re.MULTILINE)


def document():
    lines = [HEAD, "## Kept or computed", "", "| index | register |", "|---|---|"]
    lines += [f"| {index:x}h | {name} |" for index, name in implemented()]
    lines += ["", "## Of one value", "", "They exist on a processor of that vendor only; the guest's vendor is the host's.", "",
              "| index | register | vendor | reads as | writes |", "|---|---|---|---|---|"]
    lines += [f"| {int(index, 16):x}h | {name} | {vendor} | {eval(value, {}):x}h | {writes.lower()} |"  # a constant of ours
              for index, name, vendor, value, writes in fixed()]
    return "\n".join(lines) + "\n"


def main():
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(document())
    elif not DOCUMENT.exists() or DOCUMENT.read_text() != document():
        print("docs/msrs.md is not what the sources say: tools/check_msrs.py --write")
        return 1
    print(f"msrs: {document().count(chr(10) + '| ') - 2} registers, as docs/msrs.md says")
    return 0


if __name__ == "__main__":
    sys.exit(main())
