"""The programs of tests/bench in tiny shapes: each measurement runs, is verified, and has its share of a peak."""

import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

from program import MPIRUN, SOURCE, environment

BENCHES = Path(os.environ.get("AQ_BENCHES", SOURCE / "build" / "dev" / "tests"))
RANKS = {"comm_bench": 3}  # the others run without mpirun
FIELDS = {"bench", "ranks", "threads", "count", "seconds", "core_seconds", "rate", "unit", "bound", "peak", "share",
          "core_share", "error", "verified"}


def run(bench, *arguments):
    launcher = MPIRUN + ["-n", str(RANKS[bench])] if bench in RANKS else []
    return subprocess.run([*launcher, BENCHES / bench, *arguments], env=environment(), capture_output=True, text=True,
                          timeout=120, check=False)


def names(bench, *arguments):
    listed = run(bench, "--small", "--list", *arguments)
    return listed.stdout.splitlines()


class BenchesTest(unittest.TestCase):
    def measure(self, bench, *arguments, threads=2):
        """The lines of JSON; everything that they say is checked."""
        done = run(bench, "--small", "--repeat", "1", "--threads", str(threads), *arguments)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        for line in lines:
            with self.subTest(line["bench"]):
                self.assertEqual(set(line), FIELDS)
                self.assertIs(line["verified"], True)
                self.assertEqual((line["threads"], line["ranks"]), (threads, RANKS.get(bench, 1)))
                for field in ("seconds", "core_seconds", "rate", "peak", "share", "core_share"):
                    self.assertGreater(line[field], 0, field)
                self.assertAlmostEqual(line["share"] * line["peak"] / line["rate"], 1, 4)
                self.assertEqual(line["unit"], "GFLOP/s" if line["bound"] in ("fp32", "bf16") else "GB/s")
                told = [text for text in done.stdout.splitlines() if text.startswith(line["bench"] + " ")]
                self.assertEqual(len(told), 1)
                self.assertIn(f"% of the peak of {line['bound']}", told[0])
        self.assertEqual(len(lines), len({line["bench"] for line in lines}))
        return lines

    def test_all_measurements(self):
        for bench in ("quant_bench", "runtime_bench", "comm_bench", "io_bench"):
            with self.subTest(bench):
                listed = names(bench)
                self.assertEqual([line["bench"] for line in self.measure(bench)], listed)
                self.assertGreater(len(listed), 1)

    def test_every_format(self):
        formats = [f"int{bits}" for bits in range(2, 9)] + ["fp4", "fp8", "mxfp4", "mxfp8", "nvfp4"]
        for what in ("solve", "refine", "search"):
            listed = names("quant_bench", "--only", f"{what} *")
            for name in formats:
                self.assertTrue(any(entry.endswith(f" {name}") for entry in listed), f"{what} {name}")

    def test_chosen_measurements(self):
        lines = self.measure("quant_bench", "--only", "factor *", "--only", "round *", threads=1)
        self.assertEqual({line["bench"].split()[0] for line in lines}, {"factor", "round"})

    def test_wrong_command_lines(self):
        for arguments, complaint in ((["--only", "factr"], "no measurement has such a name"),
                                     (["--threads", "0"], "--threads"), (["--repeat", "no"], "--repeat"),
                                     (["--directory", "/nowhere"], "--directory"), (["--fast"], "--fast")):
            bench = "io_bench" if "--directory" in arguments else "quant_bench"
            done = run(bench, "--small", *arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""), arguments)
            self.assertIn(complaint, done.stderr)
        many = run("comm_bench", "--only", "nothing")
        self.assertNotEqual(many.returncode, 0)
        self.assertEqual(many.stderr.count("no measurement has such a name"), 1)

    def test_messages_need_two_ranks(self):
        alone = subprocess.run([BENCHES / "comm_bench", "--small"], env=environment(), capture_output=True, text=True,
                               timeout=60, check=False)
        self.assertEqual((alone.returncode, alone.stdout), (2, ""))
        self.assertIn("mpirun -n 2", alone.stderr)

    def test_help_names_every_option(self):
        for bench in ("quant_bench", "io_bench"):
            text = run(bench, "--help").stdout
            for option in ("--threads", "--repeat", "--only", "--list", "--small"):
                self.assertIn(option, text)
            self.assertEqual("--directory" in text, bench == "io_bench")

    def test_directory_is_left_as_it_was(self):
        with tempfile.TemporaryDirectory() as directory:
            self.measure("io_bench", "--directory", directory)
            self.assertEqual(os.listdir(directory), [])


if __name__ == "__main__":
    unittest.main()
