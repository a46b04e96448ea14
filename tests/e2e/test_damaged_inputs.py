"""A table of damaged token files, recipes and descriptions of architectures.
Each is refused with its exit code and a message that names file, object and reason."""

import json
import shutil
import unittest
from pathlib import Path

import h5py
import numpy as np

from damage import DamagedTest, append, cut, dangling, deep, directory, in_file, replace, tokens, unreadable
from program import EVALUATION, EXAMPLE, RECIPE, quantize_arguments


def virtual(file):
    layout = h5py.VirtualLayout((4, 8), np.int32)
    layout[:] = h5py.VirtualSource("other.h5", "tokens", (4, 8))
    del file["tokens"]
    file.create_virtual_dataset("tokens", layout)


def unwritten(file):
    del file["tokens"]
    file.create_dataset("tokens", (1 << 40, 1 << 20), np.int32, chunks=(1, 1 << 10))


def soft_link(file):
    del file["tokens"]
    file["tokens"] = h5py.SoftLink("/nowhere")


ONES = np.ones((4, 8), np.int32)
TOKENS = [
    ("no token file", Path.unlink, []),
    ("token file is a directory", directory, []),
    ("token file is a dangling link", dangling, []),
    ("token file may not be read", unreadable, ["Permission denied"]),
    ("token file empty", cut(0), []),
    ("token file is text", replace("1 2 3\n"), ["neither a safetensors nor an HDF5 file"]),
    ("token file cut in its superblock", cut(40), []),
    ("token file cut in its tree", cut(700), []),
    ("token file cut in its data", cut(-1), []),
    ("no dataset", tokens(ONES, "ids"), ["'tokens'", "prepare_calibration.py"]),
    ("a group instead of a dataset", lambda path: tokens(ONES, "tokens/inner")(path), ["tokens"]),
    ("a link to nowhere", in_file(soft_link), ["tokens"]),
    ("one dimension", tokens(ONES[0]), ["1 dimensions"]),
    ("floats", tokens(ONES.astype(np.float32)), ["not integers"]),
    ("texts", tokens(np.full((4, 8), b"x")), ["not integers"]),
    ("no rows", tokens(ONES[:0]), ["empty"]),
    ("no columns", tokens(ONES[:, :0]), ["empty"]),
    ("token beyond the vocabulary", tokens(ONES * 512), ["row 0, position 0 holds 512", "[0, 512)"]),
    ("negative token", tokens(np.where(np.eye(4, 8, 2) > 0, -1, ONES)), ["row 0, position 2 holds -1"]),
    ("token beyond 32 bits", tokens(ONES.astype(np.int64) << 40), ["holds 1099511627776"]),
    ("lengths of other rows", tokens(ONES, lengths=np.ones(3, np.int32)), ["lengths", "4 rows"]),
    ("length 0", tokens(ONES, lengths=np.array([8, 0, 8, 8])), ["lengths", "row 1 has length 0"]),
    ("length above the row", tokens(ONES, lengths=np.array([8, 8, 8, 9])), ["lengths", "row 3 has length 9"]),
    ("lengths are floats", tokens(ONES, lengths=np.ones(4)), ["lengths", "not integers"]),
    ("sequences longer than the model takes", tokens(np.ones((4, 600), np.int32)), ["600", "--seqlen"]),
    ("data in another file", in_file(virtual), ["other files"]),
    ("data never written", in_file(unwritten), ["were written"]),
]

RECIPES = [
    ("recipe empty", replace(""), ["not valid JSON"]),
    ("recipe cut", replace('{"default": {"wq": "int4"'), ["not valid JSON"]),
    ("recipe is a list", replace("[]"), ["not a JSON object"]),
    ("recipe is no UTF-8", replace(b'{"default": {"wq": "\xff"}}'), ["not valid JSON"]),
    ("recipe nested deeply", replace('{"default": {"wq": ' + deep(100_000) + "}}"), ["levels of brackets"]),
    ("group of 1e300", replace('{"default": {"wq": "int4", "group_size": 1e300}}'), ["group_size"]),
    ("recipe is huge", append(b" " * (1 << 26)), ["longer than the limit"]),
    ("recipe is a directory", directory, ["cannot be read"]),
    ("recipe is a dangling link", dangling, ["cannot be read"]),
]

ARCHITECTURES = [
    ("layers share their tensors", {"tensors": {"layer": "model.layers.0."}}, ["tensors.layer", "{i}"]),
    ("experts share their tensors", {"tensors": {"expert_up": "mlp.experts.0.up_proj"}}, ["tensors.expert_up", "{e}"]),
    ("linears share a tensor", {"tensors": {"k": "self_attn.q_proj"}}, ["tensors.k", "tensors.q"]),
    ("unknown key", {"tensors": {"queue": "x"}}, ["tensors.queue"]),
    ("wrong type", {"tensors": {"q": 1}}, ["tensors.q"]),
    ("huge number", {"experts": {"moe_offset": 1e300}}, ["experts.moe_offset"]),
]


class DamagedInputs(DamagedTest):
    """Every row of the tables above."""

    def test_tokens(self):
        for number, (title, damage, words) in enumerate(TOKENS):
            path, save = self.directory / f"tokens-{number}.h5", self.directory / "run"
            tokens(ONES)(path)
            self.refuse(title, damage, path, 3, [*words, path.name],
                        *quantize_arguments(save, calibration=path, samples=0, length=0))
            self.assertFalse(save.exists())

    def test_files_of_the_old_format_are_good_input(self):
        self.assertLess(EVALUATION.read_bytes()[8], 2)
        self.succeed("eval", "--model", EXAMPLE, "--tokens", EVALUATION, "--max-windows", 2, ranks=2)

    def test_recipes(self):
        for number, (title, damage, words) in enumerate(RECIPES):
            path, save = self.directory / f"recipe-{number}.json", self.directory / "run"
            shutil.copy(RECIPE, path)
            self.refuse(title, damage, path, 2, [*words, path.name], *quantize_arguments(save, recipe=path))
            self.assertFalse(save.exists())

    def test_architectures(self):
        for number, (title, content, words) in enumerate(ARCHITECTURES):
            path = self.directory / f"row-{number}.json"
            self.refuse(title, replace(json.dumps({"name": "mine", "like": "olmoe", **content})), path, 2,
                        [*words, path.name], "inspect", EXAMPLE, "--architecture", path)


if __name__ == "__main__":
    unittest.main()
