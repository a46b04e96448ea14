"""The Debian packages that cpack makes of this build: what they say, what they hold, and that it runs.

AQ_BUILD is the build directory, AQ_CPACK the cpack to use.
"""

import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from program import EXAMPLE, SOURCE, environment

BUILD = Path(os.environ.get("AQ_BUILD", "build/dev"))
CPACK = os.environ.get("AQ_CPACK", "cpack")
CONTAINER = SOURCE / "tools" / "container"
TOOLS = ("dpkg-deb", "dpkg-shlibdeps", "file", "readelf")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]


def output(*command, **keywords):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True, timeout=120,
                          **keywords).stdout


def field(package, name):
    return output("dpkg-deb", "-f", package, name).strip()


def dynamic(file, kind):
    """Values of the dynamic section: NEEDED, RUNPATH, ..."""
    return re.findall(rf"\({kind}\).*\[(.*)\]", output("readelf", "-d", file))


def debian_package(library, program):
    """The package that owns a library which the loader finds for `program`; asked of ldd and dpkg."""
    path = re.search(rf"{re.escape(library)} => (\S+)", output("ldd", program)).group(1)
    for name in (path, os.path.realpath(path), "/usr" + path):
        found = subprocess.run(["dpkg", "-S", name], capture_output=True, text=True, check=False).stdout
        if found:
            return found.split(":")[0]
    raise AssertionError(f"{path} belongs to no package")


@unittest.skipIf(MISSING, f"not installed: {', '.join(MISSING)}")
class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory(prefix="aq-dist-package-")
        cls.addClassCleanup(scratch.cleanup)
        cls.folder = Path(scratch.name)
        done = subprocess.run([CPACK, "--config", BUILD / "CPackConfig.cmake", "-B", cls.folder],
                              capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        found = {field(path, "Package"): path for path in cls.folder.glob("*.deb")}
        assert sorted(found) == ["aq-dist", "aq-dist-dev"], found
        cls.package, cls.development = found["aq-dist"], found["aq-dist-dev"]
        cls.tree = cls.folder / "tree"
        output("dpkg-deb", "-x", cls.package, cls.tree)

    def test_what_it_says(self):
        version = re.search(r"VERSION (\S+)", (SOURCE / "CMakeLists.txt").read_text().split("project(")[1]).group(1)
        for package in (self.package, self.development):
            self.assertEqual(field(package, "Version"), version)
            self.assertEqual(field(package, "Architecture"), output("dpkg", "--print-architecture").strip())
            self.assertTrue(field(package, "Description"))
        self.assertEqual(field(self.development, "Depends"), f"aq-dist (= {version})")

    def test_it_depends_on_what_its_files_need(self):
        depends = {word.split()[0] for word in field(self.package, "Depends").split(", ")}
        self.assertIn("openmpi-bin", depends)
        files = [self.tree / "usr" / "bin" / "aq-dist", *(self.tree / "usr" / "lib").glob("libaq-*.so")]
        ours = {file.name for file in files}
        needed = {name: file for file in files for name in dynamic(file, "NEEDED") if name not in ours}
        self.assertTrue(any("torch" in name for name in needed), needed)
        for name, file in needed.items():
            if name.startswith("ld-linux"):
                continue
            owner = debian_package(name, file)
            # One of several packages that give the same BLAS; the others depend on it.
            family = [other for other in depends if owner.startswith(other)]
            self.assertTrue(family, f"{name} of {owner} is needed by {file.name}; it depends on {depends}")

    def test_what_it_holds(self):
        held = {line.split()[5].removeprefix("./") for line in output("dpkg-deb", "-c", self.package).splitlines()}
        for path in ("usr/bin/aq-dist", "usr/lib/libaq-pipeline.so", "usr/share/doc/aq-dist/copyright",
                     "usr/share/doc/aq-dist/README.md", "usr/share/doc/aq-dist/docs/design.md",
                     "usr/share/aq-dist/configs/gptq_example.json", "usr/share/aq-dist/slurm/aq-dist.sbatch",
                     "usr/share/aq-dist/tools/prepare_calibration.py", "usr/share/aq-dist/tools/calibration/chat.py",
                     "usr/share/aq-dist/examples/olmoe-tiny/model.safetensors"):
            self.assertIn(path, held)
        self.assertFalse([path for path in held if path.endswith((".h", ".cmake", ".pyc")) or "__pycache__" in path])
        headers = output("dpkg-deb", "-c", self.development)
        self.assertIn("./usr/include/aq/quant/", headers)
        self.assertIn("./usr/lib/cmake/aq-dist/aq-dist-config.cmake", headers)
        self.assertNotIn(".so", headers)

    def test_a_libtorch_that_no_package_owns_is_refused(self):
        done = subprocess.run([CPACK, "--config", BUILD / "CPackConfig.cmake", "-D", "CPACK_AQ_TORCH=/opt/torch/cmake/Torch",
                               "-B", self.folder / "refused"], capture_output=True, text=True, check=False, timeout=60)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("/opt/torch/cmake/Torch", done.stderr)
        self.assertFalse(list((self.folder / "refused").rglob("*.deb")))

    def test_it_runs_from_where_it_was_unpacked(self):
        program = self.tree / "usr" / "bin" / "aq-dist"
        for file in (program, *(self.tree / "usr" / "lib").glob("libaq-*.so")):
            self.assertEqual(dynamic(file, "RUNPATH"), ["$ORIGIN:$ORIGIN/../lib"], file.name)
        self.assertIn(field(self.package, "Version"), output(program, "--version"))
        share = self.tree / "usr" / "share" / "aq-dist"
        output(program, "quantize", "--model", share / "examples" / EXAMPLE.name, "--config",
               share / "configs" / "gptq_example.json", "--calib", share / "examples" / "calibration.h5", "--nsamples", 2,
               "--seqlen", 32, "--save", self.folder / "run", "--threads", 1, env=environment())
        self.assertTrue((self.folder / "run" / "model.h5").is_file())


class Container(unittest.TestCase):
    """The texts name what there is: files of the tree, actions of the script, one base."""

    def test_they_copy_what_the_tree_has(self):
        docker, apptainer = ((CONTAINER / name).read_text() for name in ("Dockerfile", "aq-dist.def"))
        copied = [line.split()[1:-1] for line in docker.splitlines() if line.startswith("COPY ") and "--from" not in line]
        built, final = (re.findall(r"^ {4}(\S+) \S+$", part.split("%post")[0], re.MULTILINE)
                        for part in (apptainer.split("Stage: build")[1], apptainer.split("Stage: final")[1].split("%files from")[0]))
        for path in [path for paths in copied for path in paths] + built + final:
            self.assertTrue((SOURCE / path).exists(), path)
        named = {word for path in ("CMakeLists.txt", "tools/cmake/AqInstall.cmake")
                 for word in re.findall(r"[\w./]+", (SOURCE / path).read_text())}
        used = {path.name for path in SOURCE.iterdir() if path.name in named} - {"tests", "build"}
        self.assertTrue(used)
        self.assertFalse(used - set(built), "what the build uses is not copied by aq-dist.def")
        ignored = (CONTAINER / "Dockerfile.dockerignore").read_text().split()
        self.assertFalse(used & set(ignored))

    def test_they_run_actions_of_the_script_on_one_base(self):
        script = (CONTAINER / "image.sh").read_text()
        texts = [(CONTAINER / name).read_text() for name in ("Dockerfile", "aq-dist.def")]
        for text in texts:
            actions = re.findall(r'image\.sh"?,? "?(build|install|run|\w+)\b', text)
            self.assertEqual(set(actions), {"build", "install", "run"})
        for action in ("build", "install", "run"):
            self.assertIn(f"\n  {action})\n", script)
        bases = {word for text in texts for word in re.findall(r"^(?:FROM|From:) (\S+)", text, re.MULTILINE)}
        self.assertEqual(len(bases), 1, bases)
        done = subprocess.run([CONTAINER / "image.sh", "run", "sh", "-c", "echo $OMPI_MCA_btl_vader_single_copy_mechanism"],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.stdout, "none\n", done.stderr)


if __name__ == "__main__":
    unittest.main()
