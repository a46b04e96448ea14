"""Tables of damaged files of a run: refused by who needs them whole, and redone by a run that goes on."""

import shutil
import unittest
from pathlib import Path

import h5py
import numpy as np

from damage import DamagedTest, cut, deep, directory, flip, in_file, keys, replace, tokens, unreadable
from program import EVALUATION, EXAMPLE, ProgramTest, quantize_arguments, results

ONES = np.ones((4, 8), np.int32)
MATRIX = "model.layers.0.self_attn.q_proj"
GROUP = "matrices/" + MATRIX


def exchanged(file):
    matrices, other = file["matrices"], MATRIX.replace("q_proj", "k_proj")
    for old, new in ((MATRIX, "x"), (other, MATRIX), ("x", other)):
        matrices.move(old, new)


def attribute(name, content):
    return in_file(lambda file: file[GROUP].attrs.__setitem__(name, content))


MATRIX_FILES = [
    ("model.h5 missing", Path.unlink, []),
    ("model.h5 is a directory", directory, []),
    ("model.h5 empty", cut(0), []),
    ("model.h5 cut in its superblock", cut(40), []),
    ("model.h5 cut in its data", cut(-5000), []),
    ("model.h5 may not be read", unreadable, ["Permission denied"]),
    ("other version", in_file(lambda file: file.attrs.__setitem__("format_version", np.bytes_("9"))),
     ["version is '9'"]),
    ("no matrices", in_file(lambda file: file.__delitem__("matrices")), ["/matrices", "missing"]),
    ("a matrix missing", in_file(lambda file: file.__delitem__(GROUP)), ["/matrices", "207 members, but 208"]),
    ("codes missing", in_file(lambda file: file.__delitem__(GROUP + "/codes")), [GROUP + "/codes", "missing"]),
    ("a bit of the codes", flip(GROUP + "/codes"), [GROUP, "checksum", "damaged"]),
    ("a bit of the scales", flip(GROUP + "/scales"), [GROUP, "checksum", "damaged"]),
    ("other statistics", attribute("stats", np.bytes_('{"method":"rtn"}')), [GROUP, "checksum"]),
    ("an older format", lambda path: tokens(ONES)(path), ["superblock", "not written by aq-dist"]),
    ("no checksum", in_file(lambda file: file[GROUP].attrs.__delitem__("checksum")), [GROUP, "older build"]),
    ("another matrix's content", in_file(exchanged), [GROUP, "checksum"]),
    ("a matrix of another name", in_file(lambda file: file["matrices"].move(MATRIX, "x")), ["x [128, 128]"]),
    ("shape of another rank", attribute("shape", np.array([1, 2, 3])), [GROUP, "no matrix shape"]),
    ("huge shape", attribute("shape", np.array([1 << 39, 1 << 39])), [MATRIX, "549755813888"]),
    ("scheme is no JSON", attribute("scheme", np.bytes_("{")), [GROUP, "scheme"]),
]

MANIFESTS = [
    ("manifest empty", replace(""), []),
    ("manifest is a list", replace("[]"), []),
    ("manifest nested deeply", replace('{"version": ' + deep(100_000) + "}"), []),
    ("another version", keys(version=2), ["version 2"]),
    ("huge version", keys(version=1e300), ["version"]),
    ("huge number of layers", keys(layers=1e300), ["layers"]),
    ("negative number of layers", keys(layers=-1), ["layers"]),
    ("a list of numbers", keys(complete=[1, 2]), []),
    ("a shard elsewhere", keys(complete=[{"layer": 0, "shards": ["../x.h5"], "matrices": []}]), ["../x.h5"]),
]


class DamagedRuns(DamagedTest):
    """Every row of the tables above."""

    def test_run_directories(self):
        whole = self.directory / "whole"
        self.succeed(*quantize_arguments(whole, samples=4))
        for number, (title, damage, words) in enumerate(MATRIX_FILES):
            save = self.directory / f"run-{number}"
            shutil.copytree(whole, save)
            self.refuse(title, damage, save / "model.h5", 3, [*words, str(save)], "eval", "--model", EXAMPLE,
                        "--tokens", EVALUATION, "--quantized", save, "--max-windows", 1)
        shard = whole / "shards" / "layer-0000.rank-0000.h5"
        for title, damage, words in (("shard cut", cut(-1000), []),
                                     ("a bit of a shard", flip(GROUP + "/codes"), [GROUP])):
            save = self.directory / title
            shutil.copytree(whole, save)
            self.refuse(title, damage, save / "shards" / shard.name, 3, [*words, shard.name], "merge", save)
        for number, (title, damage, words) in enumerate(MANIFESTS):
            save = self.directory / f"manifest-{number}"
            shutil.copytree(whole, save)
            self.refuse(title, damage, save / "manifest.json", 3, [*words, "manifest.json"], "merge", save)

    def test_status_files(self):
        for number, content in enumerate(("", "[]", "{}", '{"state": 1}', '{"state": ' + deep(100_000) + "}",
                                             '{"state": 1}' + " " * (1 << 20))):
            save = self.directory / str(number)
            save.mkdir()
            self.refuse(f"status {number}", replace(content), save / "status.json", 3, ["status.json"], "status", save)


class Repair(ProgramTest):
    """A later run redoes what is damaged, and only that."""

    def setUp(self):
        super().setUp()
        self.save = self.directory / "run"
        self.arguments = quantize_arguments(self.save, samples=16)
        self.succeed(*self.arguments, "--keep-hessians", ranks=2)
        self.expected = results(self.save)

    def repair(self, path, damage, *words, further=()):
        damage(path)
        times = {shard: shard.stat().st_mtime_ns for shard in (self.save / "shards").iterdir()}
        done = self.succeed(*self.arguments, *further, ranks=2)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertEqual(done.stderr.count("the run goes on from that layer"), 0 if path.name == "model.h5" else 1)
        self.assertEqual(results(self.save), self.expected)
        return {shard.name for shard, time in times.items() if shard.stat().st_mtime_ns == time}

    def test_shards(self):
        shard = self.save / "shards" / "layer-0002.rank-0001.h5"
        with h5py.File(shard) as file:
            name = list(file["matrices"])[0]
        untouched = {f"layer-000{layer}.rank-000{rank}.h5" for layer in (0, 1) for rank in (0, 1)}
        for damage in (flip(f"matrices/{name}/codes"), cut(-1), cut(100), cut(0), replace(b"x" * 10_000)):
            self.assertEqual(self.repair(shard, damage, "layer 2 is damaged", shard.name), untouched)

    def test_hessians(self):
        kept = self.save / "hessians" / "layer-0003.rank-0000.h5"
        with h5py.File(kept) as file:
            name = list(file["hessians"])[0]
        left = self.repair(kept, flip(f"hessians/{name}/upper"), "layer 3 is damaged", kept.name, name,
                           further=["--keep-hessians"])
        self.assertEqual({shard[:10] for shard in left}, {"layer-0000", "layer-0001", "layer-0002"})

    def test_merged_model(self):
        model = self.save / "model.h5"
        for damage in (flip(GROUP + "/scales"), cut(-1)):
            untouched = self.repair(model, damage, "merged again")
            self.assertEqual(len(untouched), len(list((self.save / "shards").iterdir())))


if __name__ == "__main__":
    unittest.main()
