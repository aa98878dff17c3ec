# SPDX-License-Identifier: Apache-2.0
"""The two lists that run.py holds itself to: tcg_differences.txt, and the assertions by topic in docs/guest-tests.md."""
import pathlib
import re

HERE = pathlib.Path(__file__).resolve().parent
DOCUMENT = HERE.parents[1] / "docs" / "guest-tests.md"
TOPICS_START, TOPICS_END = "<!-- topics: written by tests/guest/run.py --write-topics -->", "<!-- end of topics -->"
# What each guest with one processor is about. Those with several are in a table of their own.
TOPICS = {
    "exceptions": "exceptions, their error codes and frames, double and nested faults, privileged instructions",
    "paging": "4-level paging: permission matrix, SMEP, SMAP, WP, NX, PCID, INVLPG, accessed and dirty bits, reserved bits",
    "paging32": "32-bit and PAE paging, PDPTEs, 4 MiB pages, limits of data segments",
    "realmode": "real mode, IVT, wrap of offsets, unreal limits, PIC interrupts in real mode",
    "rings": "SYSCALL, SYSENTER, INT, IRET, call gates, compatibility mode, what ring 3 may not do, UMIP, port permissions",
    "timers": "PIT, RTC, HPET, local APIC timer, TSC, TSC_ADJUST, TSC deadline",
    "irq": "PIC, I/O APIC, local APIC, x2APIC, self IPI, NMI, priorities, shadows",
    "features": "CPUID against what instructions do, XSAVE family, MSRs, kvmclock",
    "smc": "self-modifying code: in the block, in the page, across pages, through aliases",
    "strings": "string instructions: directions, sizes, faults, overlaps",
    "tasks": "hardware task switching, 16 and 32 bits, task gates, virtual-8086 tasks",
    "debug": "debug registers, single step, MOV SS, I/O breakpoints, INT1",
    "vme": "virtual-8086 mode, VME, redirection of INT n, PVI",
    "encodings": "undocumented aliases, #UD of what is undefined, LOCK, instructions of 15 and 16 bytes",
    "encodings64": "the same in 64-bit mode: what it has taken away, REX, VEX behind prefixes",
    "steps": "single steps through IRET, branches, STI, REP, system instructions, SYSCALL and SYSRET",
    "a20": "the A20 gate: port 0x92 and the keyboard controller, loads, stores, code and page walks behind it",
    "realmode2": "real mode: limits and wrap, the IDTR's limit, what does not exist there, unreal segments, the megabyte's end and A20",
    "segments": "descriptors of every kind: limits, loads, LAR to VERW, far transfers, call gates; ENTER, BOUND, ARPL, XLAT, EIP beyond 4 GiB",
    "codelimit": "the limit of the code segment, to the byte",
}
HOST_DEPENDS = {"features"}  # how many there are depends on the host's processor


class Differences:
    """tcg_differences.txt: (guest, assertion) -> whether the difference shows in every run."""

    def __init__(self):
        self.always = {}
        for line in (HERE / "tcg_differences.txt").read_text().splitlines():
            if not line or line.startswith("#"):
                continue
            key, decided, what = (part.strip() for part in line.split("|"))
            guest, name = (part.strip() for part in key.split(": ", 1))
            sometimes = name.endswith(" sometimes")
            if not decided or not what:
                raise SystemExit(f"tcg_differences.txt: {key}: says neither what decides nor what TCG does")
            self.always[guest, name.removesuffix(" sometimes")] = not sometimes

    def judge(self, guest, result, same_elsewhere):
        """Takes listed failures out of a TCG result; adds one failure for each difference that is not listed or is stale."""
        names = lambda texts: {text.partition(":")[0].strip() for text in texts}
        skipped = names(result.skipped)
        for name in sorted(skipped):
            if (guest, name) not in self.always and name not in same_elsewhere:
                result.failed.append(f"unlisted-difference {name} (tests/guest/tcg_differences.txt)")
        listed = [name for name in result.failed if (guest, name) in self.always]
        result.skipped += [f"{name}: fails on TCG, as listed" for name in listed]
        result.failed = [name for name in result.failed if name not in listed]
        for (where, name), always in self.always.items():
            if where == guest and always and name not in skipped and name not in listed:
                result.failed.append(f"stale-difference {name} (tests/guest/tcg_differences.txt)")


def topic_table(results):
    rows = ["| guest | topic | assertions |", "|---|---|---|"]
    for guest, topic in TOPICS.items():
        result = results[guest]
        count = len(result.ok) + len(result.failed) + len(result.skipped)
        rows.append(f"| {guest} | {topic} | {'about ' if guest in HOST_DEPENDS else ''}{count} |")
    return "\n".join(rows)


def topics_are_true(results):
    """Whether the document's counts are those of this run on Rhea."""
    written = re.search(re.escape(TOPICS_START) + r"\n(.*?)\n" + re.escape(TOPICS_END), DOCUMENT.read_text(), re.DOTALL)
    exact = lambda table: [row for row in table.splitlines() if "| about " not in row]
    return written is not None and exact(written[1]) == exact(topic_table(results))


def write_topics(results):
    text = DOCUMENT.read_text()
    before, rest = text.split(TOPICS_START)
    DOCUMENT.write_text(f"{before}{TOPICS_START}\n{topic_table(results)}\n{TOPICS_END}{rest.split(TOPICS_END)[1]}")
