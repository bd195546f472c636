"""File names of an export, and the version of their format. This module imports no torch."""

from typing import Literal

FORMAT_VERSION: Literal[1] = 1

ENCODER = "encoder.onnx"
RECOMMENDER = "recommender.onnx"
ITEM_TABLE = "items.bin"
# Large catalogues only: the same results, faster on CPUs.
CPU_RECOMMENDER = "recommender_cpu.onnx"
INT8_TABLE = "items_int8.bin"
# With export.fp16 only: nearly the same results, for GPUs.
FLOAT16_RECOMMENDER = "recommender_fp16.onnx"
FLOAT16_TABLE = "items_fp16.bin"
