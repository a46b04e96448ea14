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

from program import EVALUATION, EXAMPLE, FIXTURES, ProgramTest, model_arguments, quantize_arguments, run, start

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


class AgainstTheOriginal(ProgramTest):
    """KL, paired loss and agreement, against numpy on the logits of both models."""

    WINDOW = 100  # leaves tails of 56 tokens

    def setUp(self):
        super().setUp()
        recipe = self.write_recipe(default={"wq": "int3", "group_size": 32, "method": "rtn", "aq": "int4"})
        self.save = self.directory / "run"
        self.succeed(*quantize_arguments(self.save, recipe=recipe, samples=4))

    def score(self, *arguments, model=EXAMPLE, windows=8, **keywords):
        figures = self.directory / "eval.json"
        done = self.succeed("eval", "--model", model, "--tokens", EVALUATION, "--window", self.WINDOW,
                            "--max-windows", windows, "--json", figures, *arguments, **keywords)
        return json.loads(figures.read_text()), done.stdout

    def logits(self, *arguments):
        trace = self.directory / "trace.h5"
        self.score("--trace", trace, *arguments)
        with h5py.File(trace) as file:
            logits = file["logits"][:].astype(np.float64)
        return logits - np.log(np.exp(logits - logits.max(axis=-1, keepdims=True)).sum(axis=-1, keepdims=True)) \
            - logits.max(axis=-1, keepdims=True)

    def expected(self):
        """Per figure: the mean a prediction and its standard error over windows."""
        with h5py.File(EVALUATION) as file:
            rows = file["tokens"][:4]
        windows = [row[begin:begin + self.WINDOW] for row in rows for begin in range(0, rows.shape[1], self.WINDOW)][:8]
        original = self.logits("--against", "none")
        quantized = self.logits("--quantized", self.save, "--against", "none")
        sums = {"kl": [], "loss": [], "same_top1": []}
        for p, q, tokens in zip(original, quantized, windows):
            p, q, targets = p[:len(tokens) - 1], q[:len(tokens) - 1], tokens[1:, None]
            sums["kl"].append((np.exp(p) * (p - q)).sum())
            sums["loss"].append((np.take_along_axis(p, targets, 1) - np.take_along_axis(q, targets, 1)).sum())
            sums["same_top1"].append((p.argmax(axis=1) == q.argmax(axis=1)).sum())
        counts = np.array([len(tokens) - 1 for tokens in windows])
        self.assertGreater(len(set(counts)), 1)
        for name, values in sums.items():
            mean = np.sum(values) / counts.sum()
            residuals = np.array(values) - mean * counts
            yield name, mean, np.sqrt((residuals ** 2).sum() * 8 / 7) / counts.sum()

    def test_figures_are_those_of_numpy_on_any_ranks(self):
        figures, text = self.score("--quantized", self.save)
        for name, mean, error in self.expected():
            self.assertAlmostEqual(figures[name], mean, delta=1e-6 + 1e-5 * abs(mean), msg=name)
            self.assertAlmostEqual(figures[name + "_standard_error"], error, delta=1e-6 + 1e-4 * error, msg=name)
        self.assertGreater(figures["kl"], 0.005)
        self.assertAlmostEqual(figures["loss"], figures["mean_nll"] - figures["reference_mean_nll"], delta=1e-12)
        self.assertRegex(text, r"original .*\nquantized .*\n +KL 0\.\d+ ± 0\.\d+  loss .* ± .*  same top-1 .* %\n")
        self.assertGreater(figures["activation_kl"], 1.2 * figures["kl"])
        del figures["seconds"]
        for ranks in (2, 3):
            again, _ = self.score("--quantized", self.save, ranks=ranks)
            del again["seconds"]
            self.assertEqual(again, figures)

    def test_another_checkpoint_is_compared_with(self):
        served = self.directory / "served"
        self.succeed("export", self.save, "--out", served, "--format", "bf16")
        figures, text = self.score("--against", EXAMPLE, model=served)
        run, _ = self.score("--quantized", self.save, "--against", "original")
        self.assertAlmostEqual(figures["kl"], run["kl"], delta=0.02 * run["kl"])  # weights rounded to bf16
        self.assertEqual(figures["reference_mean_nll"], run["reference_mean_nll"])
        self.assertRegex(text, r"reference .*\nmodel ")
        same, _ = self.score("--against", EXAMPLE)
        self.assertEqual([same["kl"], same["loss"], same["same_top1"]], [0, 0, 1])

    def test_alone(self):
        for arguments in ((), ("--quantized", self.save, "--against", "none")):
            figures, text = self.score(*arguments)
            self.assertNotIn("kl", figures)
            self.assertNotIn("reference_mean_nll", figures)
            self.assertNotIn("KL", text)

    def test_one_window_has_no_standard_error(self):
        figures, text = self.score("--quantized", self.save, windows=1)
        self.assertIsNone(figures["kl_standard_error"])
        self.assertNotIn("±", text)

    def test_what_cannot_be_compared_is_refused(self):
        for against, words in (("original", "no --quantized"), (FIXTURES / "mixtral", "vocabulary"),
                               (self.directory / "nothing", "nothing")):
            done = run("eval", "--model", EXAMPLE, "--tokens", EVALUATION, "--against", against)
            self.assertIn(done.returncode, (2, 3), done.stderr)
            self.assertIn(words, done.stderr)
            self.assertIn(str(against), done.stderr)


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
