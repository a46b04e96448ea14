#!/usr/bin/env python3
"""Writes tests/golden/formats/elements.json: what ml_dtypes and plain numpy say about the float elements.

    pip install ml_dtypes numpy; tools/make_format_tables.py

values: what every code stands for (null: no finite number). first_bf16: rounding is monotone, so for each
code of a positive value the least bf16 bit pattern that rounds to it says what becomes of all 65,536 inputs.
floats: ties and their neighbours, as float32 bits with their codes. mx_blocks: blocks of 32 quantized by the
definition of OCP MX 1.0, section 6.3, with the shared exponent of each rule.
"""

import json
from pathlib import Path

import ml_dtypes
import numpy as np

OUT = Path(__file__).resolve().parent.parent / "tests/golden/formats/elements.json"
ELEMENTS = {"e2m1": (ml_dtypes.float4_e2m1fn, 4), "e3m2": (ml_dtypes.float6_e3m2fn, 6),
            "e2m3": (ml_dtypes.float6_e2m3fn, 6), "e4m3": (ml_dtypes.float8_e4m3fn, 8),
            "e5m2": (ml_dtypes.float8_e5m2, 8)}


def largest_of(dtype):
    return float(ml_dtypes.finfo(dtype).max)


def round_codes(values, dtype):
    """Codes of float32 values, saturating."""
    largest = np.float32(largest_of(dtype))
    return np.clip(values, -largest, largest).astype(np.float32).astype(dtype).view(np.uint8)


def decode(codes, dtype):
    return codes.astype(np.uint8).view(dtype).astype(np.float32)


def first_inputs(dtype, bits):
    """For each code of a positive value the least bf16 pattern that rounds to it."""
    patterns = np.arange(0x7F81, dtype=np.uint32)  # 0 to infinity
    codes = round_codes((patterns << 16).view(np.float32), dtype)
    assert (np.diff(codes.astype(int)) >= 0).all(), "not monotone"
    negative = round_codes(((patterns | 0x8000) << 16).view(np.float32), dtype)
    assert (negative == (codes | 1 << (bits - 1))).all(), "not odd, or -0 lost"
    return {int(code): int(patterns[codes == code][0]) for code in np.unique(codes)}


def ties(dtype, bits):
    """Midpoints of neighbouring values and the floats beside them."""
    values = decode(np.arange(1 << (bits - 1)), dtype)
    values = np.sort(values[np.isfinite(values)])
    middles = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(np.float32)
    around = np.concatenate([middles, np.nextafter(middles, np.float32(0)),
                             np.nextafter(middles, np.float32(np.inf)), values, [np.float32(values[-1] * 4)]])
    around = np.concatenate([around, -around]).astype(np.float32)
    return [[int(x), int(c)] for x, c in zip(around.view(np.uint32), round_codes(around, dtype))]


def blocks(dtype, rng):
    """Random blocks of bf16 values, among them zeros, tiny and large ones, and absmax around the step of a rule."""
    largest = largest_of(dtype)
    emax = int(np.floor(np.log2(largest)))
    result = []
    for number in range(12):
        values = rng.standard_normal(32) * 2.0 ** rng.integers(-20, 20)
        if number == 0:
            values[:] = 0
        if number == 1:
            values *= 2.0**-126
        if number > 7:  # absmax just below, at and above the largest value times a power of two
            values = rng.uniform(-1, 1, 32)
            values[5] = largest * [0.99, 1, 1.01, 1.3][number - 8]
        values = values.astype(ml_dtypes.bfloat16).astype(np.float32)
        absmax = float(np.abs(values).max())
        exponents, codes = {}, {}
        for rule in ("ocp", "ceil"):
            exponent = 0
            if absmax > 0:
                exponent = int(np.floor(np.log2(absmax))) - emax
                if rule == "ceil" and absmax / 2.0**exponent > largest:
                    exponent += 1
                exponent = max(-127, min(127, exponent))
            exponents[rule] = exponent + 127
            scaled = (values.astype(np.float64) / 2.0**exponent).astype(np.float32)
            codes[rule] = round_codes(scaled, dtype).tolist()
        result.append({"bf16": (values.view(np.uint32) >> 16).tolist(), "e8m0": exponents, "codes": codes})
    return result


def main():
    rng = np.random.default_rng(1)
    tables = {}
    for name, (dtype, bits) in ELEMENTS.items():
        values = decode(np.arange(1 << bits), dtype)
        tables[name] = {"values": [float(v) if np.isfinite(v) else None for v in values],
                        "first_bf16": first_inputs(dtype, bits), "floats": ties(dtype, bits),
                        "mx_blocks": blocks(dtype, rng)}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    lines = [f'"{name}": {json.dumps(table, separators=(",", ":"))}' for name, table in tables.items()]
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
