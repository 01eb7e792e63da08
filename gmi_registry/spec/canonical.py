"""Canonical JSON (RFC 8785): one value, one sequence of bytes; and the bounds of the format.

Ids and digests are taken over these bytes, so number formatting and key order are part of the
format. The reader here is stricter than :func:`json.loads`: repeated keys, ``NaN``, unpaired
surrogates and bytes that are not UTF-8 are refused.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from json.encoder import encode_basestring

MANIFEST_LIMIT = 256 * 1024
"""Bytes of ``spec.json``."""

TENSORS_LIMIT = 16 * 1024 * 1024
"""Bytes of ``spec.tensors``."""

NORM_RANGE = (1e-3, 1e4)
"""L2 norms that an embedding may have: outside it, something other than an encoder spoke."""

MAX_DEPTH = 32
"""Containers may be nested this deep."""

MAX_VALUES = 10_000
"""Objects, arrays, strings, numbers and literals in one document, at all depths."""

MAX_NUMBER = 2**53 - 1
"""Largest magnitude of a number: the range in which an IEEE double holds every integer."""

_TOO_LARGE = "a number is not finite, or lies beyond 2^53 - 1"


def canonical_json(value: object) -> bytes:
    """The RFC 8785 form of ``value``, without a final newline.

    ``value`` is made of mappings with string keys, lists or tuples, strings, bools, numbers and
    None. Raises ValueError for anything else, for a number that is not finite or exceeds
    ``MAX_NUMBER``, for nesting deeper than ``MAX_DEPTH`` and for unpaired surrogates.
    """
    pieces: list[str] = []
    _append(value, pieces, MAX_DEPTH)
    return "".join(pieces).encode("utf-8")


def canonical_digest(value: object) -> str:
    """SHA-256 of the canonical JSON of ``value``, in lower-case hex.

    Raises ValueError where :func:`canonical_json` does.
    """
    return hashlib.sha256(canonical_json(value)).hexdigest()


def parse_json(data: bytes) -> object:
    """Parse UTF-8 JSON strictly; the value is made of dict, list, str, int, float, bool and None.

    Raises ValueError with a one-line reason. Whether a float is finite and in range is not judged
    here, but where the value is spelled again (:func:`canonical_json`).
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    try:
        value: object = json.loads(
            text, object_pairs_hook=_unique_keys, parse_int=_integer, parse_constant=_no_constant
        )
        _check_extent(value)
    except RecursionError:
        raise ValueError(f"JSON nested deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from None
    return value


def _check_extent(value: object) -> None:
    # Before any other program looks at it: 80,000 empty objects where weight files should be take
    # a validator a second and 250 MB to complain about.
    level, count = [value], 1
    for depth in range(MAX_DEPTH + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return
        if depth == MAX_DEPTH:
            raise ValueError(f"JSON nested deeper than {MAX_DEPTH} levels")
        level = []
        for container in containers:
            level.extend(container.values() if isinstance(container, dict) else container)
        count += len(level)
        if count > MAX_VALUES:
            raise ValueError(f"holds more than {MAX_VALUES:,} values")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:80]!r} appears twice in one object")
            seen.add(key)
    return found


def _integer(digits: str) -> int:
    # Python takes quadratic time over long integers, and then refuses them with advice to
    # programmers.
    if len(digits) > len(str(-MAX_NUMBER)):
        raise ValueError(_TOO_LARGE)
    return int(digits)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")


def _append(value: object, pieces: list[str], depth: int) -> None:
    if value is None:
        pieces.append("null")
    elif isinstance(value, bool):  # before int: a bool is an int in Python
        pieces.append("true" if value else "false")
    elif isinstance(value, str):
        pieces.append(encode_basestring(value))
    elif isinstance(value, int | float):
        pieces.append(_number(value))
    elif depth == 0:
        raise ValueError(f"JSON nested deeper than {MAX_DEPTH} levels")
    elif isinstance(value, Mapping):
        _append_object(value, pieces, depth - 1)
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            pieces.append("," if position else "[")
            _append(item, pieces, depth - 1)
        pieces.append("]" if value else "[]")
    else:
        raise ValueError(f"{type(value).__name__} has no place in JSON")


def _append_object(value: Mapping[object, object], pieces: list[str], depth: int) -> None:
    keys: list[str] = []
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"the key {key!r} is not a string")
        keys.append(key)
    # RFC 8785 orders by UTF-16 code units, which differs from code points above U+FFFF.
    keys.sort(key=lambda key: key.encode("utf-16-be", "surrogatepass"))
    for position, key in enumerate(keys):
        pieces.append("," if position else "{")
        pieces.append(encode_basestring(key))
        pieces.append(":")
        _append(value[key], pieces, depth)
    pieces.append("}" if keys else "{}")


def _number(value: int | float) -> str:
    """ECMAScript's shortest form: 7.0 is ``7``, 1e-05 is ``0.00001``, 1e-07 is ``1e-7``."""
    if not math.isfinite(value) or abs(value) > MAX_NUMBER:
        raise ValueError(_TOO_LARGE)
    if value == int(value):
        return str(int(value))
    sign, digit_tuple, exponent = Decimal(repr(value)).as_tuple()
    digits = "".join(map(str, digit_tuple))
    assert isinstance(exponent, int)
    point = len(digits) + exponent  # the value is 0.digits times 10 ** point
    if point > 0:
        body = f"{digits[:point]}.{digits[point:]}"
    elif point > -6:
        body = f"0.{'0' * -point}{digits}"
    else:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        body = f"{digits[0]}{fraction}e{point - 1}"
    return f"-{body}" if sign else body
