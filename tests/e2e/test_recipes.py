"""Recipes as a user meets them: every file of configs/, flat plans, flags that win, mistakes that are named."""

import json
import unittest

from program import EXAMPLE, FIXTURES, SOURCE, ProgramTest, model_arguments, quantize_arguments, run

CONFIGS = sorted((SOURCE / "configs").glob("*.json"))
MODELS = [EXAMPLE] + sorted(path.parent for path in FIXTURES.glob("*/config.json"))
# Every key of "gptq": away from its default in the file, and the default as a flag.
SETTINGS = {
    "damping": (0.05, 0.02), "few_tokens_damping": (0.5, 0.25), "scale_search": ("hessian", "absmax"), "scale_sign": ("positive", "any"),
    "act_order": ("static", "none"),
    "refine": (3, 0), "block": (32, 64), "sequential": ("none", "stage"), "target": ("original", "own"), "output_factor": ("layer", "none"), "routing_exponent": (2, 0.5),
    "starved": ("rtn", "all_tokens"), "min_tokens": (7, 3), "expert_tokens": ("all", "routed"),
}


class Recipes(ProgramTest):
    def inspect(self, model, recipe):
        """What the recipe does with each linear, the text on the screen, and the flat plan."""
        figures, plan = self.directory / "inspect.json", self.directory / "flat.json"
        done = self.succeed("inspect", *model_arguments(model)[1:], "--recipe", recipe, "--json", figures,
                            "--recipe-out", plan)
        return json.loads(figures.read_text())["linears"], done.stdout, plan

    def test_every_config_on_every_model(self):
        self.assertGreaterEqual(len(CONFIGS), 12)
        for model in MODELS:
            for config in CONFIGS:
                with self.subTest(model=model.name, config=config.name):
                    linears, _, plan = self.inspect(model, config)
                    head = "output" if model.name == "renamed" else "lm_head"
                    self.assertEqual(linears.get(head), "untouched")
                    flat = json.loads(plan.read_text())
                    self.assertLessEqual(set(linears), set(flat))
                    for name, what in linears.items():
                        scheme = flat[name] if isinstance(flat[name], str) else flat[name]["wq"]
                        self.assertEqual(scheme, "bf16" if what == "untouched" else what.split()[1], name)
                    again = self.directory / "again.json"
                    again.write_bytes(plan.read_bytes())
                    same, text, rewritten = self.inspect(model, again)
                    self.assertEqual(same, linears)
                    self.assertEqual(rewritten.read_bytes(), again.read_bytes())
                    self.assertNotIn("no linear", text)

    def test_every_flag_wins_over_the_file(self):
        recipe = self.write_recipe(gptq={key: values[0] for key, values in SETTINGS.items()})
        flags = [word for key, values in SETTINGS.items()
                 for word in ("--" + key.replace("_", "-"), values[1])]
        save = self.directory / "run"
        self.succeed(*quantize_arguments(save, recipe=recipe, samples=2, length=16), *flags)
        settings = json.loads((save / "manifest.json").read_text())["fingerprint"]["settings"]
        self.assertEqual(json.loads(settings), {key: values[1] for key, values in SETTINGS.items()})

    def test_wrong_flags(self):
        for words in (("--refine", "65", "[0, 64]"), ("--act-order", "dynamic", "none or static"),
                      ("--scale-search", "msee", "did you mean 'mse'?"), ("--damping", "much", "[0, 100]")):
            done = run(*quantize_arguments(self.directory / "run"), *words[:2])
            self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
            for word in words:
                self.assertIn(word, done.stderr)

    def refuse(self, text, words, *arguments):
        recipe = self.directory / "my.json"
        recipe.write_text(text)
        for command in (("inspect", EXAMPLE, "--recipe", recipe) if not arguments else (),
                        quantize_arguments(self.directory / "run", recipe=recipe) + list(arguments)):
            if not command:
                continue
            done = run(*command)
            self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
            for word in words:
                self.assertIn(word, done.stderr)
            self.assertEqual(done.stderr.strip().count("\n"), 0, done.stderr)
            self.assertFalse((self.directory / "run").exists())

    def test_mistakes_are_named_with_their_place(self):
        self.refuse('{"default": {"wq": "int4"},\n"overrides": [{"pattern": "*",\n"group_sise": 32}]}',
                    ["my.json: 'overrides[0].group_sise' is not known; did you mean 'group_size'?"])
        self.refuse('{"default": {"wq": "mxfp4"},\n"overrides": [\n{"pattern": "*.up_proj", "group_size": 48}]}',
                    ["my.json: 'overrides[0].group_size'", "multiples of 32", "up_proj'"])
        self.refuse('{"model.layers.0.mlp.gate": "int8",\n"lm_head": "int44"}', ["my.json: 'lm_head'", "'int4'"])

    def test_strict(self):
        self.refuse('{"default": {"wq": "int4", "group_size": 32},\n"overrides": [\n{"pattern": "*.w1"}]}',
                    ["my.json: overrides[0]: pattern '*.w1' matches no linear"], "--strict")
        self.refuse('{"default": {"wq": "int4", "group_size": 48}}', ["my.json", "groups of 48, the last of"],
                    "--strict")
        self.refuse('{"default": {"wq": "int4", "group_size": 4096}}', ["my.json", "one group, not 4096"], "--strict")
        self.refuse('{"model.layers.0.mlp.gate": "int8",\n"model.layers.4.mlp.gate": "int8"}',
                    ["my.json: 1 of 2 names are no linear"], "--strict")


if __name__ == "__main__":
    unittest.main()
