#!/usr/bin/env python3
"""Tests of tools/prepare_calibration.py with the tokenizer of the embedded example.

Needs python3-h5py and python3-numpy; what tokenizes is skipped where the Python package `tokenizers` is missing.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "prepare_calibration.py"
TOKENIZER = ROOT / "examples" / "olmoe-tiny"
LINE = "The mero {} sees a lamp near Bado; 12+{}={}.\n"


def missing(*packages):
    """A reason to skip, or an empty string."""
    absent = [package for package in packages if importlib.util.find_spec(package) is None]
    return f"Python packages are missing: {', '.join(absent)}" if absent else ""


NO_HDF5 = missing("h5py", "numpy")
NO_TOKENIZERS = missing("h5py", "numpy", "tokenizers")


class PrepareCalibration(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.directory = pathlib.Path(scratch.name)
        self.text = self.directory / "text.txt"
        self.text.write_text("".join(LINE.format(i, i, 12 + i) for i in range(300)), encoding="utf-8")
        self.out = self.directory / "tokens.h5"

    def run_script(self, *arguments, environment=None):
        command = [sys.executable, str(SCRIPT), "--out", str(self.out), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120,
                              env={**os.environ, **(environment or {})})

    def tokens(self):
        import h5py
        with h5py.File(self.out) as file:
            return file["tokens"][:], dict(file.attrs)

    def tokenize(self, *arguments):
        result = self.run_script("--tokenizer", TOKENIZER, "--text", self.text, *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    @unittest.skipIf(NO_TOKENIZERS, NO_TOKENIZERS)
    def test_windows_decode_to_the_text(self):
        import tokenizers
        self.tokenize("--nsamples", 8, "--seqlen", 64)
        tokens, attributes = self.tokens()
        self.assertEqual(tokens.dtype, "int32")
        self.assertEqual(tokens.shape, (8, 64))
        self.assertEqual(int(attributes["seed"]), 0)
        self.assertEqual(int(attributes["vocab_size"]), 512)
        self.assertEqual(bytes(attributes["source"]), b"text.txt")
        tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
        text = self.text.read_text(encoding="utf-8")
        decoded = [tokenizer.decode(row.tolist()) for row in tokens]
        self.assertTrue(all(window in text for window in decoded))
        self.assertEqual(len(set(decoded)), 8, "windows are drawn without replacement")

    @unittest.skipIf(NO_TOKENIZERS, NO_TOKENIZERS)
    def test_seed_decides(self):
        self.tokenize("--nsamples", 4, "--seqlen", 32, "--seed", 7)
        first = self.out.read_bytes()
        self.tokenize("--nsamples", 4, "--seqlen", 32, "--seed", 7)
        self.assertEqual(first, self.out.read_bytes())
        self.tokenize("--nsamples", 4, "--seqlen", 32, "--seed", 8)
        self.assertNotEqual(first, self.out.read_bytes())

    @unittest.skipIf(NO_TOKENIZERS, NO_TOKENIZERS)
    def test_little_text_gives_fewer_windows_with_a_warning(self):
        result = self.tokenize("--nsamples", 1000, "--seqlen", 1024)
        self.assertIn("warning", result.stderr)
        self.assertLess(self.tokens()[0].shape[0], 1000)

    @unittest.skipIf(NO_TOKENIZERS, NO_TOKENIZERS)
    def test_too_little_text_is_an_error_and_keeps_the_old_file(self):
        self.out.write_text("old")
        result = self.run_script("--tokenizer", TOKENIZER, "--text", self.text, "--seqlen", 1000000)
        self.assertEqual(result.returncode, 3)
        self.assertIn("--seqlen", result.stderr)
        self.assertEqual(self.out.read_text(), "old")
        self.assertEqual(sorted(p.name for p in self.directory.iterdir()), ["text.txt", "tokens.h5"])

    @unittest.skipIf(NO_TOKENIZERS, NO_TOKENIZERS)
    def test_text_that_is_not_utf8(self):
        self.text.write_bytes(b"good \xff bad")
        result = self.run_script("--tokenizer", TOKENIZER, "--text", self.text)
        self.assertEqual(result.returncode, 3)
        self.assertIn("not UTF-8 at byte 5", result.stderr)

    @unittest.skipIf(NO_HDF5, NO_HDF5)
    def test_missing_package_names_the_command(self):
        hidden = self.directory / "hidden"
        hidden.mkdir()
        (hidden / "tokenizers.py").write_text("raise ImportError('hidden by the test')\n")
        result = self.run_script("--tokenizer", TOKENIZER, "--text", self.text, environment={"PYTHONPATH": str(hidden)})
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn("pip install tokenizers", result.stderr)
        self.assertEqual(len(result.stderr.splitlines()), 1)

    @unittest.skipIf(NO_HDF5, NO_HDF5)
    def test_directory_without_tokenizer(self):
        result = self.run_script("--tokenizer", self.directory, "--text", self.text)
        self.assertEqual(result.returncode, 3)
        self.assertIn("neither tokenizer.json nor tokenizer.model", result.stderr)

    def test_command_line_errors(self):
        self.assertEqual(self.run_script("--tokenizer", TOKENIZER).returncode, 2)
        self.assertEqual(self.run_script("--tokenizer", TOKENIZER, "--dataset", "pile").returncode, 2)
        result = self.run_script("--tokenizer", TOKENIZER, "--text", self.text, "--nsamples", "0")
        self.assertEqual(result.returncode, 2)
        self.assertIn("1 or more", result.stderr)


if __name__ == "__main__":
    unittest.main()
