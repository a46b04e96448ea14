"""Recipes that a server does not load: refused with the matrices, and the nearest one that it does load."""

import json
import unittest

import h5py

from program import EXAMPLE, ProgramTest, quantize_arguments, results, run

# Experts of a layer with three widths, v unlike q and k, and a format that no server knows.
OVERRIDES = [{"pattern": "*.experts.[0-3].*", "wq": "int8", "group_size": 32},
             {"pattern": "*.1.mlp.experts.5.up_proj", "wq": "int3", "group_size": 32},
             {"pattern": "*.v_proj", "wq": "bf16"},
             {"pattern": "*.o_proj", "wq": "fp6", "group_size": 32}]
EXPERT = "model.layers.{}.mlp.experts.{}.{}_proj"


class Servers(ProgramTest):
    def setUp(self):
        super().setUp()
        self.recipe = self.write_recipe(overrides=OVERRIDES)
        self.save = self.directory / "run"

    def test_a_recipe_is_refused_before_any_work(self):
        for ranks in (0, 3):
            done = run(*quantize_arguments(self.save, recipe=self.recipe), "--require-servable", "vllm", ranks=ranks)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertFalse(self.save.exists())
            self.assertEqual(done.stderr.count("error: "), 1, done.stderr)
            for word in ("scheme", EXPERT.format(0, 4, "gate"), "k_proj", "o_proj", "--snap vllm"):
                self.assertIn(word, done.stderr)
            self.assertNotIn("note: ", done.stderr)
        self.assertEqual(run("inspect", EXAMPLE, "--recipe", self.recipe, "--require-servable", "sglang").returncode, 2)

    def test_the_nearest_recipe_is_told_with_its_cost(self):
        figures = self.directory / "inspect.json"
        done = self.succeed("inspect", EXAMPLE, "--recipe", self.recipe, "--json", figures)
        servers = json.loads(figures.read_text())["servers"]
        for target, verdict in servers.items():
            self.assertFalse(verdict["served"], target)
            self.assertIn("refused", [objection["gravity"] for objection in verdict["objections"]])
            self.assertIn(f"nearest: --snap {target}, ", done.stdout)
        again = self.succeed("inspect", EXAMPLE, "--recipe", self.recipe, "--snap", "vllm", "--json", figures)
        self.assertTrue(json.loads(figures.read_text())["servers"]["vllm"]["served"])
        self.assertIn("model.layers.*.mlp.experts.*.down_proj: int4 g32 -> int8 g32 (48)", again.stdout)
        plan = self.succeed("plan", "--model", EXAMPLE, "--config", self.recipe, "--nsamples", 4, "--seqlen", 32,
                            "--snap", "vllm")
        self.assertIn("snapped to vllm", plan.stdout)

    def test_snapped_runs_are_served(self):
        """--snap gives what the flat plan of `inspect --snap` gives, and its export is one that vLLM loads."""
        flat = self.directory / "flat.json"
        self.succeed("inspect", EXAMPLE, "--recipe", self.recipe, "--snap", "vllm", "--recipe-out", flat)
        size = {"samples": 4, "length": 32}
        self.succeed(*quantize_arguments(self.save, recipe=self.recipe, **size), "--snap", "vllm",
                     "--require-servable", "vllm", "--export", self.directory / "served", ranks=2)
        self.succeed(*quantize_arguments(self.directory / "flat", recipe=flat, **size))
        self.assertEqual(results(self.save), results(self.directory / "flat"))
        for made in (self.save, self.directory / "served"):
            self.assertIn("no findings", self.succeed("verify", made, ranks=2).stdout)
        with h5py.File(self.save / "model.h5") as file:
            names = []
            file.visititems(lambda name, item: names.append(name.replace("/", ".")) if isinstance(item, h5py.Group) else None)
        self.assertFalse([name for name in names if name.endswith(("q_proj", "k_proj", "v_proj"))])
        config = json.loads((self.directory / "served" / "config.json").read_text())["quantization_config"]
        widths = {json.dumps(group["weights"]["num_bits"]): group["targets"] for group in config["config_groups"].values()}
        self.assertEqual(set(widths), {"8", "6"}, "experts at their widest, fp6 of o as integers")

    def test_parts_of_matrices(self):
        """The experts' width of the example is 64: groups of 32 cannot be cut into four parts."""
        recipe = self.write_recipe()
        at = ("inspect", EXAMPLE, "--recipe", recipe, "--require-servable", "vllm", "--tp")
        self.assertEqual(run(*at, 1).returncode, 0)
        refused = run(*at, 4)
        self.assertEqual(refused.returncode, 2)
        self.assertIn("whole groups", refused.stderr)
        self.assertEqual(run(*at, 4, "--snap", "vllm").returncode, 0)
        self.assertEqual(run(*at, 3, "--snap", "vllm").returncode, 2, "no recipe helps")


if __name__ == "__main__":
    unittest.main()
