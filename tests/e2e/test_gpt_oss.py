"""gpt-oss in its own form: experts of a layer in MXFP4, one tensor of codes and one of scales, read back by numpy alone;
what does not fit into it, who serves it, and what `verify` finds in it."""

import json
import shutil
import unittest

import numpy as np

from program import FIXTURES, SOURCE, digest, quantize_arguments, run
from exported_checkpoint import ExportedCheckpoint, read_checkpoint, to_bf16, write_safetensors
from test_export import ExportTest
from verification import Tensors, VerifyTest, drop, flip, manifest, tensors, text

FORMAT = "gpt-oss"
RECIPE = SOURCE / "configs" / "gpt_oss_mxfp4.json"
MODEL = FIXTURES / "gpt_oss_mxfp4"  # 2 layers of 8 experts, width 64, hidden width 32
EXPERTS = "model.layers.{}.mlp.experts"
KEPT = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]


def wide_copy(directory):
    """The model with other experts, in bf16, [experts, inputs, outputs]."""
    shutil.copytree(MODEL, directory)
    source, random = ExportedCheckpoint(MODEL), np.random.default_rng(1)
    stored = {name: (tensor.dtype, np.frombuffer(tensor.data, np.uint16).reshape(tensor.shape))
              for name, tensor in source.tensors.items() if tensor.dtype == "BF16"}
    for name in source.tensors:
        if name.endswith("_blocks"):
            values = source.decode_fused(name.removesuffix("_blocks"))
            values += random.normal(0, 0.1, values.shape).astype(np.float32)
            stored[name.removesuffix("_blocks")] = "BF16", np.ascontiguousarray(to_bf16(values).transpose(0, 2, 1))
    write_safetensors(directory / "model.safetensors", stored)
    config = json.loads((MODEL / "config.json").read_text())
    del config["quantization_config"]
    (directory / "config.json").write_text(json.dumps(config))
    return directory


class GptOssTest(ExportTest):
    def quantize_own(self, model=MODEL, *further, name="run", recipe=RECIPE, ranks=0):
        save = self.directory / name
        self.succeed(*quantize_arguments(save, model, recipe, MODEL / "golden.h5", 0, 0), "--min-tokens", 4, *further,
                     ranks=ranks)
        return save

    def nll(self, *arguments, ranks=0):
        figures = self.directory / "eval.json"
        self.succeed("eval", *arguments, "--tokens", MODEL / "golden.h5", "--json", figures, ranks=ranks)
        return json.loads(figures.read_text())["mean_nll"]


class Export(GptOssTest):
    def check(self, model, name):
        save = self.quantize_own(model, name=name)
        matrices, source = self.matrices(save), read_checkpoint(model)
        self.assertEqual(len(matrices), 2 * 8 * 3)
        exported = self.check_weights(self.export(save, format=FORMAT), matrices)
        fused = {f"{EXPERTS.format(layer)}.{proj}" for layer in range(2) for proj in ("gate_up_proj", "down_proj")}
        gone = {tensor for proj in fused for tensor in (proj, proj + "_blocks", proj + "_scales")}
        self.assertEqual(set(exported.tensors), {tensor for tensor in source if tensor not in gone} |
                         {proj + end for proj in fused for end in ("_blocks", "_scales")})
        for tensor in set(source) - gone:
            self.assertTrue(exported.tensors[tensor] == source[tensor], tensor)  # biases too
        for layer in range(2):
            for proj, shape in (("gate_up_proj", (8, 128, 1)), ("down_proj", (8, 32, 2))):
                blocks, scales = (exported.get(EXPERTS.format(layer), proj + end) for end in ("_blocks", "_scales"))
                self.assertEqual((blocks.dtype, blocks.shape, scales.dtype, scales.shape), ("U8", (*shape, 16), "U8", shape))
        self.assertEqual(exported.quantization, {"quant_method": "mxfp4", "modules_to_not_convert": KEPT})
        original = json.loads((model / "config.json").read_text())
        for config in (original, exported.config):
            config.pop("quantization_config", None)
        self.assertEqual(exported.config, original)
        scored = self.nll("--model", model, "--quantized", save)
        for ranks in (0, 3):
            self.assertEqual(self.nll("--model", self.directory / f"{name} {FORMAT}", ranks=ranks), scored)
        return exported, scored

    def test_weights_of_bf16(self):
        model = wide_copy(self.directory / "model")
        self.assertNotEqual(self.check(model, "wide")[1], self.nll("--model", model))

    def test_weights_of_its_own_form(self):
        """They are rounded already and stay what they are, but that -0 becomes 0."""
        exported, _ = self.check(MODEL, "packed")
        source = ExportedCheckpoint(MODEL)
        for name in source.tensors:
            if name.endswith("_blocks"):
                values = [checkpoint.decode_fused(name.removesuffix("_blocks")) for checkpoint in (exported, source)]
                self.assertTrue((values[0] == values[1]).all(), name)

    def test_the_same_files_on_any_number_of_ranks(self):
        files = []
        for ranks in (0, 1, 3):
            at_once = self.directory / f"at once {ranks}"
            save = self.quantize_own(MODEL, "--export", f"{at_once}:{FORMAT}", name=f"run {ranks}", ranks=ranks)
            cut = self.export(save, "--shard-size", "10KB", format=FORMAT, name=f"cut {ranks}", ranks=ranks)
            self.assertEqual(read_checkpoint(cut), read_checkpoint(at_once))
            self.assertGreater(len(list(cut.glob("*.safetensors"))), 4)
            files.append([{path.relative_to(out): digest(path) for path in sorted(out.rglob("*")) if path.is_file()}
                          for out in (cut, at_once, self.export(save, format=FORMAT, name=f"whole {ranks}"))])
            self.assertEqual(files[-1][1], files[-1][2])
        self.assertEqual(files, files[:1] * 3)

    def refused(self, words, *arguments, ranks=0):
        done = run(*arguments, ranks=ranks)
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertEqual(done.stderr.count("error: "), 1, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)

    def test_what_does_not_fit_is_refused(self):
        first, remedy = f"{EXPERTS.format(0)}.0.", '"overrides": [{"pattern": "*.mlp.experts.*", "wq": "mxfp4"}]'
        experts = {"pattern": "*.mlp.experts.*", "wq": "mxfp4"}
        cases = {
            "attention": ([experts, {"pattern": "*.o_proj", "wq": "int8", "group_size": 8}],
                          ["2 matrices", "0.self_attn.o_proj: it holds routed experts alone"]),
            "another format": ([experts, {"pattern": "*.experts.0.down_proj", "wq": "int4"}],
                               [f"{first}down_proj: it has no int4"]),
            "inputs": ([{**experts, "aq": "mxfp8"}], ["48 matrices", f"{first}gate_proj: it has no quantized activations"]),
            "wide groups": ([experts, {"pattern": "*.1.mlp.experts.7.down_proj", "group_size": 64}],
                            [f"{EXPERTS.format(1)}.7.down_proj: it has no mxfp4 g64"]),
            "an expert untouched": ([experts, {"pattern": "*.1.mlp.experts.7.up_proj", "skip": True}],
                                    [f"{EXPERTS.format(1)}.7.up_proj: it is untouched"])}
        for number, (title, (overrides, words)) in enumerate(cases.items()):
            with self.subTest(title):
                recipe = self.write_recipe(default={"wq": "bf16"}, overrides=overrides)
                save, out = self.directory / f"run {number}", self.directory / "out"
                self.refused([*words, remedy], *quantize_arguments(save, MODEL, recipe, MODEL / "golden.h5", 0, 0),
                             "--export", f"{out}:{FORMAT}", ranks=2)
                self.assertFalse(save.exists())
                if title in ("attention", "an expert untouched"):
                    self.quantize_own(name=save.name, recipe=recipe)
                    self.refused([*words, remedy], "export", save, "--out", out, "--format", FORMAT)
                    self.assertFalse(out.exists())
        self.refused(["this model is olmoe", "--format compressed-tensors"], "export", self.quantize(), "--out", out, "--format",
                     FORMAT)

    def test_servers(self):
        figures = self.directory / "inspect.json"
        told = self.succeed("inspect", MODEL, "--recipe", RECIPE, "--json", figures).stdout
        self.assertRegex(told, r"vllm +yes with --format gpt-oss\n")
        for target, verdict in json.loads(figures.read_text())["servers"].items():
            served = target != "vllm-gptq"
            self.assertEqual((verdict["served"], verdict["format"]), (served, FORMAT if served else "gptq"))
            self.assertEqual(not served, bool(verdict["objections"]))
        # Everything in mxfp4: the nearest recipe leaves the attention as it is.
        recipe, out = self.write_recipe(default={"wq": "mxfp4"}), self.directory / "out"
        self.quantize_own(MODEL, "--snap", "vllm", "--require-servable", "sglang", "--export", f"{out}:{FORMAT}", recipe=recipe)
        self.assertEqual(len(ExportedCheckpoint(out).quantized()), 48)
        self.refused(["experts of gpt-oss are all mxfp4", "q_proj", "--snap vllm"], "inspect", MODEL, "--recipe", recipe,
                     "--require-servable", "vllm")


GATE_UP = f"{EXPERTS.format(1)}.gate_up_proj"
BLOCKS, SCALES = GATE_UP + "_blocks", GATE_UP + "_scales"
FIRST, SECOND = ([f"{EXPERTS.format(1)}.{expert}.{proj}_proj" for proj in ("gate", "up")] for expert in (5, 6))


def exchange(stored, name, first, second, copy=False):
    """Experts `first` and `second` of the tensor; with `copy` the second is written over the first."""
    data = bytearray(stored[name].data)
    size = len(data) // 8
    one, other = (slice(expert * size, (expert + 1) * size) for expert in (first, second))
    data[one], data[other] = data[other], data[other] if copy else data[one]
    stored[name].data = bytes(data)


def swap(stored):
    for name in (BLOCKS, SCALES):
        exchange(stored, name, 5, 6)


def swap_rows(stored):
    """gate and up of expert 5."""
    rows = np.frombuffer(stored[BLOCKS].data, np.uint8).reshape(8, 64, 2, 16).copy()
    rows[5] = rows[5, :, ::-1]
    stored[BLOCKS].data = rows.tobytes()


def stale(stored):
    exchange(stored, SCALES, 5, 6, copy=True)


def byte(name, at, value):
    def change(stored):
        data = bytearray(stored[name].data)
        data[at] = value
        stored[name].data = bytes(data)
    return change


def zeroed(stored):
    data = bytearray(stored[BLOCKS].data)
    data[5 * 2048:6 * 2048] = bytes(2048)
    stored[BLOCKS].data = bytes(data)


def plain_too(stored):
    next(iter(stored.files.values()))[GATE_UP] = Tensors(MODEL)["model.norm.weight"]


def sign_of_zero(directory):
    """Flips the sign of the first zero of all codes: no value changes."""
    stored = Tensors(directory)
    data = bytearray(stored[BLOCKS].data)
    at = next(at for at, pair in enumerate(data) if pair & 7 == 0)
    data[at] ^= 8
    stored[BLOCKS].data = bytes(data)
    stored.write()


def narrower(content):
    content["matrices"][FIRST[1]]["scheme"] = {"format": "int4", "symmetric": True, "group_size": 16, "scale_dtype": "bf16"}


def kinds(kind, *names):
    return [(kind, name) for name in names]


LINE = 5 * 2048 + 6 * 16  # of expert 5, row 6: its gate's row 3
BIAS = GATE_UP + "_bias"
# name -> damage, findings as (kind, object), or the kind of all
DAMAGES = {
    "a flipped byte": (tensors(flip(BLOCKS, LINE)), kinds("error", FIRST[0])),
    "a flipped byte with its checksum": (tensors(flip(BLOCKS, LINE + 16), True), kinds("error", FIRST[1])),
    "a flipped sign of zero": (sign_of_zero, kinds("checksum", BLOCKS)),
    "swapped experts": (tensors(swap), kinds("foreign", *FIRST, *SECOND)),
    "swapped experts with their checksums": (tensors(swap, True), kinds("foreign", *FIRST, *SECOND)),
    "gate for up": (tensors(swap_rows, True), kinds("foreign", *FIRST)),
    "stale scales": (tensors(stale), kinds("scale", *FIRST)),
    "stale scales with their checksum": (tensors(stale, True), kinds("scale", *FIRST)),
    "a scale that is no number": (tensors(byte(SCALES, 5 * 128 + 7, 255), True), kinds("scale", FIRST[1])),
    "a zeroed expert": (tensors(zeroed), kinds("zero", *FIRST)),
    "scales missing": (tensors(drop(SCALES)), kinds("missing", BLOCKS)),
    "a flipped byte of biases": (tensors(flip(BIAS)), kinds("untouched", BIAS)),
    "the bf16 tensor as well": (tensors(plain_too), kinds("index", GATE_UP) + kinds("extra", GATE_UP)),
    "a manifest of another scheme": (manifest(narrower), kinds("config", FIRST[1])),
    "another method": (text("config.json", '"mxfp4"', '"gpt-oss"'), "config"),
    "experts left out": (text("config.json", '"lm_head"', '"experts"'), "config"),
    "fewer left out": (text("config.json", '"lm_head"', '"lm"'), kinds("config", "")),
}


class Verify(GptOssTest, VerifyTest):
    def test_clean_and_damaged(self):
        for name, model in (("packed", MODEL), ("wide", wide_copy(self.directory / "model"))):
            save = self.quantize_own(model, name=name)
            self.clean(save)
            out = self.export(save, "--shard-size", "10KB", format=FORMAT)
            reports = [self.clean(out, "--model", model, ranks=ranks) for ranks in (0, 1, 3)]
            for report in reports:
                report.pop("seconds")
                self.assertEqual(report, reports[0])
            self.assertEqual((report["what"], report["matrices"]), (FORMAT, 48))
        self.check_damages(out, DAMAGES)


if __name__ == "__main__":
    unittest.main()
