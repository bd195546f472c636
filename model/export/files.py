"""What the files of an export are called, and the version of their format; without torch."""

from typing import Literal

FORMAT_VERSION: Literal[1] = 1

ENCODER = "encoder.onnx"
RECOMMENDER = "recommender.onnx"
ITEM_TABLE = "items.bin"
# Of large catalogues: the same answers, faster on CPUs.
CPU_RECOMMENDER = "recommender_cpu.onnx"
CODES = "items_int8.bin"
# Where asked for: almost the same answers, for GPUs.
FLOAT16_RECOMMENDER = "recommender_fp16.onnx"
FLOAT16_TABLE = "items_fp16.bin"
