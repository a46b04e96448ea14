"""quantize --device: the solver of GPUs beside that of the CPU; on the emulated device, or on a GPU where AQ_TEST_DEVICE
says cuda."""

import csv
import json
import unittest

import numpy as np

from program import DEVICE, FIXTURES, ProgramTest, quantize_arguments, results, run

KIND = DEVICE or "emulated"
NAME = {"emulated": "emulated GPU", "cuda": "GPU of compute capability"}[KIND]
RANKS = (0, 1) if KIND == "cuda" else (0, 2, 3, 4)  # a rank has a GPU of its own


def errors(run_directory):
    """Error of each matrix, as logged."""
    with open(run_directory / "quant_log.csv", newline="", encoding="utf-8") as file:
        return {row["name"]: float(row["error"]) for row in csv.DictReader(file) if row["error"]}


class Device(ProgramTest):
    def test_the_same_bytes_on_any_number_of_ranks(self):
        expected = None
        for ranks in RANKS:
            for way in ("reduce", "dispatch"):
                save = self.directory / f"{ranks}-{way}"
                done = self.succeed(*quantize_arguments(save, device=KIND), "--tokens-to-experts", way, ranks=ranks)
                self.assertIn(f"solver        {NAME}", done.stderr)
                expected = expected or results(save)
                self.assertEqual(results(save), expected, (ranks, way))

    def test_models_and_formats(self):
        """Attention with latents, biases and odd widths; floats, and groups as wide as the row."""
        recipe = self.write_recipe(default={"wq": "nvfp4"}, overrides=[
            {"pattern": "*.down_proj", "wq": "mxfp4"}, {"pattern": "*.o_proj", "wq": "int8", "group_size": -1}],
            gptq={"act_order": "static"})
        for name in ("deepseek_v3", "gpt_oss"):
            model = FIXTURES / name
            found = set()
            for ranks in (RANKS[0], RANKS[-1]):
                save = self.directory / f"{name}-{ranks}"
                self.succeed(*quantize_arguments(save, model=model, recipe=recipe, calibration=model / "golden.h5",
                                                 samples=0, length=0, device=KIND), ranks=ranks)
                found.add(results(save))
            self.assertEqual(len(found), 1, name)

    def test_errors_of_the_cpu_from_the_same_sums(self):
        kept = self.directory / "kept"
        self.succeed(*quantize_arguments(kept, device="cpu"), "--sequential", "none", "--keep-hessians")
        found = {}
        for device in ("cpu", KIND):
            save = self.directory / device
            done = self.succeed(*quantize_arguments(save, device=device), "--hessians", kept)
            self.assertEqual(f"the Hessians were summed with CPU, this is {NAME}" in done.stderr, device != "cpu")
            found[device] = errors(save)
        self.assertEqual(found["cpu"].keys(), found[KIND].keys())
        ratios = np.array([found[KIND][name] / found["cpu"][name] for name in found["cpu"]])
        self.assertLess(abs(ratios.mean() - 1), 1e-3)
        self.assertLess(np.abs(ratios - 1).max(), 0.05)  # of four sampled rows each

    def test_a_run_goes_on_only_where_it_began(self):
        save = self.directory / "run"
        self.succeed(*quantize_arguments(save, device="cpu"))
        manifest = json.loads((save / "manifest.json").read_text())
        del manifest["complete"][2:]
        (save / "manifest.json").write_text(json.dumps(manifest))
        done = run(*quantize_arguments(save, device=KIND))
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("solver", done.stderr)
        self.assertIn(NAME, done.stderr)

    def test_a_gpu_that_is_not_there(self):
        gpu = next(line for line in self.succeed("doctor").stdout.splitlines() if line.split()[0] == "GPU")
        reason = gpu.split(maxsplit=1)[1]
        if reason.isdigit():
            self.skipTest("there is a GPU")
        done = run(*quantize_arguments(self.directory / "run", device="cuda"), ranks=2)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(done.stderr.count(reason), 1, done.stderr)
        self.assertIn("--device cpu", done.stderr)
        self.assertFalse((self.directory / "run").exists())


if __name__ == "__main__":
    unittest.main()
