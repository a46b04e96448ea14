"""Wrong command lines and damaged input: one clear error, the right exit code, nothing written."""

import json
import os
import shutil
import subprocess
import unittest
from pathlib import Path

import h5py
import numpy as np

from program import CALIBRATION, EVALUATION, EXAMPLE, RECIPE, ProgramTest, command, environment, quantize_arguments, run


class Errors(ProgramTest):
    def refuse(self, code, words, *arguments, ranks=0):
        done = run(*arguments, ranks=ranks, threads=1 if arguments and arguments[0] in COMMANDS else 0)
        self.assertEqual(done.returncode, code, f"{arguments}: {done.stdout}{done.stderr}")
        for word in words:
            self.assertIn(word, done.stderr)
        return done

    def copy_model(self):
        model = self.directory / "model"
        shutil.copytree(EXAMPLE, model)
        return model

    def change_config(self, model, **changes):
        path = model / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def write_tokens(self, tokens, name="tokens"):
        path = self.directory / "tokens.h5"
        with h5py.File(path, "w") as file:
            file[name] = tokens
        return path

    def test_command_line(self):
        save = self.directory / "run"
        self.refuse(2, ["subcommand"])
        self.refuse(2, ["--model"], "quantize")
        self.refuse(2, ["--treads"], *quantize_arguments(save), "--treads", "3")
        self.refuse(2, ["--memory", "lots"], *quantize_arguments(save), "--memory", "lots")
        self.refuse(2, ["--resume"], *quantize_arguments(save), "--resume", "maybe")
        self.refuse(2, ["--lanes", "power of two"], *quantize_arguments(save), "--lanes", 3)
        self.refuse(2, ["--window"], "eval", "--model", EXAMPLE, "--tokens", EVALUATION, "--window", 1)
        self.refuse(4, ["--memory", "needs"], *quantize_arguments(save), "--memory", "10K")
        self.assertFalse(save.exists())

    def test_memory(self):
        """Above what there is it is warned of; too little for a library is not a build without it."""
        done = run(*quantize_arguments(self.directory / "run"), "--memory", "1000000GiB")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr, r"warning: --memory .* a rank is more than the .*control group")
        told = []
        for mebibytes in (250, 400):
            line = ["sh", "-c", f'ulimit -v {mebibytes * 1024}; exec "$@"', "sh",
                    *command(*quantize_arguments(self.directory / "none"))]
            done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=60, check=False)
            self.assertNotEqual(done.returncode, 0)
            self.assertNotIn("AQ_BUILD_RUNTIME", done.stderr)
            told += [line for line in done.stderr.splitlines() if "libaq-pipeline.so" in line]
        self.assertTrue(any("ulimit -v" in line for line in told), told)

    def test_recipes(self):
        recipe = self.directory / "recipe.json"
        for text, words in (('{"default": {"wq": "int9"}}', ["int9", "wq"]),
                            ('{"default": {"wq": "int4",}}', ["recipe.json"]),
                            ('{"defualt": {}}', ["defualt", "default"]),
                            ('{"default": {"wq": "int4", "wq": "int3"}}', ["wq", "twice"]),
                            ('{"default": {"wq": "int4"}, "gptq": {"dampening": 1}}', ["dampening", "damping"])):
            recipe.write_text(text)
            self.refuse(2, words, *quantize_arguments(self.directory / "run", recipe=recipe))
        self.refuse(2, ["missing.json"], *quantize_arguments(self.directory / "run", recipe="missing.json"))
        recipe.write_text('{"default": {"wq": "int4"}, "overrides": [{"pattern": "*.w1", "wq": "int3"}]}')
        self.refuse(2, ["*.w1"], *quantize_arguments(self.directory / "run", recipe=recipe), "--strict")

    def test_models(self):
        def arguments(model):
            return ["eval", "--model", model, "--tokens", EVALUATION]

        self.refuse(3, ["allenai/OLMoE-1B-7B-0924", "download"], *arguments("allenai/OLMoE-1B-7B-0924"))
        model = self.copy_model()
        self.change_config(model, num_experts=17)
        self.refuse(3, ["config.json", "model.layers.0.mlp.gate.weight", "17"], *arguments(model))
        self.change_config(model, num_experts=16, model_type="acme", architectures=["AcmeForCausalLM"],
                           final_logit_softcapping=30.0)
        self.refuse(3, ["config.json", "final_logit_softcapping", "not known"], *arguments(model))
        self.refuse(2, ["hidden_size"], *arguments(model), "--assume-unused", "final_logit_softcapping",
                    "--assume-unused", "hidden_size")
        self.change_config(model, model_type="olmoe", final_logit_softcapping=None, num_hidden_layers=5)
        self.refuse(3, ["model.layers.4"], *arguments(model))
        self.change_config(model, num_hidden_layers=4)
        weights = model / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-5])
        self.refuse(3, ["model.safetensors"], *arguments(model))
        weights.write_bytes(whole[:20])
        self.refuse(3, ["model.safetensors"], *arguments(model))
        size = int.from_bytes(whole[:8], "little")
        at = 8 + size + 2 * 100000
        weights.write_bytes(whole[:at] + b"\xc0\x7f" + whole[at + 2:])  # a NaN
        self.refuse(3, ["model.safetensors", "model."], *quantize_arguments(self.directory / "run", model=model))

    def test_assume_unused(self):
        """A key that is not known is refused by every command, and recorded where the user lets it pass."""
        model = self.copy_model()
        self.change_config(model, final_logit_softcapping=30.0)
        recipe = self.write_recipe(default={"wq": "int4", "group_size": 32, "method": "rtn"})
        save = self.directory / "run"
        sizes = ["--config", recipe, "--nsamples", 2, "--seqlen", 8]
        commands = [["inspect", model],
                    ["eval", "--model", model, "--tokens", EVALUATION, "--max-windows", 1],
                    ["plan", "--model", model, *sizes],
                    ["plan", "--model", model / "config.json", *sizes],
                    quantize_arguments(save, model=model, recipe=recipe, samples=2)]
        for arguments in commands:
            self.refuse(3, ["config.json", "final_logit_softcapping"], *arguments)
            done = run(*arguments, "--assume-unused", "final_logit_softcapping")
            self.assertEqual(done.returncode, 0, f"{arguments}: {done.stdout}{done.stderr}")
            self.assertIn("final_logit_softcapping", done.stdout + done.stderr)
        manifest = json.loads((save / "manifest.json").read_text())
        self.assertEqual(manifest["configuration"]["assume_unused"], "final_logit_softcapping")

    def test_weights_that_are_not_finite(self):
        """In every kind of tensor, whoever reads it first: the error names file and tensor."""
        model = self.copy_model()
        weights = model / "model.safetensors"
        whole = weights.read_bytes()
        size = int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8:8 + size])
        rtn = self.write_recipe(default={"wq": "int4", "group_size": 32, "method": "rtn"})
        for name, bits, word in (("model.layers.3.mlp.experts.7.down_proj.weight", b"\xc0\x7f", "NaN"),
                                 ("model.layers.1.self_attn.k_proj.weight", b"\x80\xff", "infinite"),
                                 ("model.layers.2.mlp.gate.weight", b"\x80\x7f", "infinite"),
                                 ("model.layers.0.post_attention_layernorm.weight", b"\xc0\xff", "NaN")):
            at = 8 + size + header[name]["data_offsets"][1] - 2
            weights.write_bytes(whole[:at] + bits + whole[at + 2:])
            words = ["model.safetensors", name, word]
            self.refuse(3, words, "eval", "--model", model, "--tokens", EVALUATION, "--max-windows", 2)
            save = self.directory / "run"
            for recipe in (RECIPE, rtn):
                self.refuse(3, words, *quantize_arguments(save, model=model, recipe=recipe, samples=4), ranks=2)
                shutil.rmtree(save)
        name = "model.embed_tokens.weight"
        at = 8 + size + header[name]["data_offsets"][0]
        weights.write_bytes(whole[:at] + 512 * (127 * b"\x00\x00" + b"\xc0\x7f")
                            + whole[at + 512 * 256:])
        self.refuse(3, [name], "eval", "--model", model, "--tokens", EVALUATION, "--max-windows", 2)

    def test_tokens(self):
        def arguments(tokens):
            return quantize_arguments(self.directory / "run", calibration=tokens, samples=0, length=0)

        self.refuse(3, ["tokens.h5", "'tokens'"], *arguments(self.write_tokens(np.ones((4, 8), np.int32), "ids")))
        self.refuse(3, ["tokens.h5"], *arguments(self.write_tokens(np.ones(8, np.int32))))
        self.refuse(3, ["tokens.h5"], *arguments(self.write_tokens(np.ones((4, 8), np.float32))))
        self.refuse(3, ["tokens.h5", "512"], *arguments(self.write_tokens(np.full((4, 8), 512, np.int32))), ranks=2)
        self.refuse(3, ["tokens.h5", "-1"], *arguments(self.write_tokens(np.full((4, 8), -1, np.int32))))
        self.refuse(3, ["tokens.h5", "600"], *arguments(self.write_tokens(np.ones((4, 600), np.int32))))
        self.refuse(3, ["--nsamples 1000"], *quantize_arguments(self.directory / "run", samples=1000))
        (self.directory / "text.h5").write_text("no HDF5")
        self.refuse(3, ["text.h5"], *arguments(self.directory / "text.h5"))
        self.assertFalse((self.directory / "run").exists())

    def test_run_directories(self):
        self.refuse(3, ["status.json"], "status", self.directory)
        self.refuse(3, ["manifest.json"], "merge", self.directory)
        self.refuse(3, ["model.h5"], "eval", "--model", EXAMPLE, "--tokens", EVALUATION, "--quantized",
                    self.directory)
        (self.directory / "file").write_text("")
        self.refuse(3, ["file"], *quantize_arguments(self.directory / "file"))
        damaged = self.directory / "damaged"
        damaged.mkdir()
        (damaged / "manifest.json").write_text("{")
        self.refuse(3, ["manifest.json"], *quantize_arguments(damaged))

    @unittest.skipIf(os.geteuid() == 0, "root may write everywhere")
    def test_permission(self):
        self.directory.chmod(0o500)
        self.refuse(3, [str(self.directory)], *quantize_arguments(self.directory / "run"))
        self.directory.chmod(0o700)


class Inspect(ProgramTest):
    def test_checkpoint_recipe_and_tokens(self):
        recipe = self.write_recipe(overrides=[{"pattern": "*.down_proj", "wq": "int3"}])
        figures = self.directory / "inspect.json"
        done = self.succeed("inspect", EXAMPLE, "--recipe", recipe, "--tokens", CALIBRATION, "--json",
                            figures, ranks=2)
        for words in ("olmoe", "16, top-4", "gptq int4 g32", "gptq int3 g128", "untouched", "tokens per expert"):
            self.assertIn(words, done.stdout)
        self.assertEqual(done.stdout.count("architecture"), 1)
        counts = json.loads(figures.read_text())["expert_tokens"]
        self.assertEqual([sum(layer) for layer in counts], [128 * 256 * 4] * 4)

    def test_token_and_matrix_files(self):
        self.assertIn("128 sequences of 256", self.succeed("inspect", CALIBRATION).stdout)
        save = self.directory / "run"
        self.succeed(*quantize_arguments(save))
        self.assertIn("208: 208 int4 g32", self.succeed("inspect", save / "model.h5").stdout)
        self.assertIn("done, layer 4 of 4", self.succeed("inspect", save).stdout)

    def test_doctor_warns_of_a_slow_kernel(self):
        fitting = self.succeed("doctor")
        self.assertIn("BLAS kernel", fitting.stdout)
        slow = self.succeed("doctor", env={"OPENBLAS_CORETYPE": "PRESCOTT"})
        if "Prescott" in slow.stdout and " avx2 " in Path("/proc/cpuinfo").read_text(encoding="ascii"):
            self.assertIn("OPENBLAS_CORETYPE", slow.stdout)


COMMANDS = ("quantize", "eval", "merge", "status", "inspect", "doctor")

if __name__ == "__main__":
    unittest.main()
