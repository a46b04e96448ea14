"""Kept Hessians: what is in the files, and other recipes from them without a forward pass."""

import json
import shutil
import unittest

import h5py
import numpy as np

from program import CALIBRATION, EXAMPLE, FIXTURES, ON_DEVICE, ProgramTest, quantize_arguments, results, run
from matrix_file import checksum
from test_quantize import read_safetensors

NONE = {"sequential": "none"}


class HessiansBase(ProgramTest):
    def recipe(self, name="recipe.json", default=None, overrides=(), **gptq):
        return self.write_recipe(name, default=default, overrides=overrides, gptq={**NONE, **gptq})

    def other_recipe(self, **gptq):
        """Another format, grouping, damping and head than the kept run's."""
        return self.recipe("other.json", {"wq": "int3", "group_size": 64},
                           [{"pattern": "*.o_proj", "wq": "int8", "method": "rtn"},
                            {"pattern": "*.layers.1.mlp.*", "skip": True}], damping=0.03, **gptq)

    def keep(self, name="kept", ranks=2, **keywords):
        save = self.directory / name
        keywords = {"recipe": keywords.get("recipe") or self.recipe(), "samples": 8, **keywords}
        self.succeed(*quantize_arguments(save, **keywords), "--keep-hessians", ranks=ranks)
        return save

    def reuse_arguments(self, kept, save, recipe):
        return ["quantize", "--model", EXAMPLE, "--config", recipe, "--hessians", kept, "--save", save, *ON_DEVICE]

    def sums(self, save):
        """name -> (upper, weight_sum, tokens, used_by, starved) of all files that the manifest names."""
        found = {}
        for part in json.loads((save / "manifest.json").read_text())["complete"]:
            for name in part["hessians"]:
                with h5py.File(save / "hessians" / name) as file:
                    for linear, group in file["hessians"].items():
                        self.assertNotIn(linear, found)
                        found[linear] = (group["upper"][:].tobytes(), float(group.attrs["weight_sum"]),
                                         int(group.attrs["tokens"]), list(group.attrs["used_by"]),
                                         group.attrs["starved"])
        return found


class Kept(HessiansBase):
    def test_sum_of_the_first_linears_equals_numpy(self):
        save = self.keep(samples=16)
        tensors = read_safetensors(EXAMPLE / "model.safetensors")
        config = json.loads((EXAMPLE / "config.json").read_text())
        with h5py.File(CALIBRATION) as file:
            tokens = file["tokens"][:16, :64].ravel()
        x = tensors["model.embed_tokens.weight"][tokens].astype(np.float64)
        x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + config["rms_norm_eps"])
        x = x * tensors["model.layers.0.input_layernorm.weight"]
        expected = (x.T @ x)[np.triu_indices(x.shape[1])]
        q = "model.layers.0.self_attn.q_proj"
        upper, weight_sum, count, used_by, starved = self.sums(save)[q]
        got = np.frombuffer(upper, np.float32)
        self.assertLess(np.abs(got - expected).max(), 1e-6 * np.abs(expected).max())
        self.assertEqual((weight_sum, count), (16 * 64, 16 * 64))
        self.assertEqual([name.decode() for name in used_by], [q, q[:-6] + "k_proj", q[:-6] + "v_proj"])
        self.assertIn(starved, ("none", b"none"))

    def test_every_sum_is_there_and_the_same_on_any_ranks(self):
        one, three = self.keep("one", ranks=0), self.keep("three", ranks=3)
        self.assertEqual(len(self.sums(one)), 4 * (2 + 16 * 2))
        self.assertEqual(self.sums(one), self.sums(three))
        plain = self.directory / "plain"
        self.succeed(*quantize_arguments(plain, recipe=self.recipe(), samples=8))
        self.assertEqual(results(one), results(plain))
        self.assertFalse((plain / "hessians").exists())

    def test_resumed_runs_keep_what_is_missing(self):
        save = self.keep()
        expected, sums = results(save), self.sums(save)
        for path in (save / "hessians").glob("layer-0002*"):
            path.unlink()
        done = self.succeed(*quantize_arguments(save, recipe=self.recipe(), samples=8), ranks=2)
        self.assertNotIn("missing", done.stderr)
        self.keep(ranks=3)
        self.assertEqual((results(save), self.sums(save)), (expected, sums))
        late = self.directory / "late"  # asked for only when the run is resumed
        self.succeed(*quantize_arguments(late, recipe=self.recipe(), samples=8))
        self.keep("late", ranks=2)
        self.assertEqual((results(late), self.sums(late)), (expected, sums))


class Reused(HessiansBase):
    def check(self, kept, recipe, further=(), **keywords):
        """A whole run and runs on 1 and 3 ranks from kept sums give the same bytes."""
        keywords.setdefault("samples", 8)
        whole = self.directory / "whole"
        self.succeed(*quantize_arguments(whole, recipe=recipe, **keywords), ranks=2)
        figures = self.directory / "figures.json"
        for ranks in (1, 3):
            save = self.directory / f"reused-{ranks}"
            done = self.succeed(*self.reuse_arguments(kept, save, recipe), *further, "--json", figures,
                                ranks=ranks)
            self.assertEqual(results(save), results(whole))
            self.assertIn("Hessians reused from", done.stderr)
            seconds = json.loads(figures.read_text())["seconds"]
            self.assertTrue(json.loads(figures.read_text())["hessians_reused"])
            self.assertFalse({"forward", "hessian", "reduce"} & set(seconds))
        return done

    def test_same_bytes_as_a_whole_run(self):
        self.check(self.keep(), self.other_recipe())

    def test_same_bytes_under_the_least_memory(self):
        self.check(self.keep(), self.recipe(), ("--memory", "18MiB"))

    def test_starved_experts_stay_what_they_were(self):
        for policy in ("rtn", "all_tokens"):
            with self.subTest(policy):
                gptq = {"starved": policy, "min_tokens": 100}
                self.check(self.keep("kept-" + policy, recipe=self.recipe(**gptq)),
                           self.other_recipe(**gptq))
                self.assertIn("starved_" + policy, (self.directory / "whole/quant_log.csv").read_text())
                for name in ("whole", "reused-1", "reused-3"):
                    shutil.rmtree(self.directory / name)

    def test_experts_on_all_tokens_router_and_head(self):
        named = [{"pattern": "*.mlp.gate", "wq": "int8", "group_size": -1},
                 {"pattern": "lm_head", "wq": "int8"}]
        kept = self.keep(recipe=self.recipe(expert_tokens="all", overrides=named))
        self.check(kept, self.recipe("other.json", {"wq": "int3", "group_size": 32},
                                     named, expert_tokens="all"))

    def test_dense_model(self):
        model = FIXTURES / "llama"
        keywords = {"model": model, "calibration": model / "golden.h5", "samples": 0, "length": 0}
        kept = self.keep(**keywords)
        other = self.other_recipe()
        whole, reused = self.directory / "whole", self.directory / "reused"
        self.succeed(*quantize_arguments(whole, recipe=other, **keywords))
        self.succeed("quantize", "--model", model, "--config", other, "--hessians", kept, *ON_DEVICE, "--save",
                     reused, ranks=2)
        self.assertEqual(results(reused), results(whole))

    def test_resume_on_other_ranks(self):
        kept, save, recipe = self.keep(), self.directory / "run", self.other_recipe()
        self.succeed(*self.reuse_arguments(kept, save, recipe), ranks=2)
        before = results(save)
        for path in (save / "shards").glob("layer-0002*"):
            path.unlink()
        (save / "model.h5").unlink()
        self.succeed(*self.reuse_arguments(kept, save, recipe), "--calib", CALIBRATION, "--nsamples", 8,
                     "--seqlen", 64, "--resume", "require", ranks=3)
        self.assertEqual(results(save), before)

    def test_time(self):
        """Printed, not judged: how much of a whole run is left."""
        sizes = {"samples": 64, "length": 256}
        kept, recipe = self.keep(**sizes), self.other_recipe()
        seconds = {}
        for name, arguments in (
                ("whole", quantize_arguments(self.directory / "whole", recipe=recipe, **sizes)),
                ("reused", self.reuse_arguments(kept, self.directory / "reused", recipe))):
            figures = self.directory / "figures.json"
            self.succeed(*arguments, "--json", figures)
            seconds[name] = json.loads(figures.read_text())["total_seconds"]
        print(f"\nfrom kept Hessians: {seconds['reused']:.2f} s, whole run {seconds['whole']:.2f} s, "
              f"ratio {seconds['reused'] / seconds['whole']:.3f}")


class Refused(HessiansBase):
    def setUp(self):
        super().setUp()
        self.save = self.directory / "run"

    def refuse(self, code, words, kept, *further, recipe=None, ranks=0):
        done = run(*self.reuse_arguments(kept, self.save, recipe or self.recipe()), *further, ranks=ranks)
        self.assertEqual(done.returncode, code, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertFalse(self.save.exists())

    def test_orders_that_depend_on_the_recipe(self):
        for mode in ("stage", "layer"):
            kept = self.keep(mode, recipe=self.recipe(sequential=mode))
            self.refuse(3, [f"sequential '{mode}'", "depend on the recipe"], kept)

    def test_another_calibration(self):
        kept = self.keep()
        self.refuse(3, ["routing_exponent: '1' there, '0' now"], kept,
                    recipe=self.recipe(routing_exponent=0))
        self.refuse(3, ["expert_tokens: 'routed' there, 'all' now"], kept,
                    recipe=self.recipe(expert_tokens="all"))
        self.refuse(3, ["starved: 'all_tokens below 32 tokens' there", "below 33"], kept,
                    recipe=self.recipe(min_tokens=33))
        self.refuse(3, ["starved: ", "'rtn below 32 tokens' now"], kept, recipe=self.recipe(starved="rtn"))
        self.refuse(3, ["lanes: '8' there, '4' now"], kept, "--lanes", 4)
        self.refuse(3, ["sequences: '8' there, '4' now"], kept, "--nsamples", 4)
        self.refuse(3, ["tokens: '"], kept, "--calib", CALIBRATION, "--nsamples", 8, "--seqlen", 32)
        with h5py.File(self.directory / "tokens.h5", "w") as file:
            file["tokens"] = np.ones((8, 64), np.int32)
        self.refuse(3, ["tokens: '"], kept, "--calib", self.directory / "tokens.h5")

    def test_another_model(self):
        kept = self.keep()
        done = run("quantize", "--model", FIXTURES / "olmoe", "--config", self.recipe(), "--hessians",
                   kept, "--save", self.save)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("model: '", done.stderr)

    def test_sums_that_are_not_there(self):
        rounded = self.recipe("rounded.json", overrides=[{"pattern": "*.o_proj", "method": "rtn"}])
        kept = self.keep(recipe=rounded)
        self.refuse(3, ["model.layers.0.self_attn.o_proj", "by gptq"], kept, ranks=2)
        plain = self.directory / "plain"
        self.succeed(*quantize_arguments(plain, recipe=self.recipe(), samples=8))
        self.refuse(3, ["Hessians of layer 0 were not kept", "--keep-hessians"], plain)
        self.refuse(3, ["manifest.json"], self.directory)
        (kept / "hessians" / "layer-0001.rank-0000.h5").unlink()
        self.refuse(3, ["layer-0001.rank-0000.h5"], kept, recipe=rounded)

    def test_damaged_files(self):
        kept = self.keep(ranks=0)
        path = kept / "hessians" / "layer-0000.rank-0000.h5"
        whole = path.read_bytes()
        name = "model.layers.0.mlp.experts.5.down_proj"

        def changed(change, signed, *arguments):
            path.write_bytes(whole)
            with h5py.File(path, "r+") as file:
                group = file["hessians"][name]
                change(group)
                if signed:
                    group.attrs["checksum"] = np.bytes_(checksum(group))
            return run(*self.reuse_arguments(kept, self.save, self.recipe()), *arguments)

        def damage(words, change, signed=True):
            done = changed(change, signed)
            self.assertEqual(done.returncode, 3, done.stderr)
            for word in ["layer-0000.rank-0000.h5", name, *words]:
                self.assertIn(word, done.stderr)
            shutil.rmtree(self.save, ignore_errors=True)

        def shorten(group):
            upper = group["upper"][:-1]
            del group["upper"]
            group["upper"] = upper

        def set_value(group, place, value):
            group["upper"][place] = value

        # A sum that overflowed is kept as it is: its matrix falls back, as in the run that summed it.
        for overflow in (lambda group: set_value(group, 2, np.nan),
                         lambda group: group.attrs.modify("weight_sum", np.inf)):
            done = changed(overflow, True, "--max-fallbacks", "0")
            self.assertEqual(done.returncode, 4, done.stderr)
            self.assertRegex(done.stderr, rf"{name}.*not finite")
            shutil.rmtree(self.save, ignore_errors=True)
        damage(["checksum", "--keep-hessians"], lambda group: set_value(group, 2, 7.5), signed=False)
        damage(["[0, 0] is -1"], lambda group: set_value(group, 0, -1))
        damage(["shape"], shorten)
        damage(["tokens"], lambda group: group.attrs.modify("tokens", -3))
        damage(["share an input"], lambda group: group.attrs.create("used_by", np.array([name, "x"], "S99")))
        damage(["used_by"], lambda group: group.attrs.create("used_by", np.array(["x"], "S9")))
        path.write_bytes(whole[:len(whole) // 2])
        done = run(*self.reuse_arguments(kept, self.save, self.recipe()))
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("layer-0000.rank-0000.h5", done.stderr)

    def test_command_line(self):
        kept = self.keep()
        self.refuse(2, ["--keep-hessians"], kept, "--keep-hessians")
        done = run(*self.reuse_arguments(kept, kept, self.recipe()))
        self.assertEqual(done.returncode, 2, done.stderr)
        done = run("quantize", "--model", EXAMPLE, "--config", self.recipe(), "--save", self.save)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("--calib", done.stderr)


if __name__ == "__main__":
    unittest.main()
