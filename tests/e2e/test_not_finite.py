"""Numbers beyond float32: activations that are infinite or NaN end a run with one error that names the place, Hessians
and errors of rows that are not finite make single matrices rounded, named and counted."""

import csv
import json
import math
import shutil
import unittest

import h5py
import numpy as np

from program import CALIBRATION, EVALUATION, EXAMPLE, ProgramTest, quantize_arguments, results, run

WEIGHTS = "model.safetensors"
LAYER = "model.layers.2"
EXPERT = f"{LAYER}.mlp.experts.5"

# title, factors of tensors (.weight), words of the error. Layers run in order: what is named comes first.
ACTIVATIONS = [
    ("q", {f"{LAYER}.self_attn.q_norm": 1e25, f"{LAYER}.self_attn.k_norm": 1e25},
     ["layer 2, attention", f"{LAYER}.self_attn.q_proj, {LAYER}.self_attn.k_proj, {LAYER}.self_attn.v_proj"]),
    ("o", {f"{LAYER}.self_attn.v_proj": 1e20, f"{LAYER}.self_attn.o_proj": 1e30},
     ["layer 2, attention", f"{LAYER}.self_attn.o_proj"]),
    ("router", {f"{LAYER}.mlp.gate": 1e37, f"{LAYER}.post_attention_layernorm": 1e5},
     ["layer 2", f"router {LAYER}.mlp.gate"]),
    ("gate and up", {f"{EXPERT}.up_proj": 1e30, f"{EXPERT}.gate_proj": 1e15},
     ["layer 2, expert 5", f"{EXPERT}.gate_proj, {EXPERT}.up_proj"]),
    ("down", {f"{EXPERT}.up_proj": 1e15, f"{EXPERT}.down_proj": 1e30}, ["layer 2, expert 5", f"{EXPERT}.down_proj"]),
]
HEAD = {"lm_head": 1e37, "model.norm": 1e5}
# Squares of what down reads overflow, and so do the errors of up's rows; no activation does.
SQUARES = {f"{EXPERT}.up_proj": 1e25, f"{EXPERT}.down_proj": 1e-25}
ROUNDED = {f"{EXPERT}.up_proj": "errors of some rows", f"{EXPERT}.down_proj": "Hessian is not finite"}


def scale_tensors(path, factors):
    """Multiplies BF16 tensors of a safetensors file in place."""
    whole = bytearray(path.read_bytes())
    size = int.from_bytes(whole[:8], "little")
    entries = json.loads(whole[8:8 + size])
    for name, factor in factors.items():
        begin, end = (8 + size + offset for offset in entries[name + ".weight"]["data_offsets"])
        values = (np.frombuffer(whole[begin:end], np.uint16).astype(np.uint32) << 16).view(np.float32) * factor
        values = values.astype(np.float32)
        assert np.isfinite(values).all()
        whole[begin:end] = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    path.write_bytes(whole)


class NotFinite(ProgramTest):
    def model(self, name, factors):
        model = self.directory / name
        shutil.copytree(EXAMPLE, model)
        scale_tensors(model / WEIGHTS, factors)
        return model

    def refused(self, words, *arguments, **keywords):
        """Exit code 3 and one error; returns its line."""
        done = run(*arguments, **keywords)
        self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
        errors = [line for line in done.stderr.splitlines() if "error:" in line]
        self.assertEqual(len(errors), 1, done.stderr)
        for word in [*words, "is not finite"]:
            self.assertIn(word, errors[0])
        return errors[0]

    def test_every_part_of_a_layer_is_named(self):
        for number, (title, factors, words) in enumerate(ACTIVATIONS):
            with self.subTest(title):
                model, save = self.model(title, factors), self.directory / f"run-{number}"
                trace = self.directory / "trace.h5"
                evaluation = ["--tokens", EVALUATION, "--window", 64, "--max-windows", 16]
                error = self.refused(words, "eval", "--model", model, *evaluation, "--trace", trace)
                self.assertFalse(trace.exists())
                if number > 2:  # some ranks alone have tokens of the expert
                    self.assertEqual(self.refused(words, "eval", "--model", model, *evaluation, ranks=3), error)
                self.refused(words, *quantize_arguments(save, model=model, samples=4))
                self.assertEqual(json.loads((save / "status.json").read_text())["state"], "failed")
                self.assertEqual(len(json.loads((save / "manifest.json").read_text())["complete"]), 2)
                self.assertFalse((save / "model.h5").exists())

    def test_every_rank_tells_the_same(self):
        _, factors, words = ACTIVATIONS[3]
        model, errors = self.model("model", factors), set()
        for ranks, way, order in ((1, "reduce", "stage"), (2, "reduce", "layer"), (3, "dispatch", "layer"),
                                  (4, "dispatch", "stage"), (2, "dispatch", "none")):
            recipe = self.write_recipe(gptq={"sequential": order})
            save = self.directory / f"{ranks}-{way}-{order}"
            errors.add(self.refused(words, *quantize_arguments(save, model=model, recipe=recipe),
                                    "--tokens-to-experts", way, ranks=ranks))
        errors.add(self.refused(words, "inspect", model, "--tokens", CALIBRATION))
        self.assertEqual(len(errors), 1, errors)

    def test_logits(self):
        model = self.model("model", HEAD)
        self.refused(["head", "lm_head"], "eval", "--model", model, "--tokens", EVALUATION, "--max-windows", 4, ranks=2)

    def log(self, save):
        with open(save / "quant_log.csv", encoding="ascii") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            for column in ("weight_sum", "damping", "error", "error_rtn"):
                self.assertTrue(math.isfinite(float(row[column])), row)
        return rows

    def check_rounded(self, save, done):
        fallen = {row["name"]: (row["method"], row["fallback"]) for row in self.log(save) if row["fallback"] != "none"}
        self.assertEqual(fallen, {name: ("rtn", "rtn") for name in ROUNDED})
        for name, reason in ROUNDED.items():
            lines = [line for line in done.stderr.splitlines() if name in line]
            self.assertEqual(len(lines), 1, done.stderr)
            self.assertRegex(lines[0], rf"warning: layer 2, expert 5: .* is rounded to nearest, since .*{reason}")
        self.assertRegex(done.stderr, r"fallbacks +rtn 2\n")

    def test_overflown_squares_round_single_matrices(self):
        model = self.model("model", SQUARES)
        recipe = self.write_recipe(gptq={"min_tokens": 0})
        saves = []
        for ranks, way in ((1, "reduce"), (3, "reduce"), (3, "dispatch")):
            saves.append(self.directory / f"{ranks}-{way}")
            done = self.succeed(*quantize_arguments(saves[-1], model=model, recipe=recipe), "--tokens-to-experts", way,
                                ranks=ranks)
            self.check_rounded(saves[-1], done)
            self.assertEqual(results(saves[-1]), results(saves[0]))
        self.succeed("eval", "--model", model, "--quantized", saves[0], "--tokens", EVALUATION, "--max-windows", 4)
        done = run(*quantize_arguments(self.directory / "strict", model=model, recipe=recipe), "--max-fallbacks", 1)
        self.assertEqual(done.returncode, 4, done.stderr)
        self.assertIn("2 matrices fell back", done.stderr)

    def test_a_starved_expert_that_is_rounded_is_rounded(self):
        """All tokens calibrate it, and overflow: `rtn` is what was done."""
        save = self.directory / "run"
        recipe = self.write_recipe(gptq={"min_tokens": 100000, "starved": "all_tokens"})
        self.succeed(*quantize_arguments(save, model=self.model("model", SQUARES), recipe=recipe))
        for row in self.log(save):
            expected = "starved_all_tokens" if int(row["expert"]) >= 0 else "none"
            self.assertEqual(row["fallback"], "rtn" if row["name"] in ROUNDED else expected)
            self.assertEqual(row["method"], "rtn" if row["name"] in ROUNDED else "gptq")

    def test_scales_beyond_float16_are_counted(self):
        """Above, weights are cut off; below, they become zeros: fallbacks, both."""
        model = self.model("model", {f"{EXPERT}.up_proj": 1e8, f"{EXPERT}.down_proj": 1e-8})
        recipe = self.write_recipe(default={"wq": "int4", "group_size": 32, "scale_dtype": "fp16"})
        saves, figures = [], self.directory / "figures.json"
        for ranks in (1, 3):
            saves.append(self.directory / f"{ranks}")
            done = self.succeed(*quantize_arguments(saves[-1], model=model, recipe=recipe), "--json", figures,
                                ranks=ranks)
            fallen = {row["name"]: row["fallback"] for row in self.log(saves[-1]) if row["fallback"] != "none"}
            self.assertEqual(fallen, {f"{EXPERT}.{name}_proj": "scale_range" for name in ("up", "down")})
            counts = json.loads(figures.read_text())
            self.assertEqual((counts["scales_above"], counts["scales_below"]), (64 * 128 // 32, 128 * 64 // 32))
            self.assertRegex(done.stderr, r"scales +256 above and 256 below what float16 holds")
            self.assertRegex(done.stderr, rf"warning: layer 2, expert 5: {EXPERT}.up_proj: 256 scales are above and 0")
            self.assertRegex(done.stderr, rf"warning: layer 2, expert 5: {EXPERT}.down_proj: 0 scales .* 256 below")
            self.assertEqual(results(saves[-1]), results(saves[0]))
        done = run(*quantize_arguments(self.directory / "strict", model=model, recipe=recipe), "--max-fallbacks", 0)
        self.assertEqual(done.returncode, 4, done.stderr)

    def test_kept_sums_that_overflowed_are_reused(self):
        model = self.model("model", SQUARES)
        recipe = self.write_recipe(gptq={"sequential": "none", "min_tokens": 0})
        kept, reused = self.directory / "kept", self.directory / "reused"
        self.succeed(*quantize_arguments(kept, model=model, recipe=recipe), "--keep-hessians", ranks=2)
        with h5py.File(next(kept.glob("hessians/layer-0002.*"))) as file:
            self.assertTrue(file["hessians"])
        done = self.succeed("quantize", "--model", model, "--config", recipe, "--hessians", kept, "--save", reused)
        self.check_rounded(reused, done)
        self.assertEqual(results(reused), results(kept))


if __name__ == "__main__":
    unittest.main()
