"""Flower's functions of secure aggregation, measured inside of its own environment: prints seconds as JSON.

    .venv-flower/bin/python benchmarks/support/flower_secagg.py PARAMETERS TENSORS

Parameters as Flower's workflow sets them by default: clipping 8, quantisation to 2^22, modulus 2^32.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition, parameters_mod
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

CLIP, TARGET_RANGE, MODULUS = 8.0, 1 << 22, 1 << 32


def main() -> None:
    """Measure each function once, after a first call that is not counted."""
    parameters, tensors = (int(word) for word in sys.argv[1:])
    random = np.random.default_rng(1)
    delta = [random.normal(size=parameters // tensors).astype(np.float32) for _ in range(tensors)]
    shapes = [tensor.shape for tensor in delta]
    before = _peak_bytes()
    quantized = quantize(delta, CLIP, TARGET_RANGE)
    quantizing_bytes = _peak_bytes() - before

    def mask() -> None:
        parameters_mod(parameters_addition(quantized, pseudo_rand_gen(b"k" * 32, MODULUS, shapes)), MODULUS)

    mask()
    found = {
        "quantize": _cpu_seconds(lambda: quantize(delta, CLIP, TARGET_RANGE)),
        "pseudo_rand_gen": _cpu_seconds(lambda: pseudo_rand_gen(b"k" * 32, MODULUS, shapes)),
        "mask": _cpu_seconds(mask),
        "extra_bytes": max(quantizing_bytes, _peak_bytes() - before),
        "versions": f"flwr {version('flwr')}, numpy {version('numpy')}",
    }
    print(json.dumps(found))


def _cpu_seconds(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
