"""Reads matrices of model.h5 and of shards with h5py and numpy alone: the oracle of the tests."""

import json
import struct

import numpy as np

PRIMES = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
MASK = (1 << 64) - 1

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


def rotate(value, bits):
    return (value << bits | value >> (64 - bits)) & MASK


def xxh64(data, seed=0):
    """XXH64 of bytes, after its specification."""
    p1, p2, p3, p4, p5 = PRIMES

    def step(total, word):
        return rotate((total + word * p2) & MASK, 31) * p1 & MASK

    stripes = len(data) // 32
    total = (seed + p5) & MASK
    if stripes:
        sums = [(seed + p1 + p2) & MASK, (seed + p2) & MASK, seed, (seed - p1) & MASK]
        for words in struct.iter_unpack("<4Q", data[: 32 * stripes]):
            sums = [step(lane, word) for lane, word in zip(sums, words)]
        total = sum(rotate(lane, bits) for lane, bits in zip(sums, (1, 7, 12, 18))) & MASK
        for lane in sums:
            total = ((total ^ step(0, lane)) * p1 + p4) & MASK
    total = (total + len(data)) & MASK
    rest = data[32 * stripes :]
    for (word,) in struct.iter_unpack("<Q", rest[: len(rest) // 8 * 8]):
        total = (rotate(total ^ step(0, word), 27) * p1 + p4) & MASK
    rest = rest[len(rest) // 8 * 8 :]
    if len(rest) >= 4:
        total = (rotate(total ^ (struct.unpack("<I", rest[:4])[0] * p1 & MASK), 23) * p2 + p3) & MASK
        rest = rest[4:]
    for byte in rest:
        total = rotate(total ^ (byte * p5 & MASK), 11) * p1 & MASK
    total = (total ^ total >> 33) * p2 & MASK
    total = (total ^ total >> 29) * p3 & MASK
    return total ^ total >> 32


def attribute_bytes(value):
    """An attribute as it enters the checksum."""
    if isinstance(value, bytes):
        return value
    if value.dtype.kind == "S":
        return b"\n".join(value.tolist())
    return value.tobytes()


def checksum(group):
    """What the attribute `checksum` of a matrix or of a kept Hessian must be."""
    total = xxh64(group.name.rsplit("/", 1)[1].encode())
    parts = [(name, attribute_bytes(group.attrs[name])) for name in sorted(group.attrs) if name != "checksum"]
    for name in sorted(group):
        parts.append((name, group[name][()].tobytes()))
        parts += [(key, attribute_bytes(group[name].attrs[key])) for key in sorted(group[name].attrs)]
    for name, data in parts:
        total = xxh64(data, xxh64(name.encode(), total))
    return f"{total:016x}".encode()
