#!/usr/bin/env python3
# rhea-suite: timeout=120
# SPDX-License-Identifier: Apache-2.0
"""Tests of the tools themselves: a check that cannot fail is worth nothing."""
import argparse
import importlib.machinery
import importlib.util
import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def load(path):
    loader = importlib.machinery.SourceFileLoader(path.replace("/", "_").removesuffix(".py"), str(ROOT / path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.modules[loader.name] = module
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module


class RunTests(unittest.TestCase):
    tool = load("tools/run_tests.py")

    def outcome(self, kind, script, timeout=10):
        return self.tool.run_job(self.tool.Job("x", ["sh", "-c", script], kind, timeout), os.environ)

    def counts(self, *arguments, **named):
        outcome = self.outcome(*arguments, **named)
        return outcome.passed, outcome.failed, outcome.skipped

    def test_suite_line_is_counted(self):
        self.assertEqual(self.counts("suite", "echo noise; echo 5 passed, 0 failed, 2 skipped"), (5, 0, 2))
        self.assertEqual(self.counts("suite", "echo 5 passed, 1 failed, 0 skipped; exit 1"), (5, 1, 0))

    def test_a_suite_cannot_look_better_than_it_was(self):
        self.assertEqual(self.counts("suite", "echo 5 passed, 0 failed, 0 skipped; exit 3"), (5, 1, 0))
        self.assertEqual(self.counts("suite", "echo 5 passed, 0 failed, 0 skipped; echo more")[1], 1)
        self.assertEqual(self.counts("suite", "true")[1], 1)
        self.assertEqual(self.counts("suite", "kill -SEGV $$")[1], 1)

    def test_timeout_fails_and_ends_the_children(self):
        with tempfile.NamedTemporaryFile() as file:
            self.assertEqual(self.counts("suite", f"(sleep 2; echo alive >{file.name}) & sleep 60", timeout=0.5)[1], 1)
            subprocess.run(["sleep", "2.5"], check=True)
            self.assertEqual(file.read(), b"")

    def test_crashed_unit_test_keeps_what_passed(self):
        script = "echo '[ RUN      ] A.b'; echo '[       OK ] A.b (0 ms)'; echo '[ RUN      ] A.c'; kill -ABRT $$"
        outcome = self.outcome("unit", script)
        self.assertEqual((outcome.passed, outcome.failed), (1, 1))
        self.assertIn("A.c", outcome.notes[0])

    def test_unit_report_is_counted_by_case(self):
        report = ('{"testsuites":[{"name":"S","testsuite":[{"name":"a","status":"RUN","result":"COMPLETED"},'
                  '{"name":"b","status":"RUN","result":"SKIPPED"},{"name":"c","status":"RUN","result":"COMPLETED","failures":[{}]}]}]}')
        script = f"echo '{report}' >${{GTEST_OUTPUT#json:}}; exit 1"
        self.assertEqual(self.counts("unit", script), (1, 1, 1))
        self.assertEqual(self.counts("unit", script.replace(',"failures":[{}]', "")), (2, 1, 1))


class SoakBoot(unittest.TestCase):
    tool = load("tools/soak_boot.py")
    GOOD = ("[    0.000000] Linux version 6.1.0\n[    0.216257] clocksource: hpet: mask: 0xffffffff\n"
            "PCI: Using host bridge windows from ACPI; if necessary, use \"pci=nocrs\" and report a bug\n"
            "tsc: Refined TSC clocksource calibration: 2599.978 MHz\nrhea-init: reached after 1.93 s, Linux 6.1.0\n")

    def test_good_log(self):
        self.assertEqual(self.tool.judge(self.GOOD, 0, 3, 60), [])

    def test_init_status_and_time_count(self):
        self.assertTrue(self.tool.judge("", 0, 3, 60))
        self.assertTrue(self.tool.judge(self.GOOD, 3, 3, 60))
        self.assertTrue(self.tool.judge(self.GOOD, None, 60, 60))

    def test_bad_lines_are_found(self):
        for line in ("BUG: unable to handle page fault for address: ffff", "Oops: 0000 [#1] PREEMPT SMP",
                     "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", "rcu: INFO: rcu_preempt self-detected stall on CPU",
                     "clocksource: timekeeping watchdog on CPU0: Marking clocksource 'tsc' as unstable",
                     "WARNING: CPU: 0 PID: 1 at kernel/x.c:1", "Call Trace:", "Kernel panic - not syncing",
                     "ACPI Error: No handler", "traps: init[1] general protection fault", "irq 4: nobody cared"):
            self.assertTrue(self.tool.judge(self.GOOD + "[    1.0] " + line + "\n", 0, 3, 60), line)


class Bench(unittest.TestCase):
    tool = load("bench/run")

    def met(self, *arguments):
        return self.tool.judge(*arguments)[0]

    def test_bar(self):
        self.assertTrue(self.met("integer", 104, 100, 20))
        self.assertFalse(self.met("integer", 106, 100, 20))
        self.assertTrue(self.met("integer", 109, 100, 100))   # TCG as fast as native: 1.1 x native
        self.assertFalse(self.met("integer", 112, 105, 100))
        self.assertTrue(self.met("fp", 20, 100, 10))
        self.assertFalse(self.met("fp", 21, 100, 10))
        self.assertTrue(self.met("fp", 32, 100, 30))          # five times faster than TCG would be faster than native
        self.assertIsNone(self.tool.judge("fp", None, 100, 10))

    def test_clock(self):
        server = self.tool.Server("x", [], "/dev/null", 1)
        server.clock_pairs = [(0, 0), (int(99.9e9), int(100e9))]
        self.assertEqual(self.tool.clock_verdict(server), [])
        server.clock_pairs = [(0, 0), (int(50e9), int(50e9)), (int(99.7e9), int(100e9))]
        self.assertTrue(self.tool.clock_verdict(server))


class Checks(unittest.TestCase):
    def check(self, tool_path, files):
        tool = load(tool_path)
        with tempfile.TemporaryDirectory() as folder:
            tool.ROOT = pathlib.Path(folder)
            for name, text in files.items():
                path = tool.ROOT / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            argv, sys.argv = sys.argv, ["check", "--rhea", "/nonexistent"] if "docs" in tool_path else ["check"]
            out, sys.stdout = sys.stdout, open(os.devnull, "w")
            try:
                return tool.main()
            finally:
                sys.stdout.close()
                sys.argv, sys.stdout = argv, out

    LAYERS = "base:\nio: base\ntesting: base io\ncpu: base io\n"

    def layers(self, **files):
        tree = {"LAYERS": self.LAYERS, "src/base/a.h": "", "src/io/a.h": "", "src/cpu/a.h": "", "src/testing/a.h": ""}
        tree.update({name.replace("__", "/").replace("_dot_", "."): text for name, text in files.items()})
        return self.check("tools/check_layers.py", tree)

    def test_layers(self):
        self.assertEqual(self.layers(src__cpu__b_dot_cpp='#include "io/a.h"\n'), 0)
        self.assertEqual(self.layers(src__io__b_dot_cpp='#include "cpu/a.h"\n'), 1)
        self.assertEqual(self.layers(src__io__b_dot_cpp='#include "testing/a.h"\n'), 1)
        self.assertEqual(self.layers(src__io__b_test_dot_cpp='#include "testing/a.h"\n'), 0)
        self.assertEqual(self.layers(src__io__b_dot_cpp='#include "a.h"\n'), 1)
        self.assertEqual(self.layers(src__other__b_dot_cpp=""), 1)
        self.assertEqual(self.layers(LAYERS="io: base\nbase:\ntesting:\ncpu:\n"), 1)

    def test_sizes(self):
        self.assertEqual(self.check("tools/check_sizes.py", {"src/a.cpp": "x\n" * 800, "src/a.inc": "x\n" * 5000}), 0)
        self.assertEqual(self.check("tools/check_sizes.py", {"src/a.cpp": "x\n" * 801}), 1)
        self.assertEqual(self.check("tools/check_sizes.py", {"src/a.h": "x\n" * 301}), 1)

    def docs(self, text):
        return self.check("tools/check_docs.py", {"Makefile": "test:\n", "README.md": text, "src/a.h": "// [XYZ-1 2]\n",
                                                  "docs/specs.md": "| `XYZ-1` | x |\n"})

    def test_docs(self):
        self.assertEqual(self.docs("`src/a.h` and `make test` and [it](docs/specs.md)"), 0)
        self.assertEqual(self.docs("`src/b.h`"), 1)
        self.assertEqual(self.docs("`make nothing`"), 1)
        self.assertEqual(self.docs("[it](docs/other.md)"), 1)


class GuestImages(unittest.TestCase):
    def test_archives_are_reproducible(self):
        with tempfile.TemporaryDirectory() as folder:
            results = []
            for number in (1, 2):
                tree = pathlib.Path(folder) / f"tree{number}"
                (tree / "sub").mkdir(parents=True)
                names = ["b", "a", "sub/c"] if number == 1 else ["sub/c", "a", "b"]
                for name in names:
                    (tree / name).write_text(name)
                    (tree / name).chmod(stat.S_IRWXU)
                out = pathlib.Path(folder) / f"{number}.cpio"
                subprocess.run([str(ROOT / "tools/guest/make_cpio.sh"), str(tree), str(out)], check=True)
                results.append(out.read_bytes())
            self.assertEqual(results[0], results[1])
            self.assertEqual(results[0][:6], b"070701")

    def test_wrong_arguments_are_refused(self):
        for command in (["tools/guest/fetch_kernel.sh", "bash"], ["tools/deps.sh", "nothing"],
                        ["tools/guest/make_cpio.sh", ".", "/dev/null", "rar"]):
            result = subprocess.run([str(ROOT / command[0]), *command[1:]], capture_output=True, text=True)
            self.assertNotEqual(result.returncode, 0, command)
            self.assertTrue(result.stderr.strip(), command)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build-dir")
    parser.parse_args()
    result = unittest.main(argv=["run.py"], exit=False, verbosity=1).result
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed - len(result.skipped)} passed, {failed} failed, {len(result.skipped)} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
