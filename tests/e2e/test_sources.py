"""Ranks that were told or see something else, and runs whose checkpoint changed between stop and resume."""

import json
import os
import shutil
import subprocess
import unittest

import h5py
from program import (CALIBRATION, EVALUATION, EXAMPLE, MPIRUN, RECIPE, ProgramTest, command, environment, quantize_arguments,
                     results, run)


def tensor_places(path):
    """Name -> (first, last) byte of each tensor in a safetensors file."""
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:8 + size])
    return {name: [8 + size + at for at in entry["data_offsets"]] for name, entry in header.items() if name != "__metadata__"}


class Sources(ProgramTest):
    def copy_model(self, name, change=None, keep_times=False):
        """A copy with the first byte of one tensor changed."""
        copy = self.directory / name
        shutil.copytree(EXAMPLE, copy)
        if change:
            self.change(copy, change, keep_times)
        return copy

    @staticmethod
    def change(model, tensor, keep_times=False):
        """One bit of the lowest byte of the tensor's first element."""
        path = next(path for path in sorted(model.glob("*.safetensors")) if tensor in tensor_places(path))
        times = path.stat()
        with open(path, "r+b") as file:
            file.seek(tensor_places(path)[tensor][0])
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))
        if keep_times:
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def run_ranks(self, *lines, environments=()):
        """One rank a command line."""
        job = list(MPIRUN)
        for number, line in enumerate(lines):
            extra = [word for pair in (environments[number] if environments else {}).items() for word in ("-x", "=".join(pair))]
            job += ([":"] if number else []) + ["-n", "1", *extra, *line]
        return subprocess.run(job, env=environment(), capture_output=True, text=True, timeout=120, check=False)

    def refused(self, done, *words):
        self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
        for word in ("rank ", " on ", *words):
            self.assertIn(word, done.stderr)

    def test_ranks_that_quantize_otherwise(self):
        save = self.directory / "run"
        same = command(*quantize_arguments(save))
        other_recipe = self.write_recipe(default={"wq": "int3", "group_size": 32})
        tokens = self.directory / "tokens.h5"
        shutil.copy(CALIBRATION, tokens)
        with h5py.File(tokens, "r+") as file:
            file["tokens"][15, 63] = (file["tokens"][15, 63] + 1) % 128
        model = self.copy_model("other", change="model.layers.1.mlp.experts.5.down_proj.weight")
        for field, line in {
                "recipe": command(*quantize_arguments(save, recipe=other_recipe)),
                "tokens": command(*quantize_arguments(save, calibration=tokens)),
                "checkpoint file": command(*quantize_arguments(save, model=model)),
                "--lanes": same + ["--lanes", "8"],
                "--memory": same + ["--memory", "1GiB"],
                "--nsamples": command(*quantize_arguments(save, samples=8)),
                "settings": same + ["--damping", "0.02"],
                "--keep-hessians": same + ["--keep-hessians"],
                "--strict": same + ["--strict"],
        }.items():
            for ranks in ((same, line), (line, same)):
                with self.subTest(field, first=ranks[0] is line):
                    self.refused(self.run_ranks(*ranks), field)
                    self.assertFalse(save.exists())
        with self.subTest("numerics"):
            kernels = ({"OPENBLAS_CORETYPE": "HASWELL"}, {"OPENBLAS_CORETYPE": "SANDYBRIDGE"})
            self.refused(self.run_ranks(same, same, environments=kernels), "numerics")
        with self.subTest("majority"):
            self.refused(self.run_ranks(same + ["--lanes", "8"], same, same), "rank 0 on")
        with self.subTest("run directory"):
            other = self.directory / "elsewhere"
            self.succeed(*quantize_arguments(other))
            self.refused(self.run_ranks(same, command(*quantize_arguments(other))), "manifest.json in --save")

    def test_copies_are_the_same(self):
        """Node-local copies, of other times and at other paths, are no difference."""
        copy, tokens = self.copy_model("copy"), self.directory / "t.h5"
        shutil.copy(CALIBRATION, tokens)
        recipe = self.directory / "r.json"
        recipe.write_text(json.dumps(json.loads(RECIPE.read_text()), indent=3) + "\n")
        one, two = self.directory / "one", self.directory / "two"
        self.succeed(*quantize_arguments(one))
        done = self.run_ranks(command(*quantize_arguments(two)),
                              command(*quantize_arguments(two, model=copy, recipe=recipe, calibration=tokens)))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(results(two), results(one))

    def test_ranks_that_evaluate_or_merge_otherwise(self):
        runs = self.directory / "int4", self.directory / "int3"
        self.succeed(*quantize_arguments(runs[0]))
        self.succeed(*quantize_arguments(runs[1], recipe=self.write_recipe(default={"wq": "int3", "group_size": 32})))
        model = self.copy_model("other", change="model.layers.1.mlp.experts.5.down_proj.weight")
        same = ["eval", "--model", EXAMPLE, "--tokens", EVALUATION, "--max-windows", 4, "--quantized", runs[0]]

        def changed(at, value):
            return command(*same[:at], value, *same[at + 1:])
        for field, line in {"checkpoint file": changed(2, model), "tokens": changed(4, CALIBRATION), "--max-windows": changed(6, 3),
                            "--quantized": changed(8, runs[1])}.items():
            with self.subTest(field):
                self.refused(self.run_ranks(command(*same), line), field)
        self.refused(self.run_ranks(*(command("merge", path) for path in runs)), "manifest.json of the run")
        before = results(runs[0])
        (runs[0] / "model.h5").unlink()
        self.succeed("merge", runs[0], ranks=2)
        self.assertEqual(results(runs[0]), before)

    def forget(self, save, parts):
        """As if the run had been stopped after so many parts."""
        manifest = json.loads((save / "manifest.json").read_text())
        del manifest["complete"][parts:]
        (save / "manifest.json").write_text(json.dumps(manifest))

    def fresh(self, model):
        save = self.directory / "fresh"
        shutil.rmtree(save, ignore_errors=True)
        self.succeed(*quantize_arguments(save, model=model))
        return results(save)

    def test_resume_with_other_weights(self):
        """What read another tensor is done again with all behind it, whether times tell or not."""
        layers = json.loads((EXAMPLE / "config.json").read_text())["num_hidden_layers"]
        for number, (part, tensor) in enumerate({1: "model.layers.1.mlp.experts.5.down_proj.weight", 0: "model.layers.0.mlp.gate.weight",
                                                 2: "model.layers.2.self_attn.q_proj.weight"}.items()):
            with self.subTest(tensor):
                model, save = self.copy_model(f"m{number}"), self.directory / f"run{number}"
                self.succeed(*quantize_arguments(save, model=model), ranks=2)
                self.forget(save, layers - 1)
                self.change(model, tensor, keep_times=True)
                done = self.succeed(*quantize_arguments(save, model=model), "--resume", "require", ranks=3)
                self.assertIn(f"layer {part} was made from other weights: {tensor}", done.stderr)
                self.assertEqual(results(save), self.fresh(model))

    def test_finished_run(self):
        model, save = self.copy_model("m"), self.directory / "run"
        arguments = quantize_arguments(save, model=model)
        self.succeed(*arguments)
        before = results(save)
        self.assertIn("trusted and not read again", self.succeed(*arguments, "--resume", "require").stderr)
        # Other times, the same content: read again, and found to be so.
        for path in model.iterdir():
            os.utime(path)
        done = self.succeed(*arguments, ranks=2)
        self.assertIn("is the same now", done.stderr)
        self.assertEqual(results(save), before)
        self.assertIn("trusted", self.succeed(*arguments).stderr)
        tensor = "model.layers.1.mlp.experts.5.down_proj.weight"
        self.change(model, tensor)
        self.assertIn(f"other weights: {tensor}", self.succeed(*arguments).stderr)
        self.assertEqual(results(save), self.fresh(model))

    def test_kept_hessians(self):
        model, kept, save = self.copy_model("m"), self.directory / "kept", self.directory / "run"
        recipe = self.write_recipe(gptq={"sequential": "none"})
        self.succeed(*quantize_arguments(kept, model=model, recipe=recipe), "--keep-hessians")
        reuse = ["quantize", "--model", model, "--config", recipe, "--hessians", kept, "--save", save]
        self.succeed(*reuse, ranks=2)
        shutil.rmtree(save)
        tensor = "model.layers.0.mlp.experts.3.up_proj.weight"
        self.change(model, tensor, keep_times=True)
        done = run(*reuse, ranks=2)
        self.assertEqual(done.returncode, 3)
        self.assertIn(tensor, done.stderr)
        self.assertFalse(save.exists())


if __name__ == "__main__":
    unittest.main()
