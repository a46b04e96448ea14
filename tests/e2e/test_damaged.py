"""A table of damaged inputs: each is refused with its exit code and a message that names file, object and reason,
and a refused run leaves nothing half-written behind."""

import json
import os
import shutil
import unittest
from pathlib import Path

import h5py
import numpy as np

from program import EVALUATION, EXAMPLE, RECIPE, ProgramTest, quantize_arguments, results, run

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Q = "model.layers.0.self_attn.q_proj.weight"
NORM = "model.norm.weight"


# ---- what damages a file

def cut(length):
    """Keeps so many bytes (negative: all but so many)."""
    return lambda path: path.write_bytes(path.read_bytes()[:length])


def replace(content):
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def append(content):
    return lambda path: path.write_bytes(path.read_bytes() + content)


def directory(path):
    path.unlink()
    path.mkdir()


def dangling(path):
    path.unlink()
    path.symlink_to("blobs/no-such-blob")


def circular(path):
    path.unlink()
    path.symlink_to(path.name)


def unreadable(path):
    path.chmod(0)


def header(change, keep_size=False):
    """Changes the header of a safetensors file; `keep_size`: the length field stays as it was."""
    def damage(path):
        whole = path.read_bytes()
        size = int.from_bytes(whole[:8], "little")
        entries = json.loads(whole[8:8 + size])
        text = change(entries)
        text = (json.dumps(entries) if text is None else text).encode("utf-8", "surrogateescape")
        path.write_bytes((size if keep_size else len(text)).to_bytes(8, "little") + text + whole[8 + size:])
    return damage


def entry(name, **values):
    """Changes keys of one tensor's entry."""
    return header(lambda entries: entries[name].update(values))


def moved(name, begin, end):
    def change(entries):
        offsets = entries[name]["data_offsets"]
        entries[name]["data_offsets"] = [offsets[0] + begin, offsets[1] + end]
    return header(change)


def twice(entries):
    text = json.dumps(entries)
    return text[:-1] + f', "{Q}": ' + json.dumps(entries[Q]) + "}"


def value(name, bits, at=-1):
    """Sets one BF16 value of a tensor."""
    def damage(path):
        whole = bytearray(path.read_bytes())
        size = int.from_bytes(whole[:8], "little")
        begin, end = json.loads(whole[8:8 + size])[name]["data_offsets"]
        place = 8 + size + (end + 2 * at if at < 0 else begin + 2 * at)
        whole[place:place + 2] = bits
        path.write_bytes(whole)
    return damage


def keys(**changes):
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def without(key):
    def damage(path):
        content = json.loads(path.read_text())
        del content[key]
        path.write_text(json.dumps(content))
    return damage


def raw_key(key, text):
    """A key with a value that json.dumps does not write."""
    return lambda path: path.write_text(path.read_text().rstrip()[:-1].rstrip() + f', "{key}": {text}}}')


def deep(levels):
    return "[" * levels + "]" * levels


# ---- the tables: title, file, damage, words of the message beside the file's name

CHECKPOINTS = [
    ("empty weights", WEIGHTS, cut(0), ["only 0 bytes"]),
    ("cut in the length", WEIGHTS, cut(7), ["only 7 bytes"]),
    ("cut behind the length", WEIGHTS, cut(8), ["does not fit"]),
    ("cut in the header", WEIGHTS, cut(1000), ["does not fit"]),
    ("cut in the data", WEIGHTS, cut(2_000_000), ["data_offsets", "is the file complete?"]),
    ("last byte missing", WEIGHTS, cut(-1), ["data_offsets", "is the file complete?"]),
    ("one byte too many", WEIGHTS, append(b"x"), ["1 bytes after the last tensor"]),
    ("Git LFS pointer", WEIGHTS, replace("version https://git-lfs.github.com/spec/v1\n"), ["git lfs pull"]),
    ("a web page", WEIGHTS, replace("<!DOCTYPE html><html>" + 100 * " "), ["above the limit"]),
    ("header is a list", WEIGHTS, header(lambda entries: "[1]"), ["does not begin with '{'"]),
    ("header is no JSON", WEIGHTS, header(lambda entries: "{" + 40 * "x"), ["no valid JSON"]),
    ("header is no UTF-8", WEIGHTS, header(lambda entries: '{"\udcff": ' + 40 * " " + "1}"), ["no valid JSON"]),
    ("header nested deeply", WEIGHTS, header(lambda entries: '{"w":' + deep(100_000) + "}"), ["levels of brackets"]),
    ("tensor twice", WEIGHTS, header(twice), [Q, "appears twice"]),
    ("unknown dtype", WEIGHTS, entry(Q, dtype="F31"), [Q, "unknown dtype 'F31'"]),
    ("dtype of integers", WEIGHTS, entry(Q, dtype="I16"), [Q, "dtype I16"]),
    ("wider dtype", WEIGHTS, entry(Q, dtype="F32"), [Q, "takes 65536 bytes"]),
    ("FP8 without an encoding", WEIGHTS, entry(Q, dtype="F8_E4M3", shape=[256, 128]), [Q]),
    ("another shape", WEIGHTS, entry(Q, shape=[64, 256]), [Q, "[128, 128]", "[64, 256]"]),
    ("another rank", WEIGHTS, entry(Q, shape=[128, 128, 1]), [Q, "[128, 128, 1]"]),
    ("no shape", WEIGHTS, header(lambda entries: entries[Q].pop("shape") and None), [Q, "'shape'"]),
    ("negative size", WEIGHTS, entry(Q, shape=[-128, -128]), [Q, "shape holds -128"]),
    ("size that is no integer", WEIGHTS, entry(Q, shape=[1e30, 1]), [Q, "no size"]),
    ("sizes that overflow", WEIGHTS, entry(Q, shape=[1 << 40, 1 << 40]), [Q, "no valid size"]),
    ("no data", WEIGHTS, entry(Q, shape=[0, 128]), [Q, "takes 0 bytes"]),
    ("data that overlap", WEIGHTS, moved(Q, -2, -2), ["overlap"]),
    ("data with a hole", WEIGHTS, moved(Q, 2, 2), []),
    ("data end before they begin", WEIGHTS, moved(Q, 40_000, 0), [Q, "end before they begin"]),
    ("data beyond the file", WEIGHTS, moved(Q, 1 << 40, 1 << 40), [Q, "outside the file"]),
    ("tensor missing", WEIGHTS, header(lambda entries: entries.update(other=entries.pop(Q))), [Q, "no file of"]),
    ("weights are a directory", WEIGHTS, directory, ["directory"]),
    ("weights are a dangling link", WEIGHTS, dangling, ["dangling link"]),
    ("weights are a circular link", WEIGHTS, circular, []),
    ("weights may not be read", WEIGHTS, unreadable, ["Permission denied"]),
    ("no config.json", "config.json", Path.unlink, []),
    ("config.json empty", "config.json", cut(0), ["no valid JSON"]),
    ("config.json cut", "config.json", cut(300), ["no valid JSON"]),
    ("config.json is a list", "config.json", replace("[1]"), ["not a JSON object"]),
    ("config.json is no UTF-8", "config.json", raw_key("x", '"\\ud800"'), ["no valid JSON"]),
    ("config.json nested deeply", "config.json", raw_key("rope_theta2", deep(100_000)), ["levels of brackets"]),
    ("config.json is huge", "config.json", append(b" " * (1 << 25)), ["longer than the limit"]),
    ("config.json is a directory", "config.json", directory, ["directory"]),
    ("config.json is a dangling link", "config.json", dangling, ["dangling link"]),
    ("config.json may not be read", "config.json", unreadable, ["Permission denied"]),
    ("key twice", "config.json", raw_key("num_experts", "17"), ["num_experts", "twice"]),
    ("key missing", "config.json", without("hidden_size"), ["hidden_size", "is missing"]),
    ("huge number", "config.json", keys(hidden_size=1e300), ["hidden_size", "1e+300"]),
    ("number above 2^31", "config.json", keys(vocab_size=1 << 40), ["vocab_size"]),
    ("negative number", "config.json", keys(num_attention_heads=-4), ["num_attention_heads", "-4"]),
    ("number as text", "config.json", keys(hidden_size="128"), ["hidden_size", '"128"']),
    ("too many layers", "config.json", keys(num_hidden_layers=1 << 31), ["num_hidden_layers", "more than"]),
    ("too many experts", "config.json", keys(num_experts=1 << 30), ["num_experts", "too many"]),
    ("more experts a token than there are", "config.json", keys(num_experts_per_tok=17), ["num_experts_per_tok", "17"]),
    ("heads that do not divide", "config.json", keys(num_attention_heads=5), ["num_key_value_heads", "does not divide the 5"]),
    ("widths beyond the weights", "config.json", keys(intermediate_size=1 << 31), ["model.layers.0.mlp.experts.0"]),
    ("odd quantization_config", "config.json", keys(quantization_config=[1]), ["quantization_config"]),
    ("odd rope_scaling", "config.json", keys(rope_scaling={"rope_type": "x"}), ["rope_scaling", "'x'"]),
]

INDEXES = [
    ("index empty", INDEX, cut(0), ["no valid JSON"]),
    ("index without a map", INDEX, replace("{}"), ["weight_map"]),
    ("index names a number", INDEX, replace('{"weight_map": {"a": 1}}'), ["'a'"]),
    ("index leads outside", INDEX, replace('{"weight_map": {"a": "../a.safetensors"}}'), ["../a.safetensors"]),
    ("index nested deeply", INDEX, replace('{"weight_map": {"a": ' + deep(1000) + "}}"), ["levels of brackets"]),
    ("index names a tensor that is not there", INDEX, replace('{"weight_map": {"a": "1.safetensors"}}'), []),
    ("index lacks a tensor", INDEX, lambda path: path.write_text(path.read_text().replace(Q, NORM + "2")), []),
    ("shard missing", "1.safetensors", Path.unlink, ["missing"]),
    ("shard is a dangling link", "2.safetensors", dangling, ["dangling link"]),
    ("shard is a directory", "1.safetensors", directory, ["directory"]),
    ("shard cut", "2.safetensors", cut(-1), ["is the file complete?"]),
]

WRONG_VALUES = [  # found when the weights are read
    ("NaN in a norm", WEIGHTS, value("model.layers.1.input_layernorm.weight", b"\xc0\x7f", 3), ["[3] is NaN"]),
    ("infinity in a router", WEIGHTS, value("model.layers.0.mlp.gate.weight", b"\x80\x7f"), ["[15, 127] is infinite"]),
    ("NaN in an expert", WEIGHTS, value("model.layers.3.mlp.experts.9.up_proj.weight", b"\xc0\xff", 0), ["[0, 0] is NaN"]),
    ("infinity in the head", WEIGHTS, value("lm_head.weight", b"\x80\xff"), ["[511, 127] is infinite"]),
]


def tokens(values, name="tokens", **more):
    def damage(path):
        with h5py.File(path, "w") as file:
            file[name] = values
            for key, content in more.items():
                file[key] = content
    return damage


def in_file(change):
    """Changes an HDF5 file in place."""
    def damage(path):
        with h5py.File(path, "r+") as file:
            change(file)
    return damage


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
    ("token file is text", replace("1 2 3\n"), ["signature"]),
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


def flip(place):
    """Flips a bit of the dataset or of the attribute of a matrix."""
    def damage(path):
        with h5py.File(path, "r") as file:
            offset = file[place].id.get_offset()
        whole = bytearray(path.read_bytes())
        whole[offset] ^= 4
        path.write_bytes(whole)
    return damage


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
    ("other version", in_file(lambda file: file.attrs.__setitem__("format_version", np.bytes_("9"))), ["version is '9'"]),
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


class Damaged(ProgramTest):
    """Every row of the tables above."""

    rows = 0

    @classmethod
    def tearDownClass(cls):
        print(f"{cls.rows} damaged inputs refused", flush=True)

    def refuse(self, title, damage, path, code, words, *arguments):
        """`arguments` succeed without the damage (see the test of good input)."""
        with self.subTest(title):
            if damage is unreadable and os.geteuid() == 0:
                self.skipTest("root may read everything")
            damage(path)
            done = run(*arguments, threads=1)
            self.assertEqual(done.returncode, code, done.stdout + done.stderr)
            errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            self.assertEqual(len(errors), 1, done.stderr)
            for word in words:
                self.assertIn(word, errors[0])
            self.assertLess(len(done.stderr), 4000)
            type(self).rows += 1

    def copy_model(self, name):
        model = self.directory / name
        shutil.copytree(EXAMPLE, model)
        return model

    def sharded_model(self, name):
        """The example in two files with an index; as in a hub's cache, the files are links."""
        model, blobs = self.directory / name, self.directory / (name + "-blobs")
        model.mkdir()
        blobs.mkdir()
        whole = (EXAMPLE / WEIGHTS).read_bytes()
        size = int.from_bytes(whole[:8], "little")
        entries = {key: entry for key, entry in json.loads(whole[8:8 + size]).items() if key != "__metadata__"}
        names, places = sorted(entries), {}
        for number, part in ((1, names[::2]), (2, names[1::2])):
            data, head = b"", {}
            for key in part:
                begin, end = entries[key]["data_offsets"]
                head[key] = {**entries[key], "data_offsets": [len(data), len(data) + end - begin]}
                data += whole[8 + size + begin:8 + size + end]
                places[key] = f"{number}.safetensors"
            text = json.dumps(head).encode()
            (blobs / str(number)).write_bytes(len(text).to_bytes(8, "little") + text + data)
            (model / f"{number}.safetensors").symlink_to(blobs / str(number))
        (model / INDEX).write_text(json.dumps({"weight_map": places}))
        shutil.copy(EXAMPLE / "config.json", blobs)
        (model / "config.json").symlink_to(blobs / "config.json")
        return model

    def test_checkpoints(self):
        for number, (title, file, damage, words) in enumerate(CHECKPOINTS):
            model = self.copy_model(str(number))
            self.refuse(title, damage, model / file, 3, [*words, str(model)], "inspect", model)
            shutil.rmtree(model)

    def test_links_that_resolve_are_good_input(self):
        model = self.sharded_model("model")
        self.succeed("inspect", model)
        self.succeed(*quantize_arguments(self.directory / "run", model=model, samples=4))
        self.succeed(*quantize_arguments(self.directory / "same", samples=4))
        self.assertEqual(*((self.directory / name / "model.h5").read_bytes() != b"" for name in ("run", "same")))

    def test_indexes(self):
        for number, (title, file, damage, words) in enumerate(INDEXES):
            model = self.sharded_model(str(number))
            if file != INDEX and damage not in (Path.unlink, dangling, directory):  # the link's target stays whole
                shutil.copy(model / file, model / "copy")
                (model / "copy").rename(model / file)
            self.refuse(title, damage, model / file, 3, [*words, str(model)], "inspect", model)

    def test_values(self):
        for number, (title, file, damage, words) in enumerate(WRONG_VALUES):
            for command in ("eval", "quantize"):
                model, save = self.copy_model(f"{number}-{command}"), self.directory / f"run-{number}"
                head = self.write_recipe(overrides=[{"pattern": "lm_head", "wq": "int8"}])
                arguments = (["eval", "--model", model, "--tokens", EVALUATION, "--max-windows", 2] if command == "eval"
                             else quantize_arguments(save, model=model, recipe=head, samples=4))
                self.refuse(f"{title}: {command}", damage, model / file, 3, [*words, file], *arguments)
                shutil.rmtree(model)
            self.assert_nothing_half_written(save)

    def assert_nothing_half_written(self, save):
        """What a run that fails leaves is whole files that a later run goes on from."""
        left = {str(path.relative_to(save)) for path in save.rglob("*") if path.is_file()}
        self.assertFalse([name for name in left if name.endswith(".partial") or name == "model.h5"], left)
        complete = json.loads((save / "manifest.json").read_text())["complete"]
        shards = {"shards/" + shard for part in complete for shard in part["shards"]}
        self.assertLessEqual(left, shards | {"manifest.json", "status.json", "metrics.jsonl"})
        self.assertEqual(json.loads((save / "status.json").read_text())["state"], "failed")

    def test_tokens(self):
        for number, (title, damage, words) in enumerate(TOKENS):
            path, save = self.directory / f"tokens-{number}.h5", self.directory / "run"
            tokens(ONES)(path)
            self.refuse(title, damage, path, 3, [*words, path.name],
                        *quantize_arguments(save, calibration=path, samples=0, length=0))
            self.assertFalse(save.exists())

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

    def test_run_directories(self):
        whole = self.directory / "whole"
        self.succeed(*quantize_arguments(whole, samples=4))
        for number, (title, damage, words) in enumerate(MATRIX_FILES):
            save = self.directory / f"run-{number}"
            shutil.copytree(whole, save)
            self.refuse(title, damage, save / "model.h5", 3, [*words, str(save)], "eval", "--model", EXAMPLE,
                        "--tokens", EVALUATION, "--quantized", save, "--max-windows", 1)
        shard = whole / "shards" / "layer-0000.rank-0000.h5"
        for title, damage, words in (("shard cut", cut(-1000), []), ("a bit of a shard", flip(GROUP + "/codes"), [GROUP])):
            save = self.directory / title
            shutil.copytree(whole, save)
            self.refuse(title, damage, save / "shards" / shard.name, 3, [*words, shard.name], "merge", save)
        for number, (title, damage, words) in enumerate(MANIFESTS):
            save = self.directory / f"manifest-{number}"
            shutil.copytree(whole, save)
            self.refuse(title, damage, save / "manifest.json", 3, [*words, "manifest.json"], "merge", save)

    def test_status_files(self):
        for number, content in enumerate(("", "[]", "{}", '{"state": 1}', '{"state": ' + deep(100_000) + "}")):
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
            self.assertEqual(len(self.repair(model, damage, "merged again")), len(list((self.save / "shards").iterdir())))


if __name__ == "__main__":
    unittest.main()
