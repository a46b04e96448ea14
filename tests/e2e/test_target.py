"""gptq.target: matrices that aim at the outputs of the original model. Cross sums beside an OLMoE in numpy."""

import json
import unittest

import h5py
import numpy as np

from program import CALIBRATION, EVALUATION, EXAMPLE, FIXTURES, ProgramTest, quantize_arguments, results
from matrix_file import checksum, dequantize
from test_quantize import read_safetensors


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


class Olmoe:
    """A decoder layer of the example in float64, step by step; a matrix is looked up by name."""

    def __init__(self, tensors):
        self.tensors = tensors
        config = json.loads((EXAMPLE / "config.json").read_text())
        self.eps, self.theta = config["rms_norm_eps"], config["rope_theta"]
        self.heads, self.top_k = config["num_attention_heads"], config["num_experts_per_tok"]
        self.experts = config["num_experts"]

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.eps) * self.tensors[name + ".weight"]

    def rotate(self, x):
        """Of [sequences, tokens, heads, width]."""
        half = x.shape[-1] // 2
        angles = np.arange(x.shape[1])[:, None] / self.theta ** (np.arange(half) / half)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def core(self, layer, h, weight):
        """What o reads, from what q, k and v read [sequences, tokens, hidden]."""
        at = f"model.layers.{layer}.self_attn."
        q, k, v = (h @ weight(at + name).T for name in ("q_proj", "k_proj", "v_proj"))
        q, k = self.norm(q, at + "q_norm"), self.norm(k, at + "k_norm")
        q, k, v = (x.reshape(*x.shape[:2], self.heads, -1) for x in (q, k, v))
        scores = np.einsum("sqhd,skhd->shqk", self.rotate(q), self.rotate(k)) / np.sqrt(q.shape[-1])
        scores[..., np.triu(np.ones(scores.shape[-2:], bool), 1)] = -np.inf
        return np.einsum("shqk,skhd->sqhd", softmax(scores), v).reshape(h.shape)

    def route(self, layer, h):
        """Factors of all experts for each token [tokens, experts]; 0 where it does not go."""
        scores = softmax(h @ self.tensors[f"model.layers.{layer}.mlp.gate.weight"].T)
        chosen = np.argsort(-scores, axis=1, kind="stable")[:, : self.top_k]
        factors = np.zeros_like(scores)
        np.put_along_axis(factors, chosen, np.take_along_axis(scores, chosen, 1), 1)
        return factors

    @staticmethod
    def expert(layer, number, name):
        return f"model.layers.{layer}.mlp.experts.{number}.{name}"

    def hidden(self, layer, number, h, weight):
        gate, up = (h @ weight(self.expert(layer, number, name)).T for name in ("gate_proj", "up_proj"))
        return gate / (1 + np.exp(-gate)) * up

    def experts_sum(self, layer, h, factors, weight):
        y = np.zeros_like(h)
        for e in range(self.experts):
            mine = factors[:, e] > 0
            down = weight(self.expert(layer, e, "down_proj"))
            y[mine] += factors[mine, e, None] * (self.hidden(layer, e, h[mine], weight) @ down.T)
        return y


class Target(ProgramTest):
    def sums(self, save):
        """name -> group of kept sums, checked against its checksum."""
        found = {}
        for path in (save / "hessians").iterdir():
            file = h5py.File(path)
            self.addCleanup(file.close)
            for name, group in file["hessians"].items():
                self.assertEqual(group.attrs["checksum"], checksum(group))
                found[name] = group
        return found

    def compare(self, sums, name, expected):
        got = sums[name]["cross"][:]
        self.assertEqual(got.shape, expected.shape, name)
        self.assertGreater(np.abs(expected).max(), 0, name)
        error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
        self.assertLess(error, 2e-3, name)

    def test_cross_sums_are_those_of_numpy(self):
        """Also where some experts make up for nothing: their down is copied, rounded, or of all tokens."""
        copied, rounded = 3, 5
        recipe = self.write_recipe(default={"wq": "int3", "group_size": 32}, overrides=[
            {"pattern": f"*.experts.{copied}.down_proj", "skip": True},
            {"pattern": f"*.experts.{rounded}.*", "method": "rtn"}])
        save, _ = self.quantize("run", "--keep-hessians", "--min-tokens", 230, recipe=recipe, samples=16, length=64,
                                ranks=2)
        sums = self.sums(save)
        self.assertEqual(sum("cross" in group for group in sums.values()), 4 * (2 + 14 * 2 + 1))
        tensors = {name: tensor.astype(np.float64)
                   for name, tensor in read_safetensors(EXAMPLE / "model.safetensors").items()}
        model = Olmoe(tensors)
        with h5py.File(save / "model.h5") as file:
            quantized = {name: dequantize(group).astype(np.float64)
                         for name, group in file["matrices"].items()}
        original = lambda name: tensors[name + ".weight"]
        used = lambda name: quantized.get(name, tensors.get(name + ".weight"))
        with h5py.File(CALIBRATION) as file:
            x = tensors["model.embed_tokens.weight"][file["tokens"][:16, :64]]
        own, far = x.copy(), x.copy()  # behind quantized and behind original layers
        flat = lambda values: values.reshape(-1, values.shape[-1])
        for layer in (0, 1):
            at = f"model.layers.{layer}."
            h, h_far = (model.norm(values, at + "input_layernorm") for values in (own, far))
            if layer > 0:
                self.compare(sums, at + "self_attn.q_proj", flat(h_far - h).T @ flat(h))
            core = model.core(layer, h, quantized.__getitem__)
            o = at + "self_attn.o_proj"
            far = far + model.core(layer, h_far, original) @ original(o).T
            self.compare(sums, o, flat(far - own - core @ original(o).T).T @ flat(core))
            own = own + core @ quantized[o].T
            h, h_far = (flat(model.norm(values, at + "post_attention_layernorm")) for values in (own, far))
            factors = model.route(layer, h)
            far = far + model.experts_sum(layer, h_far, model.route(layer, h_far), original).reshape(far.shape)
            owed = flat(far - own) - model.experts_sum(layer, h, factors, original)
            starved = (factors > 0).sum(axis=0) < 230
            self.assertTrue(0 < starved.sum() < model.experts)
            takes = ~starved
            takes[[copied, rounded]] = False
            squares = (factors[:, takes] ** 2).sum(axis=1, keepdims=True)
            owed = np.divide(owed, squares, out=np.zeros_like(owed), where=squares > 0)
            for e in range(model.experts):
                if e == rounded:
                    continue
                mine = np.ones(len(h), bool) if starved[e] else factors[:, e] > 0
                s = np.ones((len(h), 1)) if starved[e] else factors[mine, e, None]
                self.compare(sums, model.expert(layer, e, "gate_proj"), (h_far - h)[mine].T @ (s * h[mine]))
                if e == copied:
                    continue
                a = model.hidden(layer, e, h[mine], used)
                lost = model.hidden(layer, e, (h_far if starved[e] else h)[mine], original) - a
                down = model.expert(layer, e, "down_proj")
                owes = 0 if starved[e] else s * owed[mine]
                self.compare(sums, down, (lost @ original(down).T + owes).T @ (s * a))
            own = own + model.experts_sum(layer, h, factors, used).reshape(own.shape)

    def test_same_bytes_however_the_work_is_dealt(self):
        """With starved experts, which are calibrated on all tokens."""
        starved = ("--min-tokens", 230)
        expected = results(self.quantize("one", *starved)[0])
        ways = [(2, ()), (3, ("--tokens-to-experts", "dispatch")), (4, ("--tokens-to-experts", "reduce")),
                (2, ("--sequential", "stage", "--offload", self.directory))]
        for ranks, further in ways:
            with self.subTest(ranks=ranks, further=further):
                save, _ = self.quantize(f"on{ranks}{len(further)}", *starved, *further, ranks=ranks,
                                        threads=1 + ranks % 2)
                self.assertEqual(results(save), expected)

    def test_orders(self):
        """Where tokens meet the original weights of a layer, its matrices do not see each other."""
        for order in ("layer", "none"):
            logs = [results(self.quantize(f"{order}-{target}", "--sequential", order, "--target", target)[0])[1]
                    for target in ("own", "original")]
            self.assertEqual(*logs)

    def test_resume(self):
        """Both streams go on from saved activations, and from layers on disk."""
        expected = results(self.quantize("whole")[0])
        for step in (0, 3):
            saves = ["--save-activations", step] if step else []
            save, _ = self.quantize(f"step{step}", *saves, ranks=2)
            self.assertEqual(results(save), expected)
            (save / "model.h5").unlink()
            for path in (save / "shards").glob("layer-0003*"):
                path.unlink()
            if step:
                with h5py.File(next((save / "activations").iterdir())) as file:
                    self.assertEqual(set(file), {"lanes", "original_lanes"})
            _, done = self.quantize(f"step{step}", *saves, ranks=3)
            self.assertEqual("resumed from the saved output" in done.stderr, step > 0)
            self.assertEqual(results(save), expected)

    def test_it_is_nearer_to_the_original(self):
        kl = {}
        for target in ("own", "original"):
            recipe = self.write_recipe(default={"wq": "int3", "group_size": 32}, gptq={"target": target})
            save, _ = self.quantize(target, recipe=recipe, samples=64, length=0, threads=2)
            figures = self.directory / "figures.json"
            self.succeed("eval", "--model", EXAMPLE, "--tokens", EVALUATION, "--quantized", save, "--json", figures,
                         threads=2)
            kl[target] = json.loads(figures.read_text())["kl"]
        self.assertLess(kl["original"], 0.8 * kl["own"])

    def test_families(self):
        for name in ("deepseek_v2", "qwen2_moe", "gpt_oss", "llama"):
            model = FIXTURES / name
            with self.subTest(name):
                keywords = {"model": model, "calibration": model / "golden.h5", "samples": 0, "length": 0}
                one = self.quantize(f"{name}-1", **keywords)[0]
                two = self.quantize(f"{name}-2", ranks=2, **keywords)[0]
                own = self.quantize(f"{name}-own", "--target", "own", **keywords)[0]
                self.assertEqual(results(one), results(two))
                self.assertNotEqual(results(one), results(own))


if __name__ == "__main__":
    unittest.main()
