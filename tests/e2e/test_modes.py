"""Orders of calibration and experts calibrated on all tokens: what each means, and the same bytes
on any ranks, with waves and after a resume."""

import csv
import json
import unittest

import h5py
import numpy as np

from program import ProgramTest, quantize_arguments, results

MODES = ("stage", "layer", "none")


class ModesBase(ProgramTest):
    def recipe(self, name="recipe.json", overrides=(), default=None, **gptq):
        return self.write_recipe(name, default=default, overrides=overrides, gptq=gptq)

    def quantize(self, name, *further, ranks=0, threads=1, **keywords):
        save = self.directory / name
        self.succeed(*quantize_arguments(save, **keywords), *further, ranks=ranks, threads=threads)
        return save

    def log_rows(self, save):
        return list(csv.DictReader((save / "quant_log.csv").read_text().splitlines()))

    def redo_a_layer(self, save, recipe, expected, **keywords):
        """From the second layer's missing shards on, on other ranks."""
        for shard in (save / "shards").glob("layer-0002*"):
            shard.unlink()
        (save / "model.h5").unlink()
        self.quantize(save.name, "--resume", "require", ranks=3, recipe=recipe, **keywords)
        self.assertEqual(results(save), expected)


class Modes(ModesBase):
    """One test an order and choice of tokens, added below."""


def add_mode_tests():
    for mode in MODES:
        for tokens in ("routed", "all"):
            def test(self, mode=mode, tokens=tokens):
                recipe = self.recipe(sequential=mode, expert_tokens=tokens)
                save = self.quantize("whole", recipe=recipe)
                expected = results(save)
                for ranks, threads in ((1, 2), (2, 1), (3, 1), (4, 1))[::1 if tokens == "routed" else 2]:
                    other = self.quantize(f"on-{ranks}", ranks=ranks, threads=threads, recipe=recipe)
                    self.assertEqual(results(other), expected, f"{ranks} ranks")
                self.redo_a_layer(save, recipe, expected)
            setattr(Modes, f"test_same_bytes_{mode}_{tokens}", test)


add_mode_tests()


class Waves(ModesBase):
    def test_planned_memory_holds_and_waves_change_no_byte(self):
        # With sequential "layer" the second pass, which has no waves, takes most of so small a model.
        for gptq in ({"sequential": "none"}, {"sequential": "none", "expert_tokens": "all"},
                     {"sequential": "stage", "expert_tokens": "all"}):
            recipe = self.recipe(**gptq)
            figures = self.directory / "figures.json"
            name = "-".join(gptq.values())
            size = {"samples": 64, "length": 256}  # so that the experts of a wave matter
            whole = self.directory / name
            self.succeed(*quantize_arguments(whole, recipe=recipe, **size), "--json", figures,
                         ranks=2)
            limit = json.loads(figures.read_text())["planned_bytes"] - (2 << 20)
            save = self.directory / (name + "-waves")
            done = self.succeed(*quantize_arguments(save, recipe=recipe, **size), "--memory", limit,
                                "--json", figures, ranks=2)
            self.assertRegex(done.stderr, "experts in [2-9] waves")
            self.assertLessEqual(max(json.loads(figures.read_text())["peak_rss_bytes"]), limit)
            self.assertEqual(results(save), results(whole))


class Meaning(ModesBase):
    def matrices(self, save):
        with h5py.File(save / "model.h5") as file:
            return {name: (group["codes"][:].tobytes(), group["scales"][:].tobytes())
                    for name, group in file["matrices"].items()}

    def test_what_the_inputs_of_a_linear_have_gone_through(self):
        """A linear quantized alone is calibrated on the original model. What an order calibrates on
        the original must give the same codes in a run that quantizes everything, and nothing else
        should."""
        whole = {mode: self.matrices(self.quantize(mode, recipe=self.recipe(sequential=mode), samples=8))
                 for mode in MODES}
        base = "model.layers.{}.{}"
        for layer, linear, equal in ((0, "self_attn.q_proj", "stage layer none"),
                                     (0, "self_attn.o_proj", "layer none"),
                                     (0, "mlp.experts.3.down_proj", "layer none"),
                                     (2, "mlp.experts.3.gate_proj", "none")):
            name = base.format(layer, linear)
            recipe = self.recipe(default={"wq": "int4", "group_size": 32, "skip": True},
                                 overrides=[{"pattern": name, "skip": False}])
            alone = self.matrices(self.quantize(f"alone-{layer}-{linear}", recipe=recipe, samples=8))
            self.assertEqual(list(alone), [name])
            for mode in MODES:
                same = whole[mode][name] == alone[name]
                self.assertEqual(same, mode in equal.split(), f"{name}, {mode}")

    def test_all_tokens_calibrate_every_expert(self):
        save = self.quantize("all", recipe=self.recipe(expert_tokens="all", routing_exponent=0.5))
        starved = self.quantize("starved", recipe=self.recipe(min_tokens=10 ** 6), ranks=2)
        for all_row, starved_row in zip(self.log_rows(save), self.log_rows(starved)):
            self.assertEqual(int(all_row["tokens"]), 16 * 64)
            self.assertEqual(float(all_row["weight_sum"]), 16 * 64)
            self.assertEqual(all_row["fallback"], "none")
            expected = "starved_all_tokens" if int(all_row["expert"]) >= 0 else "none"
            self.assertEqual(starved_row["fallback"], expected)
        self.assertEqual(self.matrices(save), self.matrices(starved))

    def test_all_tokens_are_not_the_routed_ones(self):
        routed = self.matrices(self.quantize("routed", recipe=self.recipe()))
        every = self.matrices(self.quantize("every", recipe=self.recipe(expert_tokens="all")))
        names = [name for name in routed if ".experts." in name]
        self.assertTrue(np.mean([routed[name] != every[name] for name in names]) > 0.9)


if __name__ == "__main__":
    unittest.main()
