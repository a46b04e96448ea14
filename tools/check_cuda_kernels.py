#!/usr/bin/env python3
"""Compiles the kernels of GPUs and prints what each of them takes of a multiprocessor.

    tools/check_cuda_kernels.py [--architecture 80 ...] [--into FILE]

Needs nvcc (on PATH, or where CUDA_HOME or /usr/local/cuda have it) and no GPU. Exit code 1 where a kernel does not compile,
spills registers or uses a stack; 0 with a word where there is no nvcc. --into puts the table between the lines
`<!-- kernels -->` and `<!-- end -->` of a file."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "quant" / "cuda" / "cuda.cu"
INCLUDES = [f"-I{ROOT / 'include'}", f"-I{ROOT / 'src'}"]
KERNEL = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'\n.*\n\s+(\d+) bytes stack frame, (\d+) bytes spill stores, "
                    r"(\d+) bytes spill loads\n.*Used (\d+) registers")
# Prints name, threads and bytes of shared memory of each kernel.
SIZES = """
#include <cstdio>
#include "quant/cuda/accelerator.h"
template <class Body> void print() {
  std::printf("%s %d %zu\\n", __PRETTY_FUNCTION__, Body::kThreads, sizeof(typename Body::Shared));
}
template <class... Bodies> void print_all(const std::variant<Bodies...>*) { (print<Bodies>(), ...); }
int main() { print_all(static_cast<const aq::cuda::Kernel*>(nullptr)); }
"""


def find_nvcc():
    for folder in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if folder and (Path(folder) / "bin" / "nvcc").is_file():
            return str(Path(folder) / "bin" / "nvcc")
    return shutil.which("nvcc")


def short_name(text):
    return re.sub(r"\baq::(cuda::)?", "", text).strip()


def sizes(folder):
    """Of each kernel: threads of a block, bytes of shared memory."""
    source, program = folder / "sizes.cpp", folder / "sizes"
    source.write_text(SIZES)
    subprocess.run([os.environ.get("CXX", "c++"), "-std=c++20", *INCLUDES, source, "-o", program], check=True)
    printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return {short_name(name): (int(threads), int(shared))
            for name, threads, shared in re.findall(r"Body = (.*)\] (\d+) (\d+)", printed)}


def compiled(nvcc, architectures, folder):
    """(kernel, architecture, stack, spilled bytes, registers) of each."""
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in architectures]
    done = subprocess.run([nvcc, "-std=c++20", "-O3", "--expt-relaxed-constexpr", *targets, "-Xptxas", "-v", *INCLUDES, "-c",
                           SOURCE, "-o", folder / "cuda.o"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    for warning in re.findall(r".*warning.*", done.stderr):
        sys.exit(f"a warning of nvcc: {warning}")
    for symbol, architecture, stack, stores, loads, registers in KERNEL.findall(done.stderr):
        name = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout
        body = re.search(r"run_kernel<(.*)>\(", name)
        yield short_name(body.group(1)), architecture, int(stack), int(stores) + int(loads), int(registers)


def table(rows, found):
    text = ["| kernel | threads | shared memory, bytes | " + " | ".join(f"registers, {a}" for a in found) + " |",
            "| --- | --- | --- | " + " | ".join("---" for _ in found) + " |"]
    for name, (threads, shared) in rows.items():
        registers = " | ".join(str(of_kernel[name]) for of_kernel in found.values())
        text.append(f"| `{name}` | {threads} | {shared if shared > 1 else 0} | {registers} |")
    return "\n".join(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", nargs="+", default=["80", "90"], metavar="NUMBER", help="compute capabilities")
    parser.add_argument("--into", type=Path, metavar="FILE", help="Markdown that receives the table")
    options = parser.parse_args()
    nvcc = find_nvcc()
    if nvcc is None:
        print("no nvcc: kernels of GPUs are not compiled")
        return 0
    with tempfile.TemporaryDirectory() as name:
        rows = sizes(Path(name))
        found, poor = {}, []
        for kernel, architecture, stack, spilled, registers in compiled(nvcc, options.architecture, Path(name)):
            found.setdefault(architecture, {})[kernel] = registers
            if stack or spilled:
                poor.append(f"{kernel} on {architecture}: {stack} bytes of stack, {spilled} bytes spilled")
    missing = [name for name in rows for of_kernel in found.values() if name not in of_kernel]
    if missing or len(found) != len(options.architecture):
        poor.append(f"not found in the output of nvcc: {', '.join(missing) or 'an architecture'}")
    text = table(rows, found) if not missing else ""
    print(text)
    print("\n".join(poor), file=sys.stderr)
    if options.into:
        before, rest = options.into.read_text().split("<!-- kernels -->")
        after = rest.split("<!-- end -->")[1]
        options.into.write_text(f"{before}<!-- kernels -->\n{text}\n<!-- end -->{after}")
    return 1 if poor else 0


if __name__ == "__main__":
    sys.exit(main())
