"""Whole runs: the same bytes on any ranks and threads, and files that others can read."""

import csv
import json
import sys
import unittest

import h5py
import numpy as np

from program import (CALIBRATION, EVALUATION, EXAMPLE, FIXTURES, SOURCE, ProgramTest, quantize_arguments, results,
                     run)
from matrix_file import dequantize

sys.path.append(str(SOURCE / "tools"))
from prepare_calibration import write  # noqa: E402


class SameBytes(ProgramTest):
    def check(self, configurations, **keywords):
        """Each configuration is (ranks, threads, further arguments)."""
        found = {}
        for ranks, threads, further in configurations:
            save = self.directory / f"run-{len(list(self.directory.iterdir()))}"
            self.succeed(*quantize_arguments(save, **keywords), *further, ranks=ranks,
                         threads=threads, env=getattr(self, "env", None))
            found[ranks, threads, *further] = results(save)
        self.assertEqual(len(set(found.values())), 1, found)

    def test_ranks_and_threads(self):
        self.check([(0, 1, ()), (0, 2, ()), (1, 1, ()), (2, 2, ()), (3, 1, ()), (4, 1, ())])

    def test_tokens_of_either_format(self):
        tokens = self.directory / "tokens.safetensors"
        with h5py.File(CALIBRATION) as file:
            write(tokens, file["tokens"][:], {"seed": 0})
        found = []
        for calibration, ranks in ((CALIBRATION, 1), (tokens, 1), (tokens, 2)):
            save = self.directory / f"run-{len(found)}"
            self.succeed(*quantize_arguments(save, calibration=calibration), ranks=ranks)
            found.append(results(save))
        self.assertEqual(len(set(found)), 1, found)
        self.assertIn("128 sequences of 256", self.succeed("inspect", tokens).stdout)
        figures = []
        for path in (EVALUATION, self.directory / "evaluation.safetensors"):
            if path != EVALUATION:
                with h5py.File(EVALUATION) as file:
                    write(path, file["tokens"][:], {})
            self.succeed("eval", "--model", EXAMPLE, "--tokens", path, "--max-windows", 4, "--json",
                         self.directory / "eval.json")
            figures.append(json.loads((self.directory / "eval.json").read_text())["mean_nll"])
        self.assertEqual(figures[0], figures[1])

    def test_ranks_and_threads_on_the_haswell_kernel(self):
        self.env = {"OPENBLAS_CORETYPE": "HASWELL"}
        self.check([(0, 1, ()), (0, 2, ()), (2, 1, ()), (3, 2, ()), (4, 1, ())])

    def test_five_ranks_with_four_sequences(self):
        self.check([(0, 1, ()), (5, 1, ())], samples=4)

    def test_waves_under_a_memory_limit(self):
        many = {"samples": 64, "length": 256}  # so many that experts need the most
        for ranks in (1, 2):
            figures = self.directory / "whole.json"
            done = self.succeed(*quantize_arguments(self.directory / f"whole-{ranks}", **many), "--json",
                                figures, ranks=ranks)
            self.assertIn("experts in 1 wave", done.stderr)
            limit = json.loads(figures.read_text())["planned_bytes"] - (2 << 20)
            save = self.directory / f"waves-{ranks}"
            done = self.succeed(*quantize_arguments(save, **many), "--memory", limit, "--json", figures,
                                ranks=ranks)
            self.assertRegex(done.stderr, "experts in [2-9] waves")
            self.assertLessEqual(max(json.loads(figures.read_text())["peak_rss_bytes"]), limit)
            self.assertEqual(results(save), results(self.directory / f"whole-{ranks}"))

    def test_dense_model_and_sequences_of_different_lengths(self):
        for model in ("llama", "mixtral"):
            self.check([(0, 1, ()), (2, 1, ()), (3, 2, ())], model=FIXTURES / model,
                       calibration=FIXTURES / model / "golden.h5", samples=0, length=0)

    def test_starved_experts_asymmetric_and_named_router_and_head(self):
        recipe = self.write_recipe(
            default={"wq": "int3", "group_size": 48, "symmetric": False, "scale_dtype": "fp16"},
            overrides=[{"pattern": "*.mlp.gate", "wq": "int8", "group_size": -1},
                       {"pattern": "lm_head", "wq": "int8", "group_size": "tensor", "method": "rtn"},
                       {"pattern": "*.o_proj", "skip": True}],
            gptq={"min_tokens": 300})
        self.check([(0, 1, ()), (3, 1, ())], recipe=recipe)


class Content(ProgramTest):
    def setUp(self):
        super().setUp()
        self.save = self.directory / "run"

    def quantize(self, *further, **keywords):
        figures = self.directory / "quantize.json"
        done = self.succeed(*quantize_arguments(self.save, **keywords), "--json", figures, *further,
                            ranks=2)
        return json.loads(figures.read_text()), done

    def log_rows(self):
        return list(csv.DictReader((self.save / "quant_log.csv").read_text().splitlines()))

    def test_files_and_figures(self):
        figures, done = self.quantize()
        self.assertEqual(figures["matrices"], 4 * (4 + 16 * 3))
        self.assertEqual(figures["by_method"], {"gptq": 208})
        self.assertAlmostEqual(figures["mean_bits"], 4.5)
        self.assertEqual(len(figures["peak_rss_bytes"]), 2)
        self.assertLess(figures["error"], figures["error_rtn"])
        for name in ("manifest.json", "quant_log.csv", "metrics.jsonl", "status.json", "model.h5"):
            self.assertTrue((self.save / name).is_file(), name)
        self.assertEqual(list((self.save / "shards").glob("*.partial")), [])
        rows = self.log_rows()
        self.assertEqual(len(rows), 208)
        self.assertTrue(all(float(row["error"]) < float(row["error_rtn"]) for row in rows
                            if row["method"] == "gptq" and int(row["tokens"]) > 200))
        lines = [json.loads(line) for line in (self.save / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual([line["layer"] for line in lines], [0, 1, 2, 3])
        self.assertEqual(sum(lines[0]["expert_tokens"]), 16 * 64 * 4)
        self.assertIn("layer 4/4", done.stderr)

    def test_stored_matrices_are_near_the_original(self):
        self.quantize()
        with h5py.File(self.save / "model.h5") as file:
            names = list(file["matrices"])
            self.assertEqual(names[0], "model.layers.0.self_attn.q_proj")
            original = read_safetensors(EXAMPLE / "model.safetensors")
            for name in names[::17]:
                stored, source = dequantize(file["matrices"][name]), original[name + ".weight"]
                self.assertEqual(stored.shape, source.shape)
                relative = np.linalg.norm(stored - source) / np.linalg.norm(source)
                self.assertTrue(0.01 < relative < 0.25, f"{name}: {relative}")

    def test_merge_alone_gives_the_same_bytes(self):
        self.quantize()
        before = results(self.save)
        (self.save / "model.h5").unlink()
        (self.save / "quant_log.csv").unlink()
        self.succeed("merge", self.save)
        self.assertEqual(results(self.save), before)

    def test_short_groups_are_quantized_and_shown(self):
        _, done = self.quantize(model=FIXTURES / "mixtral", samples=0, length=0,
                                calibration=FIXTURES / "mixtral" / "golden.h5")
        self.assertIn("24 matrices with rows of 40: groups of 32, the last of 8", done.stderr)
        self.assertIn("60 matrices with rows of 48: groups of 32, the last of 16", done.stderr)
        with h5py.File(self.save / "model.h5") as file:
            down = file["matrices"]["model.layers.0.block_sparse_moe.experts.0.w2"]
            self.assertEqual(down["scales"].shape, (48, 2))

    def test_starved_experts(self):
        for policy, method in (("rtn", "rtn"), ("all_tokens", "gptq")):
            figures, _ = self.quantize("--min-tokens", 200, "--starved", policy, "--resume", "never")
            self.assertGreater(figures["starved"], 0)
            self.assertEqual(figures["fallbacks"], {f"starved_{policy}": 3 * figures["starved"]})
            for row in self.log_rows():
                if row["fallback"] != "none":
                    self.assertEqual(row["method"], method)
                    self.assertEqual(int(row["tokens"]), 0 if policy == "rtn" else 16 * 64)
        done = run(*quantize_arguments(self.save), "--min-tokens", 200, "--resume", "never",
                   "--max-fallbacks", 0)
        self.assertEqual(done.returncode, 4, done.stderr)

    def test_quantization_costs_less_with_gptq_than_with_rounding(self):
        nll = {}
        for method in ("gptq", "rtn"):
            recipe = self.write_recipe(default={"wq": "int3", "group_size": 32, "method": method})
            self.quantize("--resume", "never", recipe=recipe, samples=32, length=256)
            figures = self.directory / "eval.json"
            self.succeed("eval", "--model", EXAMPLE, "--quantized", self.save, "--tokens",
                         EVALUATION, "--json", figures, ranks=2)
            nll[method] = json.loads(figures.read_text())["mean_nll"]
        self.assertLess(nll["gptq"] - 0.980370, 0.7 * (nll["rtn"] - 0.980370))


def read_safetensors(path):
    """Tensors of a bf16 file as float32."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        bits = np.frombuffer(data[begin:end], np.uint16).astype(np.uint32) << 16
        tensors[name] = bits.view(np.float32).reshape(entry["shape"])
    return tensors


if __name__ == "__main__":
    unittest.main()
