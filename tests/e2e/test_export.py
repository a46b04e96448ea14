"""Runs exported as checkpoints, read back by numpy alone: every weight, what the configuration says of it, and
everything else that the source holds."""

import contextlib
import json
import os
import shutil
import signal
import time
import unittest
from pathlib import Path

import h5py
import numpy as np

from program import CALIBRATION, EXAMPLE, FIXTURES, ProgramTest, digest, model_arguments, quantize_arguments, run, start
from exported_checkpoint import ExportedCheckpoint, decode_mxfp4, read_checkpoint, to_bf16
from matrix_file import dequantize

COMPRESSED, GPTQ, BF16 = "compressed-tensors", "gptq", "bf16"
INT4 = {"wq": "int4", "group_size": 32}
SERVED = ["int2", "int3", "int4", "int5", "int6", "int7", "int8", "fp8", "mxfp4", "mxfp8", "nvfp4"]
EVERY = SERVED + ["fp4", "fp6", "fp6_e2m3", "fp8_e5m2", "mxfp6", "mxfp8_e5m2"]
SKIPPED = {"pattern": "model.layers.0.*", "skip": True}


def per_expert(formats):
    """One format after the other, an expert each."""
    return [{"pattern": f"*.experts.{number}.*", "wq": name} for number, name in enumerate(formats)]


MIXED = [{"pattern": "*.self_attn.*", "wq": "int8", "group_size": "channel"}, {"pattern": "*.1.mlp.experts.*", "wq": "int8"},
         SKIPPED]
# name -> default, overrides, formats; all of the example
RECIPES = {
    "one format": (INT4, [], (COMPRESSED, GPTQ)),
    "the head too": (INT4, [{"pattern": "lm_head", "wq": "int8"}], (COMPRESSED, GPTQ)),
    "zero points": ({"wq": "int3", "group_size": 32, "symmetric": False},
                    [{"pattern": "*.o_proj", "wq": "int4", "group_size": "channel", "symmetric": False}], (COMPRESSED, GPTQ)),
    "by module and layer": (INT4, MIXED, (COMPRESSED, GPTQ)),
    "by expert, integers": (INT4, per_expert(["int2", "int3", "int8", "bf16"]), (COMPRESSED, GPTQ)),
    "by expert": (INT4, per_expert(SERVED) + [{"pattern": "*.2.mlp.experts.[0-6].*", "group_size": 32, "symmetric": False},
                                              {"pattern": "*.3.mlp.experts.[0-7].*", "group_size": "tensor"},
                                              {"pattern": "*.experts.12.up_proj", "skip": True},
                                              {"pattern": "*.experts.[1357].*", "scale_dtype": "fp32"},
                                              {"pattern": "*.o_proj", "scale_dtype": "fp16"}], (COMPRESSED,)),
    "activations": ({"wq": "int8", "group_size": "channel", "aq": "int8", "aq_group_size": "token"},
                    [{"pattern": "*.q_proj", "wq": "fp8", "group_size": "channel", "aq": "fp8", "aq_group_size": "token"},
                     {"pattern": "*.experts.*", "wq": "mxfp4", "aq": "mxfp8"}], (COMPRESSED,)),
    "everything": (INT4, per_expert(EVERY[:16]) + [{"pattern": "*.o_proj", "wq": EVERY[16]}, SKIPPED], (BF16,)),
}


class ExportTest(ProgramTest):
    def quantize(self, model=EXAMPLE, default=None, overrides=(), name="run"):
        save, recipe = self.directory / name, self.write_recipe(default=default or INT4, overrides=overrides)
        example = model == EXAMPLE
        self.succeed(*quantize_arguments(save, model, recipe, CALIBRATION if example else model / "golden.h5",
                                         4 if example else 0, 32 if example else 0), "--min-tokens", 4)
        return save

    def export(self, save, *further, format=COMPRESSED, name=None, model=None, ranks=0):
        out = self.directory / (name or f"{save.name} {format}")
        described = model_arguments(model)[2:] if model else []
        self.succeed("export", save, "--out", out, "--format", format, *described, *further, ranks=ranks)
        return out

    def nll(self, *arguments, ranks=0):
        figures = self.directory / "eval.json"
        self.succeed("eval", *arguments, "--tokens", CALIBRATION, "--max-windows", 3, "--json", figures, ranks=ranks)
        return json.loads(figures.read_text())["mean_nll"]

    def assert_same(self, found, expected, name):
        self.assertEqual(found.shape, expected.shape, name)
        self.assertEqual(found.tobytes(), np.ascontiguousarray(expected, found.dtype).tobytes(), name)

    def matrices(self, save):
        with h5py.File(save / "model.h5") as file:
            return {name: dequantize(group) for name, group in file["matrices"].items()}

    def check_weights(self, out, matrices):
        """Each matrix as the configuration says, and no other module."""
        exported = ExportedCheckpoint(out)
        self.assertEqual(exported.quantized(), set(matrices))
        for name, values in matrices.items():
            self.assert_same(exported.decode(name), values, name)
        for name in exported.plain():
            self.assertIsNone(exported.settings(name), name)
        return exported

    def check_untouched(self, tensors, source, gone):
        """All tensors of the source but those whose names begin so are the same."""
        for name, tensor in source.items():
            if not name.startswith(tuple(gone)):
                self.assertTrue(tensors[name] == tensor, name)


class Weights(ExportTest):
    def check(self, name):
        default, overrides, formats = RECIPES[name]
        save = self.quantize(default=default, overrides=overrides)
        matrices, source = self.matrices(save), read_checkpoint(EXAMPLE)
        gone = tuple(f"{module}." for module in matrices)
        for format in formats:
            out = self.export(save, format=format)
            exported = ExportedCheckpoint(out)
            self.check_untouched(exported.tensors, source, gone)
            if format == BF16:
                self.assertIsNone(exported.quantization)
                self.assertEqual(set(exported.tensors), set(source))
                for module, values in matrices.items():
                    tensor = exported.get(module, "weight")
                    self.assertEqual((tensor.dtype, tensor.shape), ("BF16", values.shape))
                    self.assertEqual(tensor.data, to_bf16(values).tobytes(), module)
                continue
            self.check_weights(out, matrices)
            scored = self.nll("--model", EXAMPLE, "--quantized", save)
            for ranks in (0, 3):
                self.assertEqual(self.nll("--model", out, ranks=ranks), scored, "read back by the program itself")
            if name == "activations":
                self.check_activations(exported.quantization["config_groups"].values())
            others = {tensor for tensor in exported.tensors if not tensor.startswith(gone)}
            self.assertEqual(others, {tensor for tensor in source if not tensor.startswith(gone)})
            original = json.loads((EXAMPLE / "config.json").read_text())
            self.assertEqual({k: v for k, v in exported.config.items() if k != "quantization_config"}, original)
            if format == GPTQ:
                self.assertEqual(json.loads((out / "quantize_config.json").read_text()), exported.quantization)
                symmetric = exported.quantization["sym"]
                self.assertEqual(exported.quantization["checkpoint_format"], "gptq" if symmetric else "gptq_v2")
            for file in ("tokenizer.json", "tokenizer_config.json"):
                self.assertEqual(digest(out / file), digest(EXAMPLE / file))

    def check_activations(self, groups):
        found = {group["format"]: group["input_activations"] for group in groups}
        self.assertEqual(set(found), {"int-quantized", "float-quantized", "mxfp4-pack-quantized"})
        for name in ("int-quantized", "float-quantized"):
            self.assertEqual((found[name]["strategy"], found[name]["dynamic"]), ("token", True))

    def test_what_a_format_does_not_have_is_refused(self):
        save = self.quantize(default=INT4, overrides=per_expert(["int5", "mxfp4", "mxfp6"]))
        for format, words in ((COMPRESSED, ("4 of", "experts.2.", "mxfp6")), (GPTQ, ("experts.0.", "not 5"))):
            done = run("export", save, "--out", self.directory / "out", "--format", format)
            self.assertEqual(done.returncode, 2, done.stderr)
            for word in (*words[1:], "--format bf16"):
                self.assertIn(word, done.stderr)
            self.assertFalse((self.directory / "out").exists())
        half = self.quantize(overrides=[{"pattern": "*.o_proj", "symmetric": False}], name="half")
        done = run("export", half, "--out", self.directory / "out", "--format", GPTQ)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("o_proj", done.stderr)


class Sources(ExportTest):
    """Checkpoints that are stored otherwise."""

    def test_fp8_with_block_scales(self):
        for name in ("qwen3_moe_fp8", "deepseek_v3"):
            model = FIXTURES / name
            save = self.quantize(model, {"wq": "int8", "group_size": "channel"}, [SKIPPED], name=name)
            matrices, source = self.matrices(save), read_checkpoint(model)
            encoded = {tensor for tensor in source if tensor + "_scale_inv" in source}
            gone = tuple(f"{module}." for module in matrices) + tuple(encoded)
            for format in (COMPRESSED, BF16):
                out = self.export(save, format=format)
                exported = ExportedCheckpoint(out)
                self.check_untouched(exported.tensors, source, gone)
                self.assertFalse([tensor for tensor in exported.tensors if tensor.endswith("_scale_inv")])
                if format == COMPRESSED:
                    self.check_weights(out, matrices)
                else:
                    self.assertIsNone(exported.quantization)
                    for module, values in matrices.items():
                        self.assertEqual(exported.get(module, "weight").data, to_bf16(values).tobytes(), module)
                left = [tensor for tensor in encoded if tensor.removesuffix(".weight") not in matrices]
                self.assertTrue(left)
                self.assertEqual(any(".layers.3." in tensor for tensor in left), name == "deepseek_v3")  # MTP
                for tensor in left:
                    values = source[tensor].values()
                    scales = np.kron(source[tensor + "_scale_inv"].values(), np.ones((16, 16), np.float32))
                    expected = values * scales[:values.shape[0], :values.shape[1]]
                    self.assertEqual(exported.tensors[tensor].data, to_bf16(expected).tobytes(), tensor)

    def experts(self, source, prefix):
        """Values of the experts' linears and biases of a layer, out of the fused tensors of gpt_oss."""
        result = {}
        for fused, members in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))):
            bias = source[f"{prefix}.{fused}_bias"].values()
            if f"{prefix}.{fused}" in source:
                values = source[f"{prefix}.{fused}"].values().transpose(0, 2, 1)
            else:
                values = decode_mxfp4(source[f"{prefix}.{fused}_blocks"], source[f"{prefix}.{fused}_scales"])
            for at, member in enumerate(members):
                for expert in range(len(values)):
                    part = slice(at, None, len(members))
                    result[f"{prefix}.{expert}.{member}"] = values[expert, part], bias[expert, part]
        return result

    def test_transposed_experts_with_biases(self):
        overrides = [{"pattern": "*.experts.2.*", "skip": True}, {"pattern": "*.1.mlp.experts.*", "skip": True},
                     {"pattern": "*.1.mlp.experts.3.[du]*", "skip": False}]
        for name in ("gpt_oss", "gpt_oss_mxfp4"):
            model = FIXTURES / name
            save = self.quantize(model, {"wq": "int4", "group_size": 8}, overrides, name=name)
            matrices, source = self.matrices(save), read_checkpoint(model)
            fused = tuple(f"model.layers.{layer}.mlp.experts." for layer in range(2))
            linears = {k: v for prefix in fused for k, v in self.experts(source, prefix.removesuffix(".")).items()}
            out = self.export(save)
            exported = self.check_weights(out, matrices)
            self.check_untouched(exported.tensors, source, fused + tuple(f"{m}.weight" for m in matrices))
            stored = {tensor for tensor in exported.tensors if tensor.startswith(fused)}
            expected = {f"{module}.{end}" for module in linears for end in
                        ["bias"] + (["weight_packed", "weight_scale", "weight_shape"] if module in matrices else ["weight"])}
            self.assertEqual(stored, expected)
            for module, (values, bias) in linears.items():
                self.assert_same(exported.get(module, "bias").values(), bias, module)
                if module not in matrices:
                    self.assert_same(exported.get(module, "weight").values(), values, module)
            self.assertIn("which the source has in one tensor", self.succeed("export", save, "--out", out).stdout)
            exported = ExportedCheckpoint(self.export(save, format=BF16))
            self.assertIsNone(exported.quantization)
            again = self.experts(exported.tensors, fused[0].removesuffix("."))
            again.update(self.experts(exported.tensors, fused[1].removesuffix(".")))
            for module, (values, bias) in again.items():
                expected = matrices.get(module, linears[module][0])
                self.assertEqual(to_bf16(values).tobytes(), to_bf16(expected).tobytes(), module)
                self.assert_same(bias, linears[module][1], module)
            self.assertEqual({tensor for tensor in exported.tensors if tensor.startswith(fused)},
                             {prefix + end for prefix in fused for end in
                              ("gate_up_proj", "down_proj", "gate_up_proj_bias", "down_proj_bias")})

    def test_stacked_experts(self):
        model = FIXTURES / "qwen3_moe"
        save = self.quantize(model, {"wq": "int8", "group_size": 8}, [{"pattern": "*.experts.2.*", "skip": True}])
        matrices, source = self.matrices(save), read_checkpoint(model)
        exported = self.check_weights(self.export(save), matrices)
        self.assertFalse([tensor for tensor in exported.tensors if tensor.endswith(("gate_up_proj", "experts.down_proj"))])
        exported = ExportedCheckpoint(self.export(save, format=BF16))
        self.assertEqual({k: v.shape for k, v in exported.tensors.items()}, {k: v.shape for k, v in source.items()})
        for layer in range(2):
            prefix = f"model.layers.{layer}.mlp.experts"
            both, was = (tensors[f"{prefix}.gate_up_proj"].values() for tensors in (exported.tensors, source))
            for expert in range(8):
                parts = [matrices.get(f"{prefix}.{expert}.{end}_proj") for end in ("gate", "up")]
                expected = was[2] if expert == 2 else np.concatenate(parts)
                self.assertEqual(to_bf16(both[expert]).tobytes(), to_bf16(expected).tobytes())

    def test_a_tied_head_becomes_a_tensor_of_its_own(self):
        model = FIXTURES / "llama3"
        save = self.quantize(model, {"wq": "int8", "group_size": 16}, [{"pattern": "lm_head", "wq": "int8"}])
        for format in (COMPRESSED, BF16):
            exported = ExportedCheckpoint(self.export(save, format=format))
            self.assertIs(exported.config["tie_word_embeddings"], False)
            self.assertTrue(exported.get("model.embed_tokens", "weight") ==
                            read_checkpoint(model)["model.embed_tokens.weight"])
        self.assertEqual(exported.get("lm_head", "weight").data, to_bf16(self.matrices(save)["lm_head"]).tobytes())

    def test_own_names(self):
        model = FIXTURES / "renamed"
        save = self.quantize(model, {"wq": "int8", "group_size": 8}, [{"pattern": "*.experts.[0-3].*", "wq": "int4"}])
        self.check_weights(self.export(save, model=model), self.matrices(save))


class Directory(ExportTest):
    def files(self, out):
        return {path.relative_to(out): digest(path) for path in sorted(out.rglob("*")) if path.is_file()}

    def test_the_same_files_on_any_number_of_ranks(self):
        save = self.quantize(default=INT4, overrides=MIXED)
        for format, numbers in ((COMPRESSED, (0, 1, 2, 4)), (GPTQ, (0, 3)), (BF16, (0, 4))):
            outs = [self.export(save, "--shard-size", "100KB", format=format, name=f"{format}-{ranks}", ranks=ranks)
                    for ranks in numbers]
            files = [self.files(out) for out in outs]
            self.assertGreater(len(files[0]), 8)
            for other in files[1:]:
                self.assertEqual(other, files[0])
            whole, cut = read_checkpoint(self.export(save, format=format, name=f"{format}-whole")), read_checkpoint(outs[0])
            self.assertEqual(set(cut), set(whole))
            for name, tensor in whole.items():
                self.assertTrue(cut[name] == tensor, name)
            self.assertTrue(all(path.stat().st_size < 200_000 for path in outs[0].glob("*.safetensors")))

    def test_other_files_are_carried_over(self):
        """From a cache of links too; weights in other formats and hidden files are not."""
        model, blobs = self.directory / "snapshot", self.directory / "blobs"
        blobs.mkdir()
        shutil.copytree(EXAMPLE, model)
        (model / "code").mkdir()
        for name in ("code/modeling.py", "chat_template.jinja", "pytorch_model.bin", ".gitattributes"):
            (model / name).write_text(name, encoding="utf-8")
        for number, path in enumerate(sorted(path for path in model.rglob("*") if path.is_file())):
            path.rename(blobs / str(number))
            path.symlink_to(os.path.relpath(blobs / str(number), path.parent))
        save, out = self.directory / "run", self.directory / "out"
        self.succeed(*quantize_arguments(save, model, calibration=CALIBRATION))
        told = self.succeed("export", save, "--out", out).stdout
        self.assertIn("pytorch_model.bin of the source was not carried over", told)
        for name in ("code/modeling.py", "chat_template.jinja", "tokenizer.json", "README.md"):
            self.assertEqual((out / name).read_bytes(), (model / name).read_bytes())
        self.assertFalse((out / "pytorch_model.bin").exists() or (out / ".gitattributes").exists())

    def test_a_killed_export_leaves_nothing_under_its_name(self):
        save = self.quantize()
        expected = self.files(self.export(save, "--shard-size", "1KB", name="whole"))
        out, partial = self.directory / "out", self.directory / "out.partial"
        for ranks in (0, 2):
            self.kill_in_the_middle(save, out, partial, ranks)
            self.assertFalse(out.exists())
            self.export(save, "--shard-size", "1KB", name="out")
            self.assertEqual(self.files(out), expected)
            self.assertFalse(partial.exists())
            shutil.rmtree(out)

    def kill_in_the_middle(self, save, out, partial, ranks):
        for count in (40, 10, 2, 1):  # shards that are there when it is killed
            process = start("export", save, "--out", out, "--shard-size", "1KB", ranks=ranks)
            while process.poll() is None and (not partial.exists() or len(os.listdir(partial)) < count):
                time.sleep(0.001)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            victims = [process.pid, *map(int, children.read_text().split() if ranks and process.poll() is None else [])]
            for victim in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            process.communicate()  # until no rank holds its output
            if process.returncode != 0 and partial.exists():
                return
            shutil.rmtree(out, ignore_errors=True)
        self.fail("the export was never killed in the middle")

    def refused(self, code, *arguments, words=(), ranks=0):
        done = run("export", *arguments, ranks=ranks)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)

    def test_what_is_there_stays(self):
        save = self.quantize()
        out = self.export(save)
        before = self.files(out)
        self.assertIn("complete already", self.succeed("export", save, "--out", out).stdout)
        self.refused(2, save, "--out", out, "--format", "gptq", words=["another export"])
        self.assertEqual(self.files(out), before)
        other = self.directory / "other"
        other.mkdir()
        (other / "mine").write_text("text")
        for ranks in (0, 2):
            self.refused(2, save, "--out", other, words=["exists already"], ranks=ranks)
        self.assertEqual(os.listdir(other), ["mine"])
        self.refused(2, save, "--out", self.directory / "new", "--format", "gtpq", words=["did you mean 'gptq'"])

    def test_runs_and_checkpoints_that_do_not_belong_together(self):
        save = self.quantize()
        changed = self.directory / "changed"
        shutil.copytree(EXAMPLE, changed)
        config = json.loads((EXAMPLE / "config.json").read_text())
        (changed / "config.json").write_text(json.dumps({**config, "rope_theta": 5000.0}))
        out = self.directory / "out"
        self.refused(3, save, "--out", out, "--model", changed, words=["another checkpoint"])
        self.refused(3, save, "--out", out, "--model", FIXTURES / "olmoe")
        self.refused(3, EXAMPLE, "--out", out, words=["not the directory of a run"])
        self.assertFalse(out.exists())
        moved = self.directory / "moved"
        shutil.copytree(EXAMPLE, moved)
        self.assertEqual(self.files(self.export(save, name="from moved", model=EXAMPLE)),
                         self.files(self.export(save, "--model", moved, name="from there")))


def add_tests():
    for name in RECIPES:
        def test(self, name=name):
            self.check(name)
        setattr(Weights, "test_" + name.replace(" ", "_").replace(",", ""), test)


add_tests()

if __name__ == "__main__":
    unittest.main()
