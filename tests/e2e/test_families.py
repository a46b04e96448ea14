"""Every family of models: what inspect says, whole runs with the recipes of configs/, the same bytes
on any ranks, and a quantized model that still computes nearly the same."""

import json
import unittest

from program import FIXTURES, SOURCE, ProgramTest, model_arguments, results, run

# fixture -> what inspect --json must say of it
FAMILIES = {
    "deepseek": ("deepseek", "deepseek", {"moe_layers": 2, "experts": 8, "shared_width": 32}),
    "deepseek_v2": ("deepseek_v2", "deepseek", {"experts": 16, "top_k": 4}),
    "deepseek_v2_lite": ("deepseek_v2", "deepseek", {"experts": 8, "top_k": 3}),
    "deepseek_v3": ("deepseek_v3", "deepseek", {"encoding": "FP8 with a scale for each 16 x 16"}),
    "generic_moe": ("generic_moe", "generic_moe", {"experts": 8}),
    "generic_moe_sigmoid": ("generic_moe", "generic_moe", {"experts": 8}),
    "glm4_moe": ("glm4_moe", "glm", {"experts": 8, "top_k": 3}),
    "gpt_oss": ("gpt_oss", "gpt_oss", {"shared_width": 0, "encoding": "plain"}),
    "gpt_oss_mxfp4": ("gpt_oss", "gpt_oss", {"encoding": "experts in MXFP4"}),
    "kimi_k2": ("deepseek_v3", "deepseek", {"encoding": "plain"}),
    "llama": ("llama", "standard", {"experts": 0, "moe_layers": 0}),
    "llama3": ("llama", "standard", {"experts": 0}),
    "mixtral": ("mixtral", "mixtral", {"experts": 8, "top_k": 2, "moe_layers": 3}),
    "olmoe": ("olmoe", "olmoe", {"experts": 8, "top_k": 3, "layers": 2}),
    "olmoe_clip": ("olmoe", "olmoe", {}),
    "qwen2": ("qwen2", "standard", {}),
    "qwen2_moe": ("qwen2_moe", "qwen", {"layers": 6, "moe_layers": 2}),
    "qwen3": ("qwen3", "standard", {}),
    "qwen3_moe": ("qwen3_moe", "qwen", {"experts": 8}),
    "qwen3_moe_fp8": ("qwen3_moe", "qwen", {"encoding": "FP8 with a scale for each 16 x 16"}),
    "renamed": ("nimbus", "nimbus", {"experts": 8, "top_k": 2}),
}


class Inspect(ProgramTest):
    def inspect(self, model):
        figures = self.directory / "inspect.json"
        arguments = model_arguments(model)
        done = self.succeed("inspect", arguments[1], *arguments[2:], "--json", figures)
        return json.loads(figures.read_text()), done.stdout

    def test_every_fixture(self):
        names = {path.name for path in FIXTURES.iterdir() if path.is_dir()}
        self.assertEqual(names, set(FAMILIES), "a fixture without expectation, or the other way round")
        for name, (architecture, family, facts) in FAMILIES.items():
            with self.subTest(name):
                figures, text = self.inspect(FIXTURES / name)
                self.assertEqual(figures["architecture"], architecture)
                self.assertEqual(figures["class"], family)
                self.assertEqual({key: figures[key] for key in facts}, facts)
                self.assertIn(f"{architecture}, class {family}", text)
                self.assertEqual(bool(figures["assumptions"]), family == "generic_moe")

    def test_prediction_layers_are_named_and_left_alone(self):
        figures, text = self.inspect(FIXTURES / "deepseek_v3")
        self.assertTrue(all(name.startswith("model.layers.3.") for name in figures["extra_tensors"]))
        self.assertIn("(MTP)", text)

    def test_a_row_that_was_written_out_describes_the_same_model(self):
        written = self.directory / "row.json"
        self.succeed("inspect", FIXTURES / "deepseek_v2", "--architecture-out", written)
        before, _ = self.inspect(FIXTURES / "deepseek_v2")
        figures = self.directory / "again.json"
        self.succeed("inspect", FIXTURES / "deepseek_v2", "--architecture", written, "--json", figures)
        self.assertEqual(json.loads(figures.read_text()), before)

    def test_an_unknown_architecture_without_its_description_is_refused(self):
        done = run("inspect", FIXTURES / "renamed")
        self.assertEqual(done.returncode, 3)
        for word in ("nimbus", "config.json", "--architecture", "qwen3_moe"):
            self.assertIn(word, done.stderr)


class Quantize(ProgramTest):
    """One test a fixture; its methods are added below."""

    def quantize(self, name, recipe, save, *further, ranks=0, threads=1):
        return self.succeed("quantize", *model_arguments(FIXTURES / name), "--config", recipe,
                            "--calib", FIXTURES / name / "golden.h5", "--save", save,
                            "--min-tokens", 4, *further, ranks=ranks, threads=threads)

    def score(self, name, *further, ranks=0):
        figures = self.directory / "eval.json"
        self.succeed("eval", *model_arguments(FIXTURES / name), "--tokens",
                     FIXTURES / name / "golden.h5", "--json", figures, *further, ranks=ranks)
        return json.loads(figures.read_text())

    def check(self, name):
        recipe = SOURCE / "configs" / "int8.json"
        done = self.quantize(name, recipe, self.directory / "one")
        self.assertEqual("assumed:" in done.stderr, name.startswith("generic_moe"))
        self.quantize(name, recipe, self.directory / "three", ranks=3, threads=2)
        self.assertEqual(results(self.directory / "one"), results(self.directory / "three"))
        original = self.score(name)["mean_nll"]
        quantized = self.score(name, "--quantized", self.directory / "one", ranks=3)["mean_nll"]
        self.assertNotEqual(quantized, original)
        self.assertLess(abs(quantized - original), 0.15)

    def test_three_bits_cost_more_than_eight(self):
        for name in ("deepseek_v3", "gpt_oss_mxfp4", "qwen2_moe"):
            kl = {}
            for bits in (8, 3):
                recipe = self.write_recipe(default={"wq": f"int{bits}", "group_size": 16})
                save = self.directory / f"{name}-{bits}"
                self.quantize(name, recipe, save)
                kl[bits] = self.score(name, "--quantized", save)["kl"]
            self.assertLess(kl[8], 0.5 * kl[3], name)

    def test_waves_orders_and_named_routers(self):
        """Shared experts, latent attention and every router quantized: the same bytes on any ranks."""
        recipe = self.write_recipe(
            default={"wq": "int4", "group_size": 16},
            overrides=[{"pattern": "*.mlp.gate", "wq": "int8"}, {"pattern": "*_gate", "wq": "int8"},
                       {"pattern": "*.router", "wq": "int8"}, {"pattern": "lm_head", "wq": "int8"}])
        for name in ("deepseek_v2", "qwen2_moe", "gpt_oss"):
            for order in ("stage", "layer", "none"):
                saves = [self.directory / f"{name}-{order}-{ranks}" for ranks in (0, 4)]
                self.quantize(name, recipe, saves[0], "--sequential", order)
                self.quantize(name, recipe, saves[1], "--sequential", order, ranks=4)
                self.assertEqual(results(saves[0]), results(saves[1]), f"{name} {order}")

    def test_kept_hessians_of_every_stage(self):
        recipe = SOURCE / "configs" / "int8.json"
        for name in ("deepseek_v3", "qwen2_moe"):
            kept, again = self.directory / f"{name}-kept", self.directory / f"{name}-again"
            self.quantize(name, recipe, kept, "--keep-hessians", "--sequential", "none", ranks=2)
            self.succeed("quantize", "--model", FIXTURES / name, "--config", recipe, "--hessians", kept,
                         "--save", again, "--min-tokens", 4)
            self.assertEqual(results(kept)[0], results(again)[0])


def add_tests():
    for name in FAMILIES:
        def test(self, name=name):
            self.check(name)
        setattr(Quantize, f"test_{name}", test)


add_tests()

if __name__ == "__main__":
    unittest.main()
