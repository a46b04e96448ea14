"""The forward pass against transformers: logits, router choices and weights, NLL."""

import json
import os
import signal
import subprocess
import time
import unittest
from pathlib import Path

import h5py
import numpy as np

from program import EVALUATION, EXAMPLE, FIXTURES, ProgramTest, model_arguments, start

# Mean NLL of the example by transformers in float32 (tools/make_example.py prints it).
EXAMPLE_NLL = 0.980370


class Golden(ProgramTest):
    def compare(self, name, ranks):
        trace_path = self.directory / "trace.h5"
        figures = self.directory / "eval.json"
        self.succeed("eval", *model_arguments(FIXTURES / name), "--tokens",
                     FIXTURES / name / "golden.h5", "--trace", trace_path, "--json", figures,
                     ranks=ranks)
        with h5py.File(FIXTURES / name / "golden.h5") as golden, h5py.File(trace_path) as trace:
            expected = golden["logits"][:]
            got = trace["logits"][:]
            padded = np.zeros_like(expected)
            padded[:, :got.shape[1]] = got
            self.assertLess(np.abs(padded - expected).max() / np.abs(expected).max(), 1e-4)
            self.assertAlmostEqual(json.loads(figures.read_text())["mean_nll"],
                                   float(golden.attrs["mean_nll"]), delta=1e-5)
            if "router_index" not in golden:
                return
            self.assertEqual(list(trace.attrs["moe_layers"]), list(golden.attrs["moe_layers"]))
            clear = golden["router_gap"][:] >= 1e-5  # elsewhere the reference itself may flip
            same = (trace["router_index"][:] == golden["router_index"][:]).all(axis=2)
            self.assertTrue(same[clear].all())
            np.testing.assert_allclose(trace["router_weight"][:][clear],
                                       golden["router_weight"][:][clear], rtol=1e-4)


def add_fixture_tests():
    for fixture in sorted(path.name for path in FIXTURES.iterdir() if path.is_dir()):
        for ranks in (0, 3):
            def test(self, fixture=fixture, ranks=ranks):
                self.compare(fixture, ranks)
            setattr(Golden, f"test_{fixture}_ranks_{ranks or 1}", test)


add_fixture_tests()


class Example(ProgramTest):
    def nll(self, *arguments, **keywords):
        figures = self.directory / "eval.json"
        self.succeed("eval", "--model", EXAMPLE, "--tokens", EVALUATION, "--json", figures,
                     *arguments, **keywords)
        return json.loads(figures.read_text())

    def test_nll_is_that_of_transformers_on_any_ranks(self):
        alone = self.nll()
        self.assertAlmostEqual(alone["mean_nll"], EXAMPLE_NLL, delta=1e-5)
        self.assertEqual(alone["predictions"], 64 * 255)
        self.assertEqual(self.nll(ranks=3)["mean_nll"], alone["mean_nll"])
        self.assertEqual(self.nll(threads=2)["mean_nll"], alone["mean_nll"])

    def test_windows_cut_rows_and_score_tails(self):
        figures = self.nll("--window", 100)
        self.assertEqual(figures["windows"], 64 * 3)
        self.assertEqual(figures["predictions"], 64 * (99 + 99 + 55))
        self.assertEqual(self.nll("--window", 100, "--max-windows", 5)["windows"], 5)


class Stall(ProgramTest):
    def ranks_at_work(self, launcher):
        """Processes of the ranks, once they run the model: then the watchdog is there."""
        for _ in range(1000):
            found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher.pid)], capture_output=True, text=True,
                                   check=False).stdout.split()
            maps = [Path(f"/proc/{process}/maps") for process in found]
            if len(found) == 2 and all(path.exists() and "libaq-pipeline" in path.read_text() for path in maps):
                return [int(process) for process in found]
            time.sleep(0.01)
        self.fail("the ranks did not start")

    def test_a_rank_that_hangs_ends_the_job(self):
        tokens = self.directory / "tokens.h5"
        with h5py.File(tokens, "w") as file:
            file["tokens"] = np.random.default_rng(1).integers(0, 512, (4000, 256), dtype=np.int32)
        launcher = start("eval", "--model", EXAMPLE, "--tokens", tokens, "--stall-timeout", 3, ranks=2)
        victim = self.ranks_at_work(launcher)[1]
        time.sleep(2)  # into the first layer, mostly
        os.kill(victim, signal.SIGSTOP)
        output, _ = launcher.communicate(timeout=120)
        self.assertEqual(launcher.returncode, 70, output)
        self.assertRegex(output, r"wait for other ranks: .*: rank 0 on .* has waited .*: a rank is gone or hangs")


if __name__ == "__main__":
    unittest.main()
