"""allocate: what it measures beside eval, what it chooses beside all choices, and that its recipe does what it says."""

import itertools
import json
import signal
import unittest

import h5py
import numpy as np

from program import CALIBRATION, EXAMPLE, FIXTURES, ProgramTest, quantize_arguments, run, start
from exported_checkpoint import read_checkpoint  # program.py finds it

FORMATS = ("int2:32", "int3:32", "int4:32")
LENGTH = 64


def figures_of(unit, key):
    return [unit["formats"][name][key] for name in unit["formats"]]


class Allocate(ProgramTest):
    def allocate(self, *further, formats=FORMATS, save="runs", ranks=0, threads=1, model=EXAMPLE,
                 calibration=CALIBRATION, bits=3.5, samples=16, kl_samples=8):
        self.recipe, figures = self.directory / "recipe.json", self.directory / "figures.json"
        budget = ("--mean-bits", bits) if bits else ()
        self.done = self.succeed("allocate", "--model", model, "--calib", calibration, "--nsamples", samples, "--seqlen",
                                 LENGTH, "--kl-nsamples", kl_samples, "--compute", "fp32", "--formats", ",".join(formats), *budget,
                                 "--save", self.directory / save, "--out", self.recipe, "--json", figures, *further,
                                 ranks=ranks, threads=threads)
        return json.loads(figures.read_text())

    def check_best(self, figures, most):
        """Of all choices that take at most so many bits none loses less."""
        units = figures["units"]
        least = np.inf
        for choice in itertools.product(*(list(zip(figures_of(unit, "bits"), figures_of(unit, "loss")))
                                          for unit in units)):
            if sum(bits for bits, _ in choice) <= most:
                least = min(least, sum(loss for _, loss in choice))
        taken = [unit["formats"][unit["chosen"]] for unit in units]
        self.assertLessEqual(sum(one["bits"] for one in taken), most)
        self.assertAlmostEqual(sum(one["loss"] for one in taken), least, places=12)
        self.assertAlmostEqual(figures["loss"], least, places=12)
        return taken

    def test_kl_is_that_of_eval(self):
        """Of a model with one unit quantized beside the original, to the last bit."""
        figures = self.allocate()
        weights = sum(unit["weights"] for unit in figures["units"])
        self.check_best(figures, 3.5 * weights)
        for name, pattern, number_format in (("layer 1 experts", "*.layers.1.mlp.experts.*", "int3"),
                                             ("layer 3 attention", "*.layers.3.self_attn.*", "int2")):
            recipe = self.write("one.json", {"default": {"wq": "bf16"}, "gptq": {"sequential": "none"}, "overrides": [
                {"pattern": pattern, "wq": number_format, "group_size": 32}]})
            self.succeed(*quantize_arguments(self.directory / "one", recipe=recipe), "--resume", "never")
            scored = self.evaluate("--model", EXAMPLE, "--quantized", self.directory / "one")
            unit = next(unit for unit in figures["units"] if unit["name"] == name)
            entry = unit["formats"][number_format + ":32"]
            self.assertEqual(entry["loss"], scored["kl"])
            self.assertEqual(entry["loss_standard_error"], scored["kl_standard_error"])

    def write(self, name, value):
        path = self.directory / name
        path.write_text(json.dumps(value))
        return path

    def evaluate(self, *which):
        """What eval says of the sequences over which KL is measured."""
        tokens, figures = self.directory / "tokens.h5", self.directory / "eval.json"
        with h5py.File(CALIBRATION) as source, h5py.File(tokens, "w") as file:
            file["tokens"] = source["tokens"][:8, :LENGTH]
        self.succeed("eval", "--tokens", tokens, "--json", figures, *which)
        return json.loads(figures.read_text())

    def test_the_recipe_does_what_it_says(self):
        figures = self.allocate("--target", "vllm")
        self.assertIn("all in int3:32", self.done.stdout)
        self.succeed(*quantize_arguments(self.directory / "run", recipe=self.recipe), "--require-servable", "vllm",
                     "--export", self.directory / "served", "--json", self.directory / "run.json")
        self.assertAlmostEqual(json.loads((self.directory / "run.json").read_text())["mean_bits"],
                               figures["mean_bits"], places=9)
        # The export holds what was counted, and scores as the run does.
        counted = sum(path.stat().st_size for path in (self.directory / "served").glob("*.safetensors"))
        self.assertGreater(counted, figures["bytes"])
        self.assertLess(counted, figures["bytes"] * 1.1, "headers of a small model")
        of_run = self.evaluate("--model", EXAMPLE, "--quantized", self.directory / "run")
        served = self.evaluate("--model", self.directory / "served")
        self.assertEqual(served["mean_nll"], of_run["mean_nll"])
        # The report shows what each part loses.
        self.succeed("report", self.directory / "run", "--out", self.directory / "report.html", threads=0)
        self.assertIn("layer 0 attention: int2:32 0.", (self.directory / "report.html").read_text())

    def test_bytes_of_the_checkpoint(self):
        figures = self.allocate("--max-bytes", "1000000", bits=0)
        other = figures["bytes"] - sum(unit["formats"][unit["chosen"]]["bits"] for unit in figures["units"]) / 8
        self.check_best(figures, 8 * (1_000_000 - other) + 8)
        stored = sum(len(tensor.data) for name, tensor in read_checkpoint(EXAMPLE).items()
                     if not name.endswith("_proj.weight"))
        self.assertAlmostEqual(other, stored, delta=1)

    def test_the_same_on_any_ranks_and_in_any_passes(self):
        first = self.allocate(save="ranks-0")
        recipe = self.recipe.read_bytes()
        for ranks, further in ((2, ()), (3, ("--memory", "60MiB")), (4, ("--tokens-to-experts", "dispatch"))):
            self.assertEqual(self.allocate(*further, save=f"ranks-{ranks}", ranks=ranks), first)
            self.assertEqual(self.recipe.read_bytes(), recipe)
        self.assertIn("measured 24 of 24", self.allocate_anew("ranks-0", "--memory", "16MiB").stderr)
        self.assertEqual(self.recipe.read_bytes(), recipe)

    def allocate_anew(self, save, *further):
        for path in (self.directory / save).glob("*.losses.json"):
            path.unlink()
        self.allocate(*further, save=save)
        return self.done

    def test_what_is_there_is_used_again(self):
        first = self.allocate()
        self.assertIn("KL of 24 times", self.done.stderr)
        again = self.allocate(formats=reversed(FORMATS))
        self.assertNotIn("KL of", self.done.stderr)
        self.assertEqual(again["loss"], first["loss"])
        file = self.directory / "runs" / "int3-32.losses.json"
        known = json.loads(file.read_text())
        del known["kl"][next(name for name in known["kl"] if name.startswith("layer 2 experts"))]
        file.write_text(json.dumps(known))
        self.assertEqual(self.allocate(), first)
        self.assertIn("KL of 1 times", self.done.stderr)
        # Other targets have other parts; those that are the same are known.
        self.allocate("--target", "transformers")
        self.assertIn("KL of 3 times", self.done.stderr)
        self.assertEqual(self.allocate(), first)
        self.assertNotIn("KL of", self.done.stderr)
        # Another format takes the Hessians that are there, whichever run has them.
        self.allocate(formats=("bf16", "int2:64", "int4:32"), bits=9)
        self.assertIn("Hessians reused", self.done.stderr)
        self.assertNotIn("hessians      3", self.done.stderr)
        self.assertIn("KL of 8 times", self.done.stderr)
        # Other sequences are another measurement.
        self.allocate(kl_samples=4)
        self.assertIn("KL of 24 times", self.done.stderr)

    def test_other_sensitivities(self):
        uniform = self.allocate("--sensitivity", "uniform")
        self.assertFalse((self.directory / "runs").exists())
        alpha = self.allocate("--sensitivity", "alpha-hill", ranks=3)
        weights = read_checkpoint(EXAMPLE)
        every = sum(unit["weights"] for unit in uniform["units"])
        for one, other in zip(uniform["units"], alpha["units"]):
            layer, part = one["name"].split()[1:]
            alphas = [alpha_hill(tensor.values()) for name, tensor in weights.items()
                      if name.startswith(f"model.layers.{layer}.") and name.endswith("_proj.weight")
                      and ("self_attn" in name) == (part == "attention")]
            self.assertEqual(len(alphas), one["matrices"])
            for number_format in FORMATS:
                share = one["weights"] / every
                bits = one["formats"][number_format]["bits"] / one["weights"]
                self.assertAlmostEqual(one["formats"][number_format]["loss"], share * 4 ** -bits, places=9)
                self.assertAlmostEqual(other["formats"][number_format]["loss"] / (share * 4 ** -bits),
                                       np.mean(alphas), delta=1e-3)
        error = self.allocate("--sensitivity", "error")
        with h5py.File(self.directory / "runs" / "int2-32" / "model.h5") as file:
            stats = {name: json.loads(matrix.attrs["stats"]) for name, matrix in file["matrices"].items()}
        expected = sum(stats[f"model.layers.2.self_attn.{name}_proj"]["error"] for name in "qkvo")
        self.assertAlmostEqual(error["units"][4]["formats"]["int2:32"]["loss"], expected, places=9)
        expected = 0
        for name in ("gate", "up", "down"):
            of_name = [stats[f"model.layers.2.mlp.experts.{e}.{name}_proj"] for e in range(16)]
            tokens = np.array([one["tokens"] for one in of_name])
            expected += (tokens * [one["error"] for one in of_name]).sum() / tokens.sum()
        self.assertAlmostEqual(error["units"][5]["formats"]["int2:32"]["loss"], expected, places=9)

    def test_shared_experts_dense_layers_latents(self):
        model = FIXTURES / "deepseek_v3"
        figures = self.allocate(model=model, calibration=model / "golden.h5", formats=("int2:32", "int8:32"), bits=5,
                                samples=3, ranks=2)
        names = [unit["name"] for unit in figures["units"]]
        self.assertIn("layer 0 MLP", names)
        self.assertTrue(any("shared expert" in name for name in names))
        for unit in figures["units"]:
            low, high = figures_of(unit, "loss")
            self.assertGreater(low, high, unit["name"])
        self.succeed("inspect", model, "--recipe", self.recipe)

    def test_a_tied_head_costs_what_it_adds(self):
        """Untouched it is the embedding; quantized the export has both."""
        model = FIXTURES / "llama"
        recipe = self.write("head.json", {"default": {"wq": "bf16"}, "overrides": [{"pattern": "lm_head", "wq": "int8"}]})
        stored = sum(len(tensor.data) for tensor in read_checkpoint(model).values())
        found = []
        for formats, bits in ((("bf16",), 1), (("int8:32",), 9)):
            figures = self.allocate("--config", recipe, "--sensitivity", "uniform", formats=formats, bits=bits, model=model)
            found.append(figures["bytes"] - stored)
        self.assertEqual(found, [0, figures["units"][0]["formats"]["int8:32"]["bits"] // 8])

    def test_stopped_and_killed(self):
        """While KL is measured: nothing that was measured in a pass before is lost."""
        for sent, code in ((signal.SIGUSR1, 75), (signal.SIGKILL, -signal.SIGKILL)):
            save = self.directory / f"runs-{code}"
            arguments = ["allocate", "--model", EXAMPLE, "--calib", CALIBRATION, "--nsamples", 64, "--kl-nsamples", 64,
                         "--compute", "fp32", "--formats", "int2:32,int3:32", "--mean-bits", 3, "--memory", "100MiB",
                         "--save", save, "--out", self.directory / "recipe.json"]
            process = start(*arguments)
            for line in process.stdout:
                if line.startswith("measured"):
                    process.send_signal(sent)
            process.stdout.close()
            self.assertEqual(process.wait(timeout=60), code)
            self.assertFalse((self.directory / "recipe.json").exists())
            known = sum(len(json.loads(path.read_text())["kl"]) for path in save.glob("*.losses.json"))
            self.assertTrue(0 < known < 16, known)
            done = self.succeed(*arguments)
            self.assertIn(f"KL of {16 - known} times", done.stderr)
            (self.directory / "recipe.json").unlink()

    def test_a_base_recipe_keeps_its_say(self):
        recipe = self.write("base.json", {"default": {"wq": "int4", "symmetric": False},
                                          "overrides": [{"pattern": "*.layers.0.*", "skip": True},
                                                        {"pattern": "lm_head", "wq": "int8"}],
                                          "gptq": {"refine": 1}})
        figures = self.allocate("--config", recipe)
        self.assertEqual(figures["units"][0]["name"], "layer 1 attention")
        self.assertEqual(figures["units"][-1]["name"], "head")
        self.assertGreater(figures["units"][-1]["formats"]["int2:32"]["loss"], 0)
        done = self.succeed("inspect", EXAMPLE, "--recipe", self.recipe, "--json", self.directory / "inspect.json")
        linears = json.loads((self.directory / "inspect.json").read_text())["linears"]
        self.assertEqual(linears["model.layers.0.self_attn.q_proj"], "untouched", done.stdout)
        self.assertIn("asymmetric", linears["model.layers.1.self_attn.q_proj"])
        self.assertEqual(json.loads(self.recipe.read_text())["gptq"], {"refine": 1})

    def test_mistakes_are_told_before_any_work(self):
        flat = self.write("flat.json", {"model.layers.0.self_attn.q_proj": "int4"})
        mistakes = (
            (2, ("--formats", "int3,in4", "--mean-bits", 3.5), "did you mean 'int4'?"),
            (2, ("--formats", "int3,int3", "--mean-bits", 3.5), "stands there twice"),
            (2, ("--formats", "int3"), "--mean-bits"),
            (2, ("--formats", "int3", "--mean-bits", 3.5, "--max-bytes", "1GB"), "excludes"),
            (2, ("--formats", "int3:32,int4:32", "--mean-bits", 3.4), "3.500 bits a weight"),
            (2, ("--formats", "int3:32", "--max-bytes", "1000"), "with all other tensors"),
            (2, ("--formats", "fp6", "--mean-bits", 8, "--target", "vllm"), "none of the formats for layer 0 attention"),
            (2, ("--formats", "int4:32,int3:32", "--mean-bits", 4, "--target", "sglang"),
             "does not take int4:32 beside int3:32"),
            (2, ("--formats", "int3:64,fp6", "--mean-bits", 3.2, "--target", "vllm"), "that vllm takes for each part"),
            (2, ("--formats", "int3", "--mean-bits", 3.5, "--seqlen", 1), "one token predicts none"),
            (3, ("--formats", "int3", "--mean-bits", 3.5, "--save", flat), "flat.json"),
            (2, ("--formats", "int3", "--mean-bits", 3.5, "--config", flat), "flat plan"),
            (3, ("--formats", "int3", "--mean-bits", 3.5, "--out", self.directory / "no" / "recipe.json"),
             "its directory does not exist"),
        )
        for code, arguments, text in mistakes:
            with self.subTest(arguments=arguments):
                others = {"--out": self.directory / "recipe.json", "--save": self.directory / "runs"}
                others = [part for key, value in others.items() if key not in arguments for part in (key, value)]
                done = run("allocate", "--model", EXAMPLE, "--calib", CALIBRATION, "--nsamples", 8, *arguments, *others)
                self.assertEqual(done.returncode, code, done.stderr)
                self.assertIn(text, done.stderr)
                self.assertFalse((self.directory / "recipe.json").exists())
                self.assertFalse((self.directory / "runs").exists())
        done = run("allocate", "--model", EXAMPLE, "--formats", "int3", "--mean-bits", 4, "--out", "x.json")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--calib: it is required", done.stderr)


def alpha_hill(weight):
    values = np.linalg.svd(weight.astype(np.float64), compute_uv=False)[::-1] ** 2
    tail = min(max(10, len(values) // 10), len(values) - 1)
    return 1 + tail / np.log(values[-tail:] / values[-tail - 1]).sum()


if __name__ == "__main__":
    unittest.main()
