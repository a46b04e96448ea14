"""Reads a matrix file with h5py and numpy alone and compares with the values that its writer kept.

Usage: read_with_h5py.py PATH-OF-io_sample_writer. Exit code 77: h5py or numpy is not installed.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

try:
    import h5py
    import numpy as np

    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "support"))
    from matrix_file import checksum, dequantize
except ImportError as error:
    print(f"skipped: {error}; on Debian: apt-get install python3-h5py")
    sys.exit(77)


def check_layout(group):
    """Types, contiguous data, no times."""
    scheme = json.loads(group.attrs["scheme"])
    keys = ["format", "element", "symmetric", "group_size", "scale_dtype"]
    assert [key for key in keys if key in scheme] == list(scheme), scheme
    expected = {"fp32": np.float32, "fp16": np.float16, "bf16": np.uint16, "e8m0": np.uint8,
                "e4m3": np.uint8}[scheme["scale_dtype"]]
    assert group["scales"].dtype == expected and group["codes"].dtype == np.uint32
    assert ("zeros" in group) == (not scheme["symmetric"])
    assert group.attrs["shape"].dtype == np.int64
    assert json.loads(group.attrs["stats"])["method"] == "gptq"
    assert group.attrs["checksum"] == checksum(group), group.name
    for dataset in group.values():
        assert dataset.chunks is None and dataset.ndim == (0 if dataset.name.endswith("global_scale") else 2)
        assert not dataset.id.get_create_plist().get_obj_track_times()


def check_file(directory):
    names = (directory / "sample.txt").read_text().split()
    values = np.fromfile(directory / "sample.f32", np.float32)
    with h5py.File(directory / "sample.h5", "r") as file:
        assert file.attrs["format_version"] == b"1" and file.attrs["model"] == b"sample"
        matrices = file["matrices"]
        assert sorted(matrices) == sorted(names) and matrices.attrs["count"] == len(names)
        order = []
        matrices.id.links.iterate(
            lambda name: order.append(name.decode()), idx_type=h5py.h5.INDEX_CRT_ORDER)
        assert order == names, "order of writing"
        begin = 0
        for name in names:
            check_layout(matrices[name])
            found = dequantize(matrices[name])
            expected = values[begin : begin + found.size].reshape(found.shape)
            assert np.array_equal(found, expected), name
            begin += found.size
        assert begin == values.size
        hessian = file["hessians/model.h"]
        assert hessian["upper"][:].tolist() == [1, 2, 3] and hessian.attrs["tokens"] == 7
        assert hessian.attrs["weight_sum"] == 0.5 and hessian.attrs["checksum"] == checksum(hessian)
        assert hessian.attrs["used_by"].tolist() == [b"model.h", b"model.other"]
    return len(names)


def main():
    memory = "/dev/shm"  # files are synced, which a busy disk makes slow
    in_memory = "TMPDIR" not in os.environ and os.access(memory, os.W_OK)
    with tempfile.TemporaryDirectory(dir=memory if in_memory else None) as directory:
        subprocess.run([sys.argv[1], directory], check=True)
        print(f"{check_file(pathlib.Path(directory))} matrices agree with numpy")


main()
