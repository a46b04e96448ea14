"""eval with activation formats against a forward pass in numpy that rounds with its own code."""

import json
import unittest

import h5py
import numpy as np

from program import EVALUATION, EXAMPLE, FIXTURES, ProgramTest, quantize_arguments
from matrix_file import dequantize

MODEL = FIXTURES / "llama"
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def read_f16(path):
    """Tensors of a float16 safetensors file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    entries = {name: entry for name, entry in json.loads(data[8:8 + size]).items() if name != "__metadata__"}
    return {name: np.frombuffer(data[8 + size + entry["data_offsets"][0]:8 + size + entry["data_offsets"][1]],
                                np.float16).reshape(entry["shape"]).astype(np.float32)
            for name, entry in entries.items()}


def round_integer(group, bits):
    """Symmetric: absmax lies 0.01 steps inside the half step above the largest code."""
    absmax = np.abs(group).max(axis=-1, keepdims=True)
    scale = np.where(absmax > 0, absmax / np.float32((2 ** bits - 1) / 2 - 0.01), np.float32(1))
    limit = 2 ** (bits - 1)
    return np.clip(np.rint(group / scale), -limit, limit - 1) * scale


def round_mxfp4(group):
    """OCP MX 1.0: the scale is 2^(floor(log2 absmax) - 2); nearest element, ties to the even code."""
    absmax = np.abs(group).max(axis=-1, keepdims=True)
    scale = 2.0 ** (np.floor(np.log2(np.maximum(absmax, 2.0 ** -120))) - 2)
    distance = np.abs(np.abs(group / scale)[..., None] - E2M1)
    odd = np.arange(8) % 2
    code = np.lexsort((np.broadcast_to(odd, distance.shape), distance), axis=-1)[..., 0]
    return np.sign(group) * E2M1[code] * scale


def rounded(x, form):
    """x [tokens, columns] by ("int8", group) or ("mxfp4", group), group -1: a whole token."""
    if form is None:
        return x
    name, group = form
    width = x.shape[1] if group == -1 else group
    pieces = [x[:, begin:begin + width] for begin in range(0, x.shape[1], width)]
    quantize = round_mxfp4 if name == "mxfp4" else lambda piece: round_integer(piece, int(name[3:]))
    return np.concatenate([quantize(piece) for piece in pieces], axis=1).astype(np.float32)


class Llama:
    """The decoder of the fixture. `activation(name)` says how the inputs of a linear are rounded."""

    def __init__(self, weights, activation):
        self.weights, self.activation = weights, activation
        self.config = json.loads((MODEL / "config.json").read_text())

    def linear(self, x, name):
        return rounded(x, self.activation(name)) @ self.weights[name + ".weight"].T

    def norm(self, x, name):
        scale = np.sqrt((x * x).mean(axis=1, keepdims=True) + self.config["rms_norm_eps"])
        return (x / scale * self.weights[name + ".weight"]).astype(np.float32)

    def rotate(self, x):
        """Rotary embedding of [tokens, heads, size]."""
        size = x.shape[2]
        frequency = self.config["rope_theta"] ** (-np.arange(0, size, 2) / size)
        angle = np.arange(len(x))[:, None, None] * np.concatenate([frequency, frequency])
        half = np.concatenate([-x[..., size // 2:], x[..., :size // 2]], axis=2)
        return x * np.cos(angle) + half * np.sin(angle)

    def attention(self, x, base):
        heads, kept = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        split = lambda name, count: self.linear(x, base + name).reshape(len(x), count, -1)
        q, k = self.rotate(split("q_proj", heads)), self.rotate(split("k_proj", kept))
        v = split("v_proj", kept)
        k, v = (np.repeat(part, heads // kept, axis=1) for part in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(q.shape[2])
        scores[:, np.triu(np.ones(scores.shape[1:], bool), 1)] = -np.inf
        weight = np.exp(scores - scores.max(axis=2, keepdims=True))
        weight /= weight.sum(axis=2, keepdims=True)
        core = np.einsum("hij,jhd->ihd", weight, v).reshape(len(x), -1).astype(np.float32)
        return self.linear(core, base + "o_proj")

    def mlp(self, x, base):
        gate = self.linear(x, base + "gate_proj")
        return self.linear((gate / (1 + np.exp(-gate)) * self.linear(x, base + "up_proj")).astype(np.float32),
                           base + "down_proj")

    def mean_nll(self, windows):
        total, count = 0, 0
        for tokens in windows:
            x = self.weights["model.embed_tokens.weight"][tokens]
            for layer in range(self.config["num_hidden_layers"]):
                base = f"model.layers.{layer}."
                x = x + self.attention(self.norm(x, base + "input_layernorm"), base + "self_attn.")
                x = x + self.mlp(self.norm(x, base + "post_attention_layernorm"), base + "mlp.")
            head = self.weights["model.embed_tokens.weight"]
            logits = (self.norm(x, "model.norm") @ head.T).astype(np.float64)[:-1]
            logits -= logits.max(axis=1, keepdims=True)
            log_sum = np.log(np.exp(logits).sum(axis=1))
            total += (log_sum - logits[np.arange(len(logits)), tokens[1:]]).sum()
            count += len(logits)
        return total / count


class Activations(ProgramTest):
    def evaluate(self, save, *further, model=MODEL, tokens=MODEL / "golden.h5", ranks=0):
        figures = self.directory / "eval.json"
        done = self.succeed("eval", "--model", model, "--quantized", save, "--tokens", tokens, "--json",
                            figures, *further, ranks=ranks)
        return json.loads(figures.read_text()), done.stdout

    def quantize(self, overrides, name="run", default=None):
        default = default or {"wq": "int8", "group_size": -1, "method": "rtn", "scale_dtype": "fp32"}
        recipe = self.write_recipe(name + ".json", default=default, overrides=overrides)
        save = self.directory / name
        self.succeed(*quantize_arguments(save, model=MODEL, recipe=recipe, samples=0, length=0,
                                         calibration=MODEL / "golden.h5"))
        return save

    def numpy_nll(self, save, activation):
        weights = read_f16(MODEL / "model.safetensors")
        with h5py.File(save / "model.h5") as file:
            for name, group in file["matrices"].items():
                weights[name + ".weight"] = dequantize(group).astype(np.float32)
        with h5py.File(MODEL / "golden.h5") as file:
            return Llama(weights, activation).mean_nll(file["tokens"][:])

    def compare(self, forms):
        """forms: (end of the name, recipe's format, group) for the linears with an activation format."""
        overrides = [{"pattern": "*." + end, "aq": form, **({"aq_group_size": group} if group else {})}
                     for end, form, group in forms]

        def activation(name):
            found = [(form, group or 32) for end, form, group in forms if name.endswith("." + end)]
            return found[-1] if found else None

        save = self.quantize(overrides)
        figures, text = self.evaluate(save)
        self.assertAlmostEqual(figures["mean_nll"], self.numpy_nll(save, lambda name: None), delta=1e-4)
        expected = self.numpy_nll(save, activation)
        effect = abs(expected - figures["mean_nll"])
        self.assertGreater(effect, 0.01)
        self.assertAlmostEqual(figures["activation_mean_nll"], expected, delta=0.02 * effect)
        self.assertAlmostEqual(figures["activation_perplexity"], np.exp(figures["activation_mean_nll"]),
                               delta=1e-6 * figures["activation_perplexity"])
        return save, figures, text

    def test_one_linear(self):
        _, figures, text = self.compare([("layers.1.mlp.down_proj", "int4", -1)])
        self.assertEqual(len(figures["activation_formats"]), 1)
        self.assertIn("int4", figures["activation_formats"][0])
        self.assertIn("with activations in int4", text)

    def test_linears_that_share_an_input_have_formats_of_their_own(self):
        save, figures, _ = self.compare([("q_proj", "int4", 16), ("k_proj", "int8", -1),
                                         ("up_proj", "mxfp4", None), ("o_proj", "int4", -1)])
        self.assertEqual(len(figures["activation_formats"]), 4)
        for ranks in (2, 3):
            again, _ = self.evaluate(save, ranks=ranks)
            self.assertEqual(again["activation_mean_nll"], figures["activation_mean_nll"])

    def test_calibration_and_weights_know_nothing_of_activations(self):
        weights = {"wq": "int4", "group_size": 16}
        plain = self.quantize((), "plain", weights)
        rounding = self.quantize((), "rounding", {**weights, "aq": "int4"})
        with h5py.File(plain / "model.h5") as one, h5py.File(rounding / "model.h5") as two:
            self.assertEqual(list(one["matrices"]), list(two["matrices"]))
            for name, group in one["matrices"].items():
                other = two["matrices"][name]
                self.assertNotIn("activation", group.attrs)
                self.assertEqual(json.loads(other.attrs["activation"])["format"], "int4")
                for data in ("codes", "scales"):
                    np.testing.assert_array_equal(group[data][:], other[data][:])
        figures, text = self.evaluate(plain)
        self.assertNotIn("activation_mean_nll", figures)
        self.assertNotIn("activations", text)
        self.assertEqual(self.evaluate(rounding)[0]["mean_nll"], figures["mean_nll"])

    def test_experts_lose_little_in_eight_bits(self):
        recipe = self.write_recipe(default={"wq": "int8", "group_size": 32, "method": "rtn", "aq": "int8"})
        save = self.directory / "moe"
        self.succeed(*quantize_arguments(save, recipe=recipe, samples=8))
        figures, _ = self.evaluate(save, "--max-windows", 8, model=EXAMPLE, tokens=EVALUATION)
        self.assertNotEqual(figures["activation_mean_nll"], figures["mean_nll"])
        self.assertAlmostEqual(figures["activation_mean_nll"], figures["mean_nll"], delta=0.01)


if __name__ == "__main__":
    unittest.main()
