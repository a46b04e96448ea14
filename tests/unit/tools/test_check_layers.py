#!/usr/bin/env python3
"""Plants violations in a small tree and checks that tools/check_layers.py finds exactly those."""
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TOOL = Path(__file__).resolve().parents[3] / "tools" / "check_layers.py"

GOOD = {
    "include/aq/core/error.h": "#pragma once\n#include <string>\n",
    "include/aq/quant/solver.h": '#pragma once\n#include "aq/core/error.h"\n#include "aq/formats/grid.h"\n',
    "include/aq/formats/grid.h": "#pragma once\n#ifdef __CUDACC__\n#define X\n#else\n#define X\n#endif\n",
    "src/quant/cpu/solver.cpp": '#include "aq/quant/solver.h"\n#include <cblas.h>\n#include "quant/cpu/tile.h"\n',
    "src/quant/cpu/tile.h": "#pragma once\n",
    "src/comm/mpi.cpp": "#include <mpi.h>\n",
    "src/io/hdf5.cpp": '#include <hdf5.h>\n#include <nlohmann/json.hpp>\n#include "hdf5.h"\n',
    "src/runtime/pieces.cpp": "#include <ATen/ops/linear.h>\n#if defined(__AVX2__)\n#endif\n",
    "src/app/main.cpp": '#include <CLI/CLI.hpp>\n#include "aq/quant/solver.h"\n// #include <torch/torch.h>\n',
}


class CheckLayers(unittest.TestCase):
    def run_on(self, planted):
        """Exit code and violation lines for the good tree with some files replaced or added."""
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {**GOOD, **planted}.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            done = subprocess.run([sys.executable, TOOL, folder], capture_output=True, text=True)
        return done.returncode, done.stdout.splitlines()[:-1]

    def expect_one(self, name, text, *words):
        code, lines = self.run_on({name: text})
        self.assertEqual(code, 1, lines)
        self.assertEqual(len(lines), 1, lines)
        for word in (name, *words):
            self.assertIn(word, lines[0])

    def test_the_good_tree_passes(self):
        self.assertEqual(self.run_on({}), (0, []))

    def test_upward_include(self):
        self.expect_one("src/core/a.cpp", '\n#include "aq/io/file.h"\n', ":2:", "core (rank 0)", "io (rank 3)")

    def test_upward_include_in_a_header(self):
        self.expect_one("include/aq/plan/a.h", '#pragma once\n#include "aq/pipeline/run.h"\n', "pipeline")

    def test_same_rank(self):
        self.expect_one("src/comm/a.cpp", '#include "aq/model/model.h"\n', "comm (rank 1)", "model (rank 1)")

    def test_angle_brackets_and_spaces_do_not_hide_it(self):
        self.expect_one("src/core/a.cpp", "  #  include <aq/app/run.h>\n", "app")

    def test_private_header_of_another_module(self):
        self.expect_one("src/app/a.cpp", '#include "io/hdf5.h"\n', "private header of io")

    def test_climbing_path(self):
        self.expect_one("src/app/a.cpp", '#include "../io/hdf5.h"\n', "climbs")

    def test_unknown_modules(self):
        self.expect_one("src/app/a.cpp", '#include "aq/helpers/x.h"\n', "no module")
        self.expect_one("src/helpers/a.cpp", "\n", "'helpers' is no module")
        self.expect_one("src/loose.cpp", "\n", "no module")

    def test_third_party_in_the_wrong_module(self):
        for header, module in [("torch/torch.h", "pipeline"), ("ATen/core/Tensor.h", "app"), ("c10/util/x.h", "quant"),
                               ("mpi.h", "pipeline"), ("nccl.h", "quant"), ("hdf5.h", "report"), ("H5Fpublic.h", "plan"),
                               ("cblas.h", "runtime"), ("cuda_runtime.h", "runtime"), ("CLI/App.hpp", "plan"),
                               ("nlohmann/json.hpp", "quant"), ("omp.h", "quant"), ("xxhash.h", "io")]:
            with self.subTest(header=header):
                self.expect_one(f"src/{module}/a.cpp", f"#include <{header}>\n", header)

    def test_third_party_in_a_public_header_of_the_right_module(self):
        self.expect_one("include/aq/comm/a.h", "#pragma once\n#include <mpi.h>\n", "public header")
        self.expect_one("include/aq/io/a.h", "#pragma once\n#include <nlohmann/json.hpp>\n", "public header")
        self.assertEqual(self.run_on({"include/aq/core/json.h": "#pragma once\n#include <nlohmann/json.hpp>\n"})[0], 0)

    def test_public_headers(self):
        self.expect_one("include/aq/io/a.h", "int x;\n", "pragma once")
        self.expect_one("include/aq/io/a.h", "#pragma once\n#ifdef AQ_HAVE_X\n#endif\n", ":2:", "AQ_HAVE_X")
        self.expect_one("include/aq/io/a.h", "#pragma once\n#if AQ_HAVE_X\n#endif\n", "AQ_HAVE_X")
        self.expect_one("include/aq/io/a.h", "#pragma once\n#pragma pack(1)\n", "pack(1)")

    def test_a_long_file_is_only_a_warning(self):
        code, lines = self.run_on({"src/io/long.cpp": "\n" * 401})
        self.assertEqual(code, 0)
        self.assertEqual(lines, ["src/io/long.cpp: warning: 401 lines, more than 400"])

    def test_an_empty_tree_is_an_error(self):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([sys.executable, TOOL, folder], capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)


if __name__ == "__main__":
    unittest.main()
