"""A table of damaged checkpoints: each is refused with its exit code and a message that names file, object and reason,
and a refused run leaves nothing half-written behind."""

import json
import shutil
import unittest
from pathlib import Path

from damage import (DamagedTest, append, circular, cut, dangling, deep, directory, keys, raw_key, replace, unreadable,
                    without)
from program import EVALUATION, EXAMPLE, quantize_arguments

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Q = "model.layers.0.self_attn.q_proj.weight"
NORM = "model.norm.weight"


# ---- what damages a safetensors file

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
    ("header is no JSON", WEIGHTS, header(lambda entries: "{" + 40 * "x"), ["not valid JSON"]),
    ("header is no UTF-8", WEIGHTS, header(lambda entries: '{"\udcff": ' + 40 * " " + "1}"), ["not valid JSON"]),
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
    ("config.json empty", "config.json", cut(0), ["not valid JSON"]),
    ("config.json cut", "config.json", cut(300), ["not valid JSON"]),
    ("config.json is a list", "config.json", replace("[1]"), ["not a JSON object"]),
    ("config.json is no UTF-8", "config.json", raw_key("x", '"\\ud800"'), ["not valid JSON"]),
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
    ("heads that do not divide", "config.json", keys(num_attention_heads=5),
     ["num_key_value_heads", "does not divide the 5"]),
    ("widths beyond the weights", "config.json", keys(intermediate_size=1 << 31), ["model.layers.0.mlp.experts.0"]),
    ("odd quantization_config", "config.json", keys(quantization_config=[1]), ["quantization_config"]),
    ("odd rope_scaling", "config.json", keys(rope_scaling={"rope_type": "x"}), ["rope_scaling", "'x'"]),
]

INDEXES = [
    ("index empty", INDEX, cut(0), ["not valid JSON"]),
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
    ("NaN in an expert", WEIGHTS, value("model.layers.3.mlp.experts.9.up_proj.weight", b"\xc0\xff", 0),
     ["[0, 0] is NaN"]),
    ("infinity in the head", WEIGHTS, value("lm_head.weight", b"\x80\xff"), ["[511, 127] is infinite"]),
]


class DamagedCheckpoint(DamagedTest):
    """Every row of the tables above."""

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
        self.assertLessEqual(left, shards | {"manifest.json", "status.json", "failure.json", "metrics.jsonl"})
        self.assertEqual(json.loads((save / "status.json").read_text())["state"], "failed")


if __name__ == "__main__":
    unittest.main()
