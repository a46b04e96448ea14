"""`verify` on whole runs and exports, which are clean, on damaged runs, where each damage is one finding of the right kind
with the right name and nothing else is claimed, and its command line."""

import json
import re
import shutil
import unittest

import h5py
import numpy as np

from program import EXAMPLE, FIXTURES, model_arguments, run
from matrix_file import checksum
from test_wrapped_checkpoints import read, renamed, write
from verification import FIRST, SECOND, VerifyTest, remove, text

FORMATS = ("compressed-tensors", "gptq", "bf16")


# ---- what damages model.h5 and the log

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
    def test_runs(self):
        self.check_damages(self.quantize(overrides=self.SKIPPED), RUN_DAMAGES)

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
        save = self.quantize(overrides=self.SKIPPED)
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
        save = self.quantize(overrides=self.SKIPPED)
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
