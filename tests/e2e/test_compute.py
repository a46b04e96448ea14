"""Products of the forward pass in bfloat16: the same bytes on any ranks, and results as good as in float32."""

import csv
import json
import statistics
import unittest

from program import ProgramTest, quantize_arguments, results, run

HELD_BACK = {"ONEDNN_MAX_CPU_ISA": "AVX2"}  # the name is that of oneDNN, which multiplies bfloat16


class Compute(ProgramTest):
    def quantize(self, name, compute, *further, **keywords):
        save = self.directory / name
        self.succeed(*quantize_arguments(save, compute=compute), *further, **keywords)
        return save

    def compute_of(self, save):
        return json.loads((save / "manifest.json").read_text())["fingerprint"]["compute"]

    def errors(self, save):
        return {row["name"]: float(row["error"])
                for row in csv.DictReader((save / "quant_log.csv").read_text().splitlines())}

    def test_same_bytes_on_any_ranks_and_threads(self):
        self.skip_without_bf16()
        expected = results(self.quantize("whole", "bf16"))
        for ranks, threads in ((1, 2), (2, 1), (3, 1), (4, 2)):
            with self.subTest(ranks=ranks, threads=threads):
                self.assertEqual(results(self.quantize(f"on-{ranks}", "bf16", ranks=ranks, threads=threads)), expected)
        for ranks, way in ((3, "reduce"), (2, "dispatch")):
            with self.subTest(way=way):
                save = self.quantize(way, "bf16", "--tokens-to-experts", way, ranks=ranks)
                self.assertEqual(results(save), expected)

    def test_matrices_are_as_good_as_in_float32(self):
        self.skip_without_bf16()
        narrow, exact = self.quantize("bf16", "bf16"), self.quantize("fp32", "fp32")
        self.assertIn("bf16", self.compute_of(narrow))
        self.assertNotEqual(results(narrow), results(exact))
        there, here = self.errors(narrow), self.errors(exact)
        self.assertEqual(there.keys(), here.keys())
        # Another order of sums alone moves single matrices by a tenth, since codes near ties fall otherwise.
        changes = [abs(there[name] / error - 1) for name, error in here.items()]
        self.assertLess(statistics.median(changes), 0.1)
        self.assertLess(abs(sum(there.values()) / sum(here.values()) - 1), 0.02)

    def test_processors_without_instructions(self):
        expected = results(self.quantize("fp32", "fp32"))
        for ranks in (0, 2):
            held = self.quantize(f"held-{ranks}", "auto", env=HELD_BACK, ranks=ranks)
            self.assertEqual(self.compute_of(held), "fp32")
            self.assertEqual(results(held), expected)
        save = self.directory / "refused"
        done = run(*quantize_arguments(save, compute="bf16"), env=HELD_BACK, ranks=2)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--compute bf16", done.stderr)
        self.assertIn("use fp32, or auto", done.stderr)
        self.assertFalse(save.exists())

    def test_a_run_goes_on_as_it_began(self):
        self.skip_without_bf16()
        save = self.quantize("run", "auto")
        self.assertIn("bf16", self.compute_of(save))
        done = run(*quantize_arguments(save, compute="fp32"))
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("compute: 'bf16", done.stderr)


if __name__ == "__main__":
    unittest.main()
