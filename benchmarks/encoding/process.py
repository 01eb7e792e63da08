"""``python -m benchmarks.encoding.process WAY ARCHITECTURE DIR``: one process that encodes.

It is a line of JSON: seconds from the first line of this file to an encoder that is loaded, of the
first call and of the median of the next, for an image and for a text; and bytes of memory, at most
and at the end, of which the process's own are those that no file on the disk could give back.
"""

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import json  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks.encoding.made import PRETRAINED  # noqa: E402

_NEXT = 4


def loaded(way: str, name: str, folder: Path) -> Any:
    """``torch``, or an export in ``onnx`` or ``half``, known unless ``checked``."""
    if way == "torch":
        from gmi_registry.encoders.open_clip import OpenClipEncoder

        return OpenClipEncoder.from_folder(folder, name, PRETRAINED)
    from gmi_registry.encoders.onnx import OnnxEncoder

    where, _, checked = way.partition(" ")
    memory = None if checked else folder / "checked"
    return OnnxEncoder.from_folder(folder / where, memory=memory)


def calls(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the first, and the median of those after it."""
    found = []
    for _ in range(1 + _NEXT):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return found[0], statistics.median(found[1:])


def memory() -> dict[str, int]:
    """Bytes, as Linux counts them."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = dict(line.split(":", 1) for line in lines)
    names = {"peak": "VmHWM", "own": "RssAnon", "mapped": "RssFile"}
    return {name: int(found[key].split()[0]) * 1024 for name, key in names.items()}


def main() -> None:
    way, name, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    encoder = loaded(way, name, folder)
    took: dict[str, float] = {"load": time.perf_counter() - BEGAN}
    import numpy as np
    from PIL import Image

    values = np.random.default_rng(5).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    picture = Image.fromarray(values)
    took["first image"], took["next image"] = calls(lambda: encoder.encode_images([picture]))
    of_images = memory()
    took["first text"], took["next text"] = calls(lambda: encoder.encode_texts(["a red apple"]))
    print(json.dumps({"took": took, "of images": of_images, "of both": memory()}))


if __name__ == "__main__":
    main()
