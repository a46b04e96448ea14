"""Every number format, quantized, stored and read back with h5py and numpy alone: equal to what eval computes with."""

import json
import shutil
import unittest

import h5py
import numpy as np

from program import EVALUATION, EXAMPLE, ProgramTest, quantize_arguments, results
from matrix_file import dequantize
from test_quantize import read_safetensors

FORMATS = ["int2", "int3", "int4", "int5", "int6", "int7", "int8", "fp4", "fp6", "fp6_e2m3", "fp8", "fp8_e5m2",
           "mxfp4", "mxfp6", "mxfp6_e2m3", "mxfp8", "mxfp8_e5m2", "nvfp4"]


def write_safetensors(path, tensors):
    """float32 tensors."""
    header, offset = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values, np.float32).tobytes())


class Formats(ProgramTest):
    """One run with all formats: one an expert, further ones with other scales in the attention."""

    def recipe(self, **gptq):
        overrides = [{"pattern": f"*.experts.{number % 16}.*" if number < 16
                      else f"*.self_attn.{'ko'[number - 16]}_proj",
                      "wq": name} for number, name in enumerate(FORMATS)]
        overrides += [{"pattern": "*.layers.1.mlp.experts.[0-6].*", "group_size": 32, "symmetric": False},
                      {"pattern": "*.layers.2.mlp.experts.[0-9].*", "group_size": "channel", "scale_dtype": "fp16"},
                      {"pattern": "*.layers.2.mlp.experts.1[0-1].*", "group_size": "tensor", "scale_dtype": "fp32"},
                      {"pattern": "*.layers.3.mlp.experts.1[2-5].*", "group_size": 64, "scale_rule": "ceil"},
                      {"pattern": "*.layers.3.self_attn.k_proj", "scale_rule": "ocp"}]
        return self.write_recipe(default={"wq": "int4", "group_size": 32}, overrides=overrides, gptq=gptq)

    def quantize(self, name, ranks, recipe, *further):
        save = self.directory / name
        self.succeed(*quantize_arguments(save, recipe=recipe), *further, ranks=ranks)
        return save

    def nll(self, model, *further):
        figures = self.directory / "eval.json"
        self.succeed("eval", "--model", model, "--tokens", EVALUATION, "--max-windows", 8, *further, "--json", figures)
        return json.loads(figures.read_text())["mean_nll"]

    def test_what_is_stored_is_what_is_scored(self):
        save = self.quantize("run", 2, self.recipe())
        tensors = read_safetensors(EXAMPLE / "model.safetensors")
        seen = set()
        with h5py.File(save / "model.h5") as file:
            self.assertEqual(len(file["matrices"]), 208)
            for name, group in file["matrices"].items():
                seen.add(json.loads(group.attrs["scheme"])["format"])
                values = dequantize(group)
                source = tensors[name + ".weight"]
                self.assertEqual(values.shape, source.shape)
                self.assertLess(np.linalg.norm(values - source), 0.8 * np.linalg.norm(source), name)  # int2
                tensors[name + ".weight"] = values
        self.assertEqual(seen, set(FORMATS))
        stored = self.directory / "stored"
        stored.mkdir()
        shutil.copy(EXAMPLE / "config.json", stored)
        write_safetensors(stored / "model.safetensors", tensors)
        self.assertEqual(self.nll(stored), self.nll(EXAMPLE, "--quantized", save))

    def test_the_same_bytes_on_any_number_of_ranks(self):
        for settings in ({}, {"act_order": "static", "scale_search": "hessian", "refine": 1}):
            recipe = self.recipe(**settings)
            found = {results(self.quantize(f"run-{ranks}-{len(settings)}", ranks, recipe)) for ranks in (1, 2, 3, 4)}
            self.assertEqual(len(found), 1)

    def test_nvfp4_shares_its_global_scale_where_servers_fuse(self):
        """A power of two, 2 to 4 times below 448 * 6 / absmax over the matrices that share it."""
        recipe = self.write_recipe(default={"wq": "nvfp4"})
        tensors = read_safetensors(EXAMPLE / "model.safetensors")
        with h5py.File(self.quantize("run", 2, recipe) / "model.h5") as file:
            for members in (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("self_attn.o_proj",),
                            ("mlp.experts.3.gate_proj", "mlp.experts.3.up_proj"), ("mlp.experts.3.down_proj",)):
                names = [f"model.layers.0.{member}" for member in members]
                absmax = max(np.abs(tensors[name + ".weight"]).max() for name in names)
                expected = 2.0 ** (np.floor(np.log2(448 * 6 / absmax)) - 1)
                found = {float(file["matrices"][name]["global_scale"][()]) for name in names}
                self.assertEqual(found, {expected}, names)

    def test_positive_scales_when_asked_for(self):
        for sign, negative in (("positive", False), ("any", True)):
            recipe = self.write_recipe(default={"wq": "int2", "group_size": 32}, gptq={"scale_sign": sign})
            with h5py.File(self.quantize(sign, 1, recipe) / "model.h5") as file:
                found = any((group["scales"][:] >= 0x8000).any() for group in file["matrices"].values())
            self.assertEqual(found, negative)


if __name__ == "__main__":
    unittest.main()
