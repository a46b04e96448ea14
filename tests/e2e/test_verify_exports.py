"""`verify` on damaged exports: each damage is one finding of the right kind with the right name, and nothing else is
claimed."""

import json
import shutil
import unittest

from program import EXAMPLE, FIXTURES
from verification import (FIRST, MANIFEST, SECOND, Tensors, VerifyTest, drop, flip, flip_file, manifest, remove, tensors,
                          text)

NORM = "model.layers.2.input_layernorm.weight"
INDEX = "model.safetensors.index.json"
# what holds codes and scales, by format
CODES = {"compressed-tensors": "weight_packed", "gptq": "qweight", "bf16": "weight"}
SCALES = {"compressed-tensors": "weight_scale", "gptq": "scales"}


# ---- what damages an export

def swap(format):
    def change(stored):
        for part in {CODES[format], SCALES.get(format, CODES[format])}:
            first, second = stored[f"{FIRST}.{part}"], stored[f"{SECOND}.{part}"]
            first.data, second.data = second.data, first.data
    return change


def zeroed(format):
    def change(stored):
        tensor = stored[f"{FIRST}.{CODES[format]}"]
        tensor.data = (b"\0" if format == "bf16" else b"\x88") * len(tensor.data)
    return change


def stale_scale(format):
    def change(stored):
        stored[f"{FIRST}.{SCALES[format]}"].data = stored[f"{SECOND}.{SCALES[format]}"].data
    return change


def odd_metadata(directory):
    index = json.loads((directory / INDEX).read_text())
    (directory / INDEX).write_text(json.dumps({**index, "metadata": []}))


def misplaced(directory):
    index = json.loads((directory / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    index["weight_map"][NORM] = next(file for file in files if file != index["weight_map"][NORM])
    (directory / INDEX).write_text(json.dumps(index))


def doubled(stored):
    path = next(path for path in stored.files if NORM not in stored.files[path])
    stored.files[path][NORM] = stored[NORM]


def export_damages(format):
    codes = f"{FIRST}.{CODES[format]}"
    module = f"{FIRST}."
    size = "metadata.total_size"
    damages = {
        "a flipped byte": (tensors(flip(codes)), [("checksum", FIRST)]),
        "a missing matrix": (tensors(drop(module)), [("missing", FIRST)]),
        "swapped experts": (tensors(swap(format)), [("foreign", FIRST), ("foreign", SECOND)]),
        "swapped experts with their checksums": (tensors(swap(format), True), [("foreign", FIRST), ("foreign", SECOND)]),
        "a zeroed matrix": (tensors(zeroed(format)), [("zero", FIRST)]),
        "a zeroed matrix with its checksum": (tensors(zeroed(format), True), [("zero", FIRST)]),
        "a source tensor not carried over": (tensors(drop(NORM)), [("missing", NORM)]),
        "an index that names a wrong file": (misplaced, [("index", NORM)]),
        "a flipped byte in an untouched tensor": (tensors(flip(NORM)), [("untouched", NORM)]),
        "the same with its checksum": (tensors(flip(NORM), True), [("untouched", NORM)]),
        "a tensor twice": (tensors(doubled), [("twice", NORM)]),
        "a tensor too many": (tensors(lambda stored: next(iter(stored.files.values())).update(
            {FIRST + ".weight_scale_inv": stored[NORM]})),
                              [("index", FIRST + ".weight_scale_inv"), ("extra", FIRST + ".weight_scale_inv")]),
        "a total size": (text(INDEX, '"total_size": ', '"total_size": 1'), [("index", size)]),
        "metadata of an odd form": (odd_metadata, [("index", size)]),
        "no index": (remove(INDEX), [("missing", "")]),
        "a file too many": (lambda directory: (directory / "chat_template.jinja").write_text("x"),
                            [("extra", "chat_template.jinja", "")]),
        "weights too many": (lambda directory: (directory / "pytorch_model.bin").write_bytes(b"x"),
                             [("extra", "pytorch_model.bin", "")]),
        "a file missing": (remove("model-00002-of-00007.safetensors" if format != "bf16" else "model-00002-of-00014.safetensors"),
                           [("missing", "")]),
        "a flipped byte in a header": (lambda directory: flip_file(directory / "model-00001-of-00007.safetensors"
                                                                   if format != "bf16" else directory / "model-00001-of-00014.safetensors", 8),
                                       [("unreadable", "")]),
        "a flipped byte in a config": (text("config.json", '"rms_norm_eps": 1', '"rms_norm_eps": 3'), [("config", "rms_norm_eps")]),
        "a space more in a config": (text("config.json", "{", "{ "), [("config", "")]),
        "a config that is no JSON": (text("config.json", "{", "["), [("config", "")]),
        "a flipped byte in a companion": (lambda directory: flip_file(directory / "tokenizer.json", 100), [("untouched", "")]),
        "a companion missing": (remove("tokenizer.json"), [("missing", "")]),
        "the record changed": (text("aq-dist.json", '"format"', '"formaT"'), [("checksum", "")]),
        "the manifest changed": (text(MANIFEST, '"weight_error": 0.0', '"weight_error": 0.1'), [("unreadable", "")]),
        "a manifest that is no JSON": (text(MANIFEST, "{", "["), [("unreadable", "")], "--model", EXAMPLE),
        "a manifest with a scheme that is none": (
            manifest(lambda content: content["matrices"][FIRST]["scheme"].update(format="int99")), [("unreadable", MANIFEST, "")]),
        "no manifest": (remove(MANIFEST), [("missing", "")], "--model", EXAMPLE),
    }
    if format != "bf16":
        damages.update({
            "a flipped byte with its checksum": (tensors(flip(codes), True), [("error", FIRST)]),
            "a stale scale": (tensors(stale_scale(format)), [("scale", FIRST)]),
            "a stale scale with its checksum": (tensors(stale_scale(format), True), [("scale", FIRST)]),
        })
    if format == "compressed-tensors":
        damages.update({
            "another width": (text("config.json", '"num_bits": 4', '"num_bits": 8'), "config"),
            "nothing ignored": (text("config.json", '"ignore": [', '"ignore": [], "ignored": ['), "config"),
            "a pattern that is none": (text("config.json", r'"re:', r'"re:('), "config"),
        })
    if format == "gptq":
        damages.update({
            "another width": (text("config.json", '"bits": 4', '"bits": 8'), "config"),
            "a rule missing": (text("config.json", '"-:', '"-:x'), "config"),
            "the other version": (text("config.json", '"checkpoint_format": "gptq"', '"checkpoint_format": "gptq_v2"'),
                                  [("config", "quantization_config.checkpoint_format")]),
            "quantize_config.json": (text("quantize_config.json", '"bits": 4', '"bits": 8'), [("config", "")]),
            "groups": (tensors(lambda stored: flip(f"{FIRST}.g_idx", 0)(stored), True), [("code", FIRST)]),
            "zero points": (tensors(flip(f"{FIRST}.qzeros"), True), [("code", FIRST)]),
        })
    return damages


class Damaged(VerifyTest):
    def check_format(self, format):
        save = self.quantize(overrides=self.SKIPPED)
        self.check_damages(self.export(save, format, "--shard-size", "300KB"), export_damages(format))

    def test_compressed_tensors(self):
        self.check_format("compressed-tensors")

    def test_gptq(self):
        self.check_format("gptq")

    def test_bf16(self):
        self.check_format("bf16")

    def test_a_changed_source(self):
        model = self.directory / "model"
        shutil.copytree(EXAMPLE, model)
        save = self.quantize(overrides=self.SKIPPED, model=model)
        out = self.export(save, "compressed-tensors")
        stored = Tensors(model)
        for name in (f"{FIRST}.weight", NORM):
            flip(name)(stored)
        stored.write()
        found = self.verify(save, code=1)["findings"]
        self.assertEqual([(one["kind"], one["file"], one["object"]) for one in found],
                         [("source", "checkpoint", name) for name in sorted((f"{FIRST}.weight", NORM))])
        found = self.verify(out, code=1)["findings"]
        self.assertEqual([(one["kind"], one["object"]) for one in found], [("error", FIRST), ("untouched", NORM)])

    def test_files_that_came_later_or_look_like_a_run(self):
        model = self.directory / "model"
        shutil.copytree(EXAMPLE, model)
        (model / "manifest.json").write_text("{}")
        out = self.export(self.quantize(overrides=self.SKIPPED, model=model), "compressed-tensors")
        self.assertTrue((out / "manifest.json").is_file())
        self.assertEqual(self.clean(out)["what"], "compressed-tensors")
        (model / "added.json").write_text("{}")
        (out / ".git").mkdir()
        (out / ".git" / "config").write_text("x")
        self.clean(out)
        (out / "added.json").write_text("{}")
        found = self.verify(out, code=1)["findings"]
        self.assertEqual([(one["kind"], one["file"]) for one in found], [("extra", "added.json")])

    def test_a_stale_scale_of_the_source(self):
        save = self.quantize({"wq": "int8", "group_size": "channel"}, (), FIXTURES / "qwen3_moe_fp8")
        out = self.export(save, "compressed-tensors")
        name = "model.layers.0.self_attn.q_proj.weight_scale_inv"
        stored = Tensors(out)
        next(iter(stored.files.values()))[name] = Tensors(FIXTURES / "qwen3_moe_fp8")[name]
        stored.write()
        found = self.verify(out, code=1)["findings"]
        self.assertEqual([(one["kind"], one["object"]) for one in found], [("extra", name)])


if __name__ == "__main__":
    unittest.main()
