"""The test that runs `verify`, on a whole run or export and on copies of it that are damaged in one way each, and what
damages them."""

import json
import shutil
import struct

from program import CALIBRATION, EXAMPLE, ProgramTest, quantize_arguments, run
from exported_checkpoint import read_safetensors
from matrix_file import xxh64

EXPERT = "model.layers.1.mlp.experts.{}.up_proj"
FIRST, SECOND = EXPERT.format(5), EXPERT.format(6)
MANIFEST = "aq-dist-manifest.json"


# ---- what damages a file of the directory

def text(name, old, new):
    def damage(directory):
        path = directory / name
        content = path.read_text()
        assert content.count(old) >= 1, old
        path.write_text(content.replace(old, new, 1))
    return damage


def remove(name):
    return lambda directory: (directory / name).unlink()


def flip_file(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 2
    path.write_bytes(data)


# ---- what damages an export

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


class VerifyTest(ProgramTest):
    SKIPPED = [{"pattern": "model.layers.0.*", "skip": True}]

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
