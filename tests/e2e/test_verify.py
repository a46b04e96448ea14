"""`verify` on whole runs and exports, which are clean, and on damaged ones: each damage is one finding of the right kind
with the right name, and nothing else is claimed."""

import json
import re
import shutil
import struct
import unittest

import h5py
import numpy as np

from program import CALIBRATION, EXAMPLE, FIXTURES, ProgramTest, model_arguments, quantize_arguments, run
from exported_checkpoint import read_safetensors
from matrix_file import checksum, xxh64
from test_wrapped_checkpoints import read, renamed, write

EXPERT = "model.layers.1.mlp.experts.{}.up_proj"
FIRST, SECOND = EXPERT.format(5), EXPERT.format(6)
NORM = "model.layers.2.input_layernorm.weight"
FORMATS = ("compressed-tensors", "gptq", "bf16")
MANIFEST, INDEX = "aq-dist-manifest.json", "model.safetensors.index.json"
# what holds codes and scales, by format
CODES = {"compressed-tensors": "weight_packed", "gptq": "qweight", "bf16": "weight"}
SCALES = {"compressed-tensors": "weight_scale", "gptq": "scales"}


# ---- model.h5

def sign(group):
    """The checksum of what the group now holds."""
    group.attrs["checksum"] = np.bytes_(checksum(group))


def h5(change, signed=False, names=(FIRST,)):
    """Changes the matrices `names`, and their checksums where the damage is to be found by its values alone."""
    def damage(directory):
        with h5py.File(directory / "model.h5", "r+") as file:
            groups = [file["matrices"][name] for name in names]
            change(*groups)
            for group in groups if signed else ():
                sign(group)
    return damage


def flip_code(group):
    codes = group["codes"][:]
    codes[3, 2] ^= 1 << 9
    group["codes"][:] = codes


def exchange(first, second):
    for name in ("codes", "scales"):
        one, other = first[name][:], second[name][:]
        first[name][:], second[name][:] = other, one


def zero(group):
    group["codes"][:] = np.uint32(0x88888888)  # the middle of int4


def stale(group, other):
    group["scales"][:] = other["scales"][:]


def scale_of(bits):
    def change(group):
        scales = group["scales"][:]
        scales[1, 1] = bits
        group["scales"][:] = scales
    return change


def statistics(**changes):
    def change(group):
        group.attrs["stats"] = np.bytes_(json.dumps({**json.loads(group.attrs["stats"]), **changes}))
    return change


def without_matrix(directory):
    with h5py.File(directory / "model.h5", "r+") as file:
        del file["matrices"][FIRST]


def rename_run(path):
    with h5py.File(path, "r+") as file:
        file.attrs["tokens"] = np.bytes_("others")


def text(name, old, new):
    def damage(directory):
        path = directory / name
        content = path.read_text()
        assert content.count(old) >= 1, old
        path.write_text(content.replace(old, new, 1))
    return damage


def log_field(column, value):
    """Another value of FIRST's row in a column of the log."""
    def damage(directory):
        path = directory / "quant_log.csv"
        lines = path.read_text().splitlines()
        at = lines[0].split(",").index(column)
        for i, line in enumerate(lines):
            fields = line.split(",")
            if fields[0] == FIRST:
                assert fields[at] != value, value
                lines[i] = ",".join([*fields[:at], value, *fields[at + 1:]])
        path.write_text("\n".join(lines) + "\n")
    return damage


def end_of_log(damage):
    def cut(directory):
        path = directory / "quant_log.csv"
        path.write_text(damage(path.read_text()))
    return cut


def odd_attribute(directory):
    with h5py.File(directory / "model.h5", "r+") as file:
        del file.attrs["tokens"]
        file.attrs["tokens"] = [1, 2]


def remove(name):
    return lambda directory: (directory / name).unlink()


# name -> damage of the run, findings as (kind, object)
RUN_DAMAGES = {
    "a flipped byte": (h5(flip_code), [("checksum", FIRST)]),
    "a flipped byte with its checksum": (h5(flip_code, True), [("error", FIRST)]),
    "a missing matrix": (without_matrix, [("missing", FIRST)]),
    "a matrix too many": (h5(lambda group: group.parent.copy(group, "model.layers.0.self_attn.q_proj")),
                          [("extra", "model.layers.0.self_attn.q_proj")]),
    "swapped experts": (h5(exchange, names=(FIRST, SECOND)), [("foreign", FIRST), ("foreign", SECOND)]),
    "swapped experts with their checksums": (h5(exchange, True, (FIRST, SECOND)), [("foreign", FIRST), ("foreign", SECOND)]),
    "a zeroed matrix": (h5(zero), [("zero", FIRST)]),
    "a zeroed matrix with its checksum": (h5(zero, True), [("zero", FIRST)]),
    "a stale scale": (h5(stale, names=(FIRST, SECOND)), [("scale", FIRST)]),
    "a stale scale with its checksum": (h5(stale, True, (FIRST, SECOND)), [("scale", FIRST)]),
    "a scale that is no number": (h5(scale_of(0x7FC0), True), [("scale", FIRST)]),
    "a scale of zero": (h5(scale_of(0), True), [("scale", FIRST)]),
    "another error in the log": (text("quant_log.csv", FIRST + ",1,5,gptq,", FIRST + ",1,5,rtn,"), [("log", "quant_log.csv", FIRST)]),
    "a row of the log missing": (lambda directory: text("quant_log.csv", re.search(
        FIRST + ".*\n", (directory / "quant_log.csv").read_text())[0], "")(directory), [("log", FIRST)]),
    "another error with the matrix": (h5(statistics(weight_error=0.5), True), [("error", FIRST)]),
    "model.h5 of another run": (lambda directory: rename_run(directory / "model.h5"), [("foreign", "tokens")]),
    "no log": (remove("quant_log.csv"), [("missing", "")]),
    "no model.h5": (remove("model.h5"), [("missing", "")]),
    "model.h5 cut": (lambda directory: (directory / "model.h5").write_bytes(b"cut"), [("unreadable", "")]),
    "a planned matrix that the manifest does not list": (text("manifest.json", f'"{FIRST}",', ""), [
        ("missing", FIRST), ("extra", "model.h5", FIRST), ("extra", "quant_log.csv", FIRST)]),
    "no list of parts": (lambda directory: (directory / "manifest.json").write_text("{"), [("unreadable", "")], "--model", EXAMPLE),
    "another recipe": (text("manifest.json", r'\"group_size\": 32', r'\"group_size\": 64'), "shape"),
    **{f"another {column} in the log": (log_field(column, value), [("log", "quant_log.csv", FIRST)])
       for column, value in (("format", "int8"), ("symmetric", "false"), ("group_size", "64"), ("scale_dtype", "fp32"), ("rows", "1"),
                             ("columns", "1"), ("bits", "4"), ("weight_error", ""), ("fallback", "rtn"))},
    "a row of the log cut short": (lambda directory: text("quant_log.csv", (row := re.search(
        FIRST + ".*\n", (directory / "quant_log.csv").read_text())[0]), row.rsplit(",", 3)[0] + "\n")(directory),
                                   [("log", "quant_log.csv", FIRST)]),
    "another name of a column": (text("quant_log.csv", "weight_sum", "weight_sun"), [("log", "quant_log.csv", "")]),
    "an empty log": (end_of_log(lambda log: ""), [("log", "quant_log.csv", "")]),
    "no end of the log": (end_of_log(lambda log: log[:-1]), [("log", "quant_log.csv", "")]),
    "an odd attribute of the file": (odd_attribute, [("unreadable", "model.h5", "")]),
    "an odd attribute and a flipped byte": (lambda directory: (odd_attribute(directory), h5(flip_code)(directory)),
                                            [("unreadable", "model.h5", ""), ("checksum", "model.h5", FIRST)]),
}


# ---- exports

class Tensors:
    """The safetensors files of a directory, changed and written again as they were but for the change."""

    def __init__(self, directory):
        self.directory = directory
        self.files = {path: read_safetensors(path) for path in sorted(directory.glob("*.safetensors"))}

    def file_of(self, name):
        return next(path for path, tensors in self.files.items() if name in tensors)

    def __getitem__(self, name):
        return self.files[self.file_of(name)][name]

    def write(self):
        for path, tensors in self.files.items():
            header, data = {"__metadata__": {"format": "pt"}}, b""
            for name, tensor in tensors.items():
                header[name] = {"dtype": tensor.dtype, "shape": tensor.shape,
                                "data_offsets": [len(data), len(data) + len(tensor.data)]}
                data += tensor.data
            encoded = json.dumps(header).encode()
            encoded += b" " * (-len(encoded) % 8)
            path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


def tensors(change, signed=False):
    """`change(tensors)`, and the checksums of all in the manifest where values alone are to tell."""
    def damage(directory):
        stored = Tensors(directory)
        change(stored)
        stored.write()
        if signed:
            manifest = json.loads((directory / MANIFEST).read_text())
            for path, held in stored.files.items():
                for name, tensor in held.items():
                    manifest["tensors"][path.name][name] = f"{xxh64(tensor.data):016x}"
            write_manifest(directory, manifest)
    return damage


def write_manifest(directory, manifest):
    manifest.pop("checksum", None)
    compact = json.dumps(manifest, separators=(",", ":"), ensure_ascii=False)
    manifest["checksum"] = f"{xxh64(compact.encode()):016x}"
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def flip(name, at=40):
    def change(stored):
        data = bytearray(stored[name].data)
        data[at] ^= 2
        stored[name].data = bytes(data)
    return change


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


def drop(prefix):
    def change(stored):
        for held in stored.files.values():
            for name in [name for name in held if name.startswith(prefix)]:
                del held[name]
    return change


def manifest(change):
    """Changes the manifest and signs it."""
    def damage(directory):
        content = json.loads((directory / MANIFEST).read_text())
        change(content)
        write_manifest(directory, content)
    return damage


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


def flip_file(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 2
    path.write_bytes(data)


class VerifyTest(ProgramTest):
    def verify(self, directory, *further, ranks=0, code=0):
        """The JSON document."""
        done = run("verify", directory, "--json", *further, ranks=ranks)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return json.loads(done.stdout)

    def clean(self, directory, *further, ranks=0):
        report = self.verify(directory, *further, ranks=ranks)
        self.assertEqual(report["findings"], [])
        self.assertEqual(report["unlogged"], 0)
        return report

    def quantize(self, default=None, overrides=(), model=EXAMPLE, name="run"):
        save, example = self.directory / name, not (model / "golden.h5").is_file()
        recipe = self.write_recipe(default=default, overrides=overrides)
        self.succeed(*quantize_arguments(save, model, recipe, CALIBRATION if example else model / "golden.h5",
                                         4 if example else 0, 32 if example else 0), "--min-tokens", 4)
        return save

    def export(self, save, format, *further):
        out = self.directory / f"{save.name} {format}"
        self.succeed("export", save, "--out", out, "--format", format, *further)
        return out

    def check_damages(self, whole, damages):
        for title, (damage, expected, *further) in damages.items():
            with self.subTest(title):
                broken = self.directory / "broken"
                shutil.rmtree(broken, ignore_errors=True)
                shutil.copytree(whole, broken)
                damage(broken)
                found = self.verify(broken, *further, code=1)["findings"]
                if isinstance(expected, str):
                    self.assertEqual({finding["kind"] for finding in found}, {expected})
                    continue
                short = [(finding["kind"], finding["object"]) for finding in found]
                self.assertEqual(short, [(row[0], row[-1]) for row in expected], found)
                for finding, row in zip(found, expected):
                    if len(row) == 3:
                        self.assertEqual(finding["file"], row[1])


class Clean(VerifyTest):
    def test_on_any_number_of_ranks(self):
        save = self.quantize(overrides=[{"pattern": "model.layers.0.*", "skip": True},
                                        {"pattern": "*.o_proj", "wq": "int8", "group_size": "channel"}])
        for directory in [save] + [self.export(save, format, "--shard-size", "300KB") for format in FORMATS]:
            reports = [self.clean(directory, ranks=ranks) for ranks in (0, 1, 3)]
            for report in reports:
                report.pop("seconds")
                self.assertEqual(report, reports[0])
            self.assertEqual(report["matrices"], 156)
            self.assertGreater(report["bytes"], 1 << 21)

    def test_every_form(self):
        formats = ["int2", "int3", "int5", "int8", "fp8", "mxfp4", "mxfp8", "nvfp4"]
        overrides = [{"pattern": f"*.experts.{number}.*", "wq": name} for number, name in enumerate(formats)]
        overrides += [{"pattern": "*.experts.[89].*", "group_size": 32, "symmetric": False},
                      {"pattern": "*.experts.1[01].*", "group_size": "tensor"},
                      {"pattern": "*.experts.12.*", "wq": "int8", "group_size": "channel", "aq": "int8", "aq_group_size": "token"},
                      {"pattern": "*.experts.13.*", "scale_dtype": "fp32"}, {"pattern": "*.experts.14.*", "scale_dtype": "fp16"}]
        save = self.quantize(overrides=overrides)
        self.clean(save)
        for format in ("compressed-tensors", "bf16"):
            self.clean(self.export(save, format))
        rest = ["fp4", "fp6", "fp6_e2m3", "fp8_e5m2", "mxfp6", "mxfp8_e5m2"]
        save = self.quantize({"wq": "int3", "group_size": 32, "symmetric": False},
                             [{"pattern": f"*.experts.{number}.*", "wq": name} for number, name in enumerate(rest)], name="rest")
        self.clean(save)
        self.clean(self.export(save, "bf16"))
        save = self.quantize({"wq": "int3", "group_size": 32, "symmetric": False}, name="zeros")
        self.clean(self.export(save, "gptq"))

    def test_checkpoints_that_are_stored_otherwise(self):
        skipped = {"pattern": "model.layers.0.*", "skip": True}
        for name, default in (("qwen3_moe_fp8", {"wq": "int8", "group_size": "channel"}),
                              ("deepseek_v3", {"wq": "int8", "group_size": "channel"}),
                              ("gpt_oss", {"wq": "int4", "group_size": 8}), ("gpt_oss_mxfp4", {"wq": "int4", "group_size": 8}),
                              ("qwen3_moe", {"wq": "int8", "group_size": 8}), ("renamed", {"wq": "int8", "group_size": 8})):
            overrides = [skipped, {"pattern": "*.experts.2.*", "skip": True}]
            save = self.quantize(default, overrides, FIXTURES / name, name)
            self.clean(save)
            for format in ("compressed-tensors", "bf16"):
                self.clean(self.export(save, format, *model_arguments(FIXTURES / name)[2:]))
        save = self.quantize({"wq": "int8", "group_size": 16}, [{"pattern": "lm_head", "wq": "int8"}], FIXTURES / "llama3", "tied")
        for format in ("compressed-tensors", "bf16"):
            self.clean(self.export(save, format))


    def test_a_text_model_inside_another(self):
        source = FIXTURES / "qwen3_moe"
        config = json.loads((source / "config.json").read_text())
        for tied in (False, True):
            model, stored = self.directory / f"model {tied}", renamed(read(source), "model.language_model.", "lm_head")
            stored["model.visual.proj.weight"] = ("F32", [2, 2], bytes(16))
            if tied:
                del stored["lm_head.weight"]
            write(model, stored, {"model_type": "other", "tie_word_embeddings": tied, "thinker_config": {"text_config": {
                key: value for key, value in config.items() if key != "tie_word_embeddings"}}})
            shutil.copy(source / "golden.h5", model)
            save = self.quantize({"wq": "int8", "group_size": 8}, [{"pattern": "lm_head", "wq": "int8"}], model, f"run {tied}")
            self.clean(save)
            for format in ("compressed-tensors", "bf16"):
                self.clean(self.export(save, format))


class Damaged(VerifyTest):
    SKIPPED = [{"pattern": "model.layers.0.*", "skip": True}]

    def test_runs(self):
        self.check_damages(self.quantize(overrides=self.SKIPPED), RUN_DAMAGES)

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

    def test_runs_of_older_builds_are_looked_at_for_likeness(self):
        save = self.quantize(overrides=self.SKIPPED)
        def older(*groups):
            for group in groups:
                stats = json.loads(group.attrs["stats"])
                del stats["weight_error"]
                group.attrs["stats"] = np.bytes_(json.dumps(stats))
        h5(older, True, (FIRST, SECOND))(save)
        log = (save / "quant_log.csv").read_text().splitlines()
        (save / "quant_log.csv").write_text("\n".join(re.sub(r",[^,]*(,[^,]*)$", r"\1", line) for line in log) + "\n")
        report = self.verify(save)
        self.assertEqual(report["unlogged"], 2)
        self.assertIn("note: 2 matrices", self.succeed("verify", save).stdout)
        h5(exchange, True, (FIRST, SECOND))(save)
        self.assertEqual([one["kind"] for one in self.verify(save, code=1)["findings"]], ["foreign", "foreign"])


class Command(VerifyTest):
    def test_lines_and_exit_codes(self):
        save = self.quantize(overrides=Damaged.SKIPPED)
        done = self.succeed("verify", save)
        self.assertRegex(done.stdout, r"^.*/run: run, 156 matrices, 231 tensors, .* read, no findings, .*\n$")
        h5(flip_code)(save)
        texts = []
        for ranks in (0, 1, 3):
            done = run("verify", save, ranks=ranks)
            self.assertEqual(done.returncode, 1, done.stderr)
            lines = done.stdout.splitlines()
            self.assertRegex(lines[0], rf"^model\.h5: '{FIRST}': .*\(checksum\).*\[checksum\]$")
            self.assertIn("1 finding,", lines[1])
            texts.append(lines[0])
        self.assertEqual(len(set(texts)), 1)

    def test_what_cannot_be_verified(self):
        for directory, code, words in ((self.directory / "nowhere", 3, "no such directory"), (self.directory, 3, "neither"),
                                       (EXAMPLE, 2, "--model")):
            done = run("verify", directory)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertIn(words, done.stderr)
        save = self.quantize(overrides=Damaged.SKIPPED)
        moved = self.directory / "moved"
        shutil.copytree(EXAMPLE, moved)
        text("manifest.json", str(EXAMPLE), str(self.directory / "gone"))(save)
        done = run("verify", save)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("--model", done.stderr)
        self.clean(save, "--model", moved)
        self.assertEqual(run("verify").returncode, 2)


if __name__ == "__main__":
    unittest.main()
