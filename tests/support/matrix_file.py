"""Reads matrices of model.h5 and of shards with h5py and numpy alone: the oracle of the tests."""

import json

import numpy as np

# Exponent bits, mantissa bits, bias (OCP MX 1.0, OCP FP8).
FLOATS = {"e2m1": (2, 1, 1), "e3m2": (3, 2, 3), "e2m3": (2, 3, 1), "e4m3": (4, 3, 7), "e5m2": (5, 2, 15)}


def float_values(codes, element):
    """What the codes of a small float stand for: (exponent bits, mantissa bits, bias) of OCP MX."""
    exponent_bits, mantissa_bits, bias = FLOATS[element]
    mantissa = codes & ((1 << mantissa_bits) - 1)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    normal = exponent > 0
    significand = mantissa / 2.0**mantissa_bits + normal
    sign = np.where(codes >> (exponent_bits + mantissa_bits) & 1, -1.0, 1.0)
    return (sign * significand * 2.0 ** (np.maximum(exponent, 1) - bias)).astype(np.float32)


def read_scales(group):
    """Scales as float32, whatever their encoding; those of nvfp4 divided by the global scale."""
    scales = group["scales"][:]
    encoding = group["scales"].attrs.get("encoding")
    if encoding == b"bf16":
        return (scales.astype(np.uint32) << 16).view(np.float32)
    if encoding == b"e8m0":
        return 2.0 ** (scales.astype(np.float32) - 127)
    if encoding == b"e4m3":
        return float_values(scales.astype(np.int64), "e4m3") / group["global_scale"][()]
    return scales.astype(np.float32)


def dequantize(group):
    """The values [rows, columns] of a matrix: (code - zero) * scale, or element * scale."""
    scheme = json.loads(group.attrs["scheme"])
    rows, columns = group.attrs["shape"]
    element = scheme.get("element")
    bits = sum(FLOATS[element][:2]) + 1 if element else int(scheme["format"].removeprefix("int"))
    stream = np.unpackbits(group["codes"][:].view(np.uint8), axis=1, bitorder="little")
    assert not stream[:, bits * columns:].any(), "padding"
    codes = stream[:, : bits * columns].reshape(rows, columns, bits) @ (1 << np.arange(bits))
    scales = read_scales(group)
    zeros = np.full(scales.shape, 1 << (bits - 1)) if scheme["symmetric"] else group["zeros"][:]
    size = scheme["group_size"]
    if size > 0:
        scales, zeros = (np.repeat(x, size, axis=1)[:, :columns] for x in (scales, zeros))
    if element:
        return float_values(codes, element) * scales
    return (codes - zeros.astype(np.int64)).astype(np.float32) * scales
