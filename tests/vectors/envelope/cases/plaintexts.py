"""What is inside: layouts and codecs, good at their edges and wrong in every way; ENVELOPE.md §7."""

import json
from typing import Any

import numpy as np
import zstandard

from pqfl_transport.content.codecs import encode as encode_codec
from pqfl_transport.content.codecs import with_codec
from pqfl_transport.content.tensors import TensorLayout
from tests.support.envelopes import Keys
from tests.support.forging import Forgery, layout
from tests.vectors.envelope.cases.entries import Entry, Rows, bad, good, rows

_F32_PAIR = bytes.fromhex("0000803f00000040")
_WORDS = {
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4", "I32": "<i4",
    "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
_EXTENSIONS = {"BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1}


def _tensor(dtype: str = "F32", shape: str = "[2]", offsets: str = "[0,8]") -> str:
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'


def layouts(keys: Keys) -> list[Entry]:
    """Return envelopes whose plaintext is at an edge of the layout or beyond it."""
    forged = Forgery(keys=keys)

    def sealed(plaintext: bytes) -> bytes:
        return forged.having(plaintext=plaintext).seal()

    found = [bad("§7", name, sealed(plaintext), "malformed") for name, plaintext in _malformed().items()]
    return [
        *found,
        bad("§7", "a layout header above 16 MiB", sealed(((16 << 20) + 1).to_bytes(8, "little") + b"{}"), "too_large"),
        bad("§7", "a tensor of an unknown type", sealed(layout(f'{{"w":{_tensor("F4")}}}', _F32_PAIR)), "unsupported"),
        bad("§7", "a tensor whose type is a number",
            sealed(layout('{"w":{"dtype":32,"shape":[2],"data_offsets":[0,8]}}', _F32_PAIR)), "unsupported"),
        *(good("§7", name, sealed(plaintext), tensors=tensors, metadata={})
          for name, plaintext, tensors in _unusual()),
    ]  # fmt: skip


def _malformed() -> dict[str, bytes]:
    w = f'"w":{_tensor()}'
    apart = f'"a":{_tensor("U8", offsets="[0,2]")},"b":{_tensor("U8", offsets="[6,8]")}'
    whole = layout(f"{{{w}}}", _F32_PAIR)
    objects = {
        "a layout that is a list": "[]",
        "a layout that is not JSON": "{w}",
        "a layout with a comma behind the last member": f"{{{w},}}",
        "two JSON objects": f"{{{w}}}{{}}",
        "a tensor's name twice": f'{{{w},"w":{_tensor(shape="[0]", offsets="[8,8]")}}}',
        "a member of a tensor twice": '{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        "a name of metadata twice": f'{{"__metadata__":{{"a":"1","a":"2"}},{w}}}',
        "metadata that are no strings": f'{{"__metadata__":{{"a":1}},{w}}}',
        "metadata that are null": f'{{"__metadata__":null,{w}}}',
        "half a surrogate pair in a name": f'{{"\\ud800":{_tensor()}}}',
        "half a surrogate pair in metadata": f'{{"__metadata__":{{"a":"\\udc00"}},{w}}}',
        "a tensor without its shape": '{"w":{"dtype":"F32","data_offsets":[0,8]}}',
        "a tensor with a member more": '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}}',
        "a tensor that is null": '{"w":null}',
        "a size that is negative": f'{{"w":{_tensor(shape="[-2]")}}}',
        "a size that is a fraction": f'{{"w":{_tensor(shape="[2.0]")}}}',
        "a size that is true": f'{{"w":{_tensor(shape="[true,2]")}}}',
        "a size that is a string": f'{{"w":{_tensor(shape=chr(91) + chr(34) + "2" + chr(34) + chr(93))}}}',
        "a size of 2^48": f'{{"w":{_tensor(shape="[281474976710656,0]", offsets="[0,0]")}}}',
        "sizes whose product runs over": f'{{"w":{_tensor(shape="[4294967296,4294967296,2]")}}}',
        "33 dimensions": f'{{"w":{_tensor(shape=json.dumps([1] * 32 + [2]))}}}',
        "a shape that does not fit its offsets": f'{{"w":{_tensor(shape="[3]")}}}',
        "three offsets": f'{{"w":{_tensor(offsets="[0,8,8]")}}}',
        "offsets that go back": f'{{"w":{_tensor(shape="[0]", offsets="[8,0]")}}}',
        "a gap before the first tensor": f'{{"w":{_tensor(shape="[1]", offsets="[4,8]")}}}',
        "a gap between two": f"{{{apart}}}",
        "two tensors over each other": f'{{"a":{_tensor()},"b":{_tensor(shape="[1]", offsets="[4,8]")}}}',
        "bytes behind the last tensor": f'{{"w":{_tensor(shape="[1]", offsets="[0,4]")}}}',
        "a tensor beyond the plaintext": f'{{"w":{_tensor(shape="[3]", offsets="[0,12]")}}}',
        "a list whose tensors have names": f'{{"__metadata__":{{"pqfl.container":"list"}},{w}}}',
        "a codec in the metadata that the header does not name": f'{{"__metadata__":{{"pqfl.codec":"[null]"}},{w}}}',
    }
    return {
        "a plaintext of four bytes": b"\0\0\0\0",
        "an empty plaintext": b"",
        "a layout header beyond the plaintext": len(whole).to_bytes(8, "little") + whole[8:],
        "a layout that is not UTF-8": layout(b'{"\xff":' + _tensor().encode() + b"}", _F32_PAIR),
        "a layout in UTF-16": layout(f"{{{w}}}".encode("utf-16"), _F32_PAIR),
        **{name: layout(text, _F32_PAIR) for name, text in objects.items()},
    }


def _unusual() -> list[tuple[str, bytes, Rows]]:
    pair = [["w", "<f4", [2], _F32_PAIR.hex()]]
    every, data = {}, b""
    for number, (word, dtype) in enumerate(_WORDS.items()):
        size = np.dtype(dtype).itemsize
        every[word] = (word, len(data), data := data + bytes([number % 2]) + bytes(size - 1))
    text = ",".join(
        f'"{name}":{_tensor(word, "[]", f"[{begin},{len(upto)}]")}' for name, (word, begin, upto) in every.items()
    )
    found: Rows = [[name, _WORDS[word], [], upto[begin:].hex()] for name, (word, begin, upto) in every.items()]
    a, b = _tensor(shape="[1]", offsets="[0,4]"), _tensor(shape="[1]", offsets="[4,8]")
    swapped = [["a", "<f4", [1], "0000803f"], ["b", "<f4", [1], "00000040"]]
    extended = ",".join(
        f'"{word}":{_tensor(word, "[0,2]", "[0,0]")}' for word in _EXTENSIONS
    )  # fmt: skip
    names = f'{{"ö":{_tensor(shape="[1]", offsets="[0,4]")},"o\\u0308":{_tensor(shape="[1]", offsets="[4,8]")}}}'
    return [
        ("one number of every type", layout(f"{{{text}}}", data), found),
        ("types of other libraries, without elements", layout(f"{{{extended}}}"),
         [[word, word, [0, 2], ""] for word in _EXTENSIONS]),
        ("members in another order than the tensors", layout(f'{{"b":{b},"a":{a}}}', _F32_PAIR), swapped),
        ("two names that look alike", layout(names, _F32_PAIR),
         [["ö", "<f4", [1], "0000803f"], ["o\u0308", "<f4", [1], "00000040"]]),
        ("white space in the JSON", layout(f' {{\n"w" :\t{_tensor()} }} ', _F32_PAIR), pair),
        ("a header that is not padded", (len(_tensor()) + 6).to_bytes(8, "little") + f'{{"w":{_tensor()}}}'.encode()
         + _F32_PAIR, pair),
        ("members of a tensor in another order",
         layout('{"w":{"data_offsets":[0,8],"shape":[2],"dtype":"F32"}}', _F32_PAIR), pair),
    ]  # fmt: skip


def codecs(keys: Keys) -> list[Entry]:
    """Return envelopes under each codec, good and wrong."""
    base = np.array([-1, 0.5, 0.25, -0.125, 3, 0, 1e-3, -2.5], np.float64)
    weights: dict[str, Any] = {
        "h": base.astype(np.float16), "s": base.astype(np.float32).reshape(2, 4), "d": base, "i": np.arange(3),
        "e": np.zeros((0, 4), np.float32), "z": np.zeros(4, np.float32),
    }  # fmt: skip
    sparse = {"s": np.zeros(400, np.float32), "d": np.zeros((20, 20)), "h": np.zeros(300, np.float16)}
    for step, array in enumerate(sparse.values(), 1):
        array.reshape(-1)[:: 97 + step] = np.arange(1, 1 + len(array.reshape(-1)[:: 97 + step])) / 8
    found = []
    for codec in ("safetensors+bf16", "safetensors+int8", "safetensors+topk"):
        given = sparse | {"i": weights["i"], "e": weights["e"]} if codec.endswith("topk") else weights
        encoded, facts = encode_codec(given, codec)
        plaintext = b"".join(TensorLayout.of(encoded, with_codec({"samples": "42"}, facts)).buffers())
        envelope = Forgery(keys=keys, items={"codec": codec.encode()}, plaintext=plaintext).seal()
        found.append(good("§7", f"{codec} of every type that it encodes", envelope, tensors=_decoded(given, codec)))
    # The last one expands to more than it is laid out in.
    found.append(bad("§7", "safetensors+topk beyond what is expected", envelope, "too_large",
                     receiver={"max_plaintext_bytes": len(plaintext)}))  # fmt: skip
    return [*found, *(_wrong(keys, *case) for case in _wrong_facts() + _wrong_int8() + _wrong_topk())]


def _decoded(weights: dict[str, Any], codec: str) -> Rows:
    """Compute what must come out from the words of the specification, not with the implementation's decoder."""
    found = {}
    for name, array in weights.items():
        if array.dtype.kind != "f" or not array.size or (codec.endswith("bf16") and array.dtype == np.float16):
            found[name] = array
        elif codec.endswith("int8"):
            scale = float(np.abs(array.astype(np.float64)).max()) / 127
            multiples = np.rint(array.astype(np.float64) / scale) if scale else np.zeros(array.shape)
            found[name] = (multiples * scale).astype(array.dtype)
        elif codec.endswith("bf16"):
            bits = np.asarray(array, np.float32).view(np.uint32)
            bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
            found[name] = bits.astype(np.uint32).view(np.float32).astype(array.dtype)
        else:
            kept = -(-array.size // 100)
            flat = np.zeros(array.size, array.dtype)
            order = np.argsort(-np.abs(array.reshape(-1)), kind="stable")[:kept]
            flat[order] = array.reshape(-1)[order]
            found[name] = flat.reshape(array.shape)
    return rows(found)


_Case = tuple[str, str, str, str, str, bytes]
"""Name, codec, facts, stored type, stored shape, stored bytes."""


def _wrong(keys: Keys, name: str, codec: str, facts: str, dtype: str, shape: str, data: bytes) -> Entry:
    tensor = _tensor(dtype, shape, f"[0,{len(data)}]")
    metadata = "" if facts == "missing" else f'"__metadata__":{{"pqfl.codec":{json.dumps(facts)}}},'
    plaintext = layout(f'{{{metadata}"w":{tensor}}}', data)
    forged = Forgery(keys=keys, items={"codec": f"safetensors+{codec}".encode()}, plaintext=plaintext)
    return bad("§7", f"{codec}: {name}", forged.seal(), "malformed")


def _wrong_facts() -> list[_Case]:
    cases = {
        "no word of what it did": "missing", "words that are not JSON": "[", "words that are no list": "{}",
        "words for two tensors and one is there": "[null,null]", "a number instead of an entry": "[1]",
        "an empty entry": "[[]]", "a type that it does not encode": '[["I32"]]', "a type of no name": "[[32]]",
        "an entry with more than it needs": '[["F32",1]]',
    }  # fmt: skip
    found: list[_Case] = [(name, "bf16", facts, "U16", "[2]", b"\x80\x3f\0\x40") for name, facts in cases.items()]
    return [
        *found,
        ("a half-precision tensor", "bf16", '[["F16"]]', "U16", "[2]", b"\x80\x3f\0\x40"),
        ("a tensor laid out in another type", "bf16", '[["F32"]]', "BF16", "[0]", b""),
        ("a tensor without elements", "bf16", '[["F32"]]', "U16", "[0]", b""),
        ("a tensor laid out as signed", "bf16", '[["F32"]]', "I16", "[2]", b"\x80\x3f\0\x40"),
        ("infinity", "bf16", '[["F32"]]', "U16", "[1]", b"\x80\x7f"),
        ("NaN", "bf16", '[["F32"]]', "U16", "[1]", b"\xc1\xff"),
    ]


def _wrong_int8() -> list[_Case]:
    scales = {
        "a negative scale": "-1.0", "an infinite scale": "1e400", "a scale that is a string": '"1"',
        "a scale that is true": "true", "a scale that is null": "null", "a subnormal scale": "1e-310",
        "a scale whose multiples overflow": "3e36",
    }  # fmt: skip
    found: list[_Case] = [(n, "int8", f'[["F32",{scale}]]', "I8", "[2]", b"\x01\x7f") for n, scale in scales.items()]
    return [
        *found,
        ("a scale too large for half precision", "int8", '[["F16",600.0]]', "I8", "[2]", b"\x01\x7f"),
        ("no scale", "int8", '[["F32"]]', "I8", "[2]", b"\x01\x7f"),
        ("-128", "int8", '[["F32",1.0]]', "I8", "[2]", b"\x01\x80"),
        ("a tensor laid out as unsigned", "int8", '[["F32",1.0]]', "U8", "[2]", b"\x01\x7f"),
    ]


def _wrong_topk() -> list[_Case]:
    def blob(places: list[int], values: list[float], *, size: bool = True) -> bytes:
        deltas = np.diff(np.array(places, np.int64), prepend=0).astype("<u4")
        numbers = (deltas, np.array(values, "<f4"))
        parts = [array.view(np.uint8).reshape(len(places), -1).T.tobytes() for array in numbers]
        compressor = zstandard.ZstdCompressor(write_content_size=size)
        return compressor.compress(b"".join(parts))

    right = blob([3, 70], [1.0, 2.0])
    entry = '[["F32",[100],2]]'
    cases: dict[str, tuple[str, bytes]] = {
        "a blob that is no zstd": (entry, b"no zstd"),
        "a blob cut short": (entry, right[:-1]),
        "a byte behind the frame": (entry, right + b"\0"),
        "a second, empty frame behind the first": (entry, right + zstandard.compress(b"")),
        "a frame that does not state its size": (entry, blob([3, 70], [1.0, 2.0], size=False)),
        "a frame of another size": (entry, blob([3], [1.0])),
        "k = 0": ('[["F32",[100],0]]', right),
        "k that is true": ('[["F32",[100],true]]', right),
        "k as large as the tensor": ('[["F32",[2],2]]', right),
        "more than it saves": ('[["F32",[4],2]]', right),
        "no k": ('[["F32",[100]]]', right),
        "a shape that is a number": ('[["F32",100,2]]', right),
        "a shape with a negative size": ('[["F32",[-100],2]]', right),
        "an index outside": (entry, blob([3, 100], [1.0, 2.0])),
        "an index twice": (entry, blob([3, 3], [1.0, 2.0])),
        "indices that go back": (entry, blob([70, 3], [1.0, 2.0])),
        "a value that is NaN": (entry, blob([3, 70], [1.0, float("nan")])),
        "a value that is infinite": (entry, blob([3, 70], [1.0, float("inf")])),
    }
    found: list[_Case] = [(n, "topk", facts, "U8", f"[{len(data)}]", data) for n, (facts, data) in cases.items()]
    return [
        *found,
        ("a blob in two dimensions", "topk", entry, "U8", f"[1,{len(right)}]", right),
        ("a blob of signed bytes", "topk", entry, "I8", f"[{len(right)}]", right),
    ]
