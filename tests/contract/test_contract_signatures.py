"""The reader of pybind11's docstrings: every form that the real module has, and back and forth for made-up ones."""

from __future__ import annotations

import inspect
import keyword
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.bindings import VERSIONS, load_real
from tests.contract.signatures import Parameter, Signature, SignatureTextError, parse

NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(lambda n: not keyword.iskeyword(n))
TYPES = st.recursive(
    st.sampled_from(["int", "str", "tensorrt.tensorrt.ITensor", "nvinfer1::v_1_0::IGpuAllocator", "typing.SupportsInt", "buffer"]),
    lambda inner: st.one_of(inner.map("List[{}]".format), st.tuples(inner, inner).map(lambda t: f"dict[{t[0]}, {t[1]}]"),
                            st.tuples(inner, inner).map(lambda t: f"Callable[[{t[0]}], {t[1]}]"),
                            st.tuples(inner, inner).map(" | ".join)), max_leaves=4)
DEFAULTS = st.sampled_from([None, "None", "0", "-1.5", "''", "'a, b: (c'", "\"it's\"", "[]", "{'a': 1}", "<Severity.WARNING: 2>",
                            "<tensorrt.tensorrt.Weights object at 0x7f00>", "'\\''"])
PARAMETERS = st.lists(st.builds(Parameter, NAMES, TYPES, DEFAULTS), max_size=5, unique_by=lambda p: p.name)


@st.composite
def signatures(draw: st.DrawFn, name: st.SearchStrategy[str] = NAMES) -> Signature:
    parameters = tuple(draw(PARAMETERS))
    places = draw(st.tuples(st.integers(0, len(parameters)), st.integers(0, len(parameters))))
    keyword_from = draw(st.sampled_from([None, max(places)]))
    return Signature(draw(name), parameters, draw(TYPES), "", keyword_from, min(places) if draw(st.booleans()) else 0)


@given(signatures(), st.sampled_from(["", "\n\n\n    Does a thing: f(x, y) -> z.\n\n    1. first\n"]))
def test_back_and_forth(signature, doc):
    (read,) = parse(f"{signature}{doc}", signature.name)
    assert replace(read, doc="") == signature and bool(read.doc) == bool(doc)


@settings(max_examples=40)
@given(st.lists(signatures(st.just("add")), min_size=2, max_size=3), st.sampled_from(["", "\n\n\n    Doc.\n\n    1. a\n    2. b\n"]))
def test_overloads_back_and_forth(overloads, doc):
    text = "add(*args, **kwargs)\nOverloaded function.\n\n" + "\n\n".join(f"{i}. {s}{doc}" for i, s in enumerate(overloads, 1))
    assert [replace(s, doc="") for s in parse(text, "add")] == overloads


@given(signatures(), st.data())
def test_binding_is_pythons(signature, data):
    """Same verdict as Python's own on the same parameters, where Python can write them."""
    plain = [p for p in signature.parameters if not p.name.startswith("arg")]
    signature = replace(signature, parameters=tuple(plain), keyword_from=None, positional_to=0)
    given_args = data.draw(st.lists(st.integers(), max_size=6))
    given_names = {n: 0 for n in data.draw(st.lists(st.sampled_from([p.name for p in plain] + ["other"]), max_size=4))}
    required_last = sorted(plain, key=lambda p: p.default is not None)  # a default before a required one is no Python
    python = inspect.Signature([inspect.Parameter(p.name, inspect.Parameter.POSITIONAL_OR_KEYWORD,
                                                  default=inspect.Parameter.empty if p.default is None else p.default)
                                for p in required_last])
    signature = replace(signature, parameters=tuple(required_last))
    try:
        expected = dict(python.bind(*given_args, **given_names).arguments)
    except TypeError:
        expected = None
    assert signature.bind(given_args, given_names) == expected


@pytest.mark.parametrize("text", ["", "no signature", "f(", "f(a: int", "Members:\n\n  A", "f(a b) -> c", None])
def test_other_texts_are_refused(text):
    with pytest.raises(SignatureTextError):
        parse(text)
    with pytest.raises(SignatureTextError, match="no signature of 'g'"):
        parse("f(a: int) -> None", "g")


def test_forms_of_the_real_module():
    (one,) = parse("set_flag(self: tensorrt.tensorrt.IBuilderConfig, flag: tensorrt.tensorrt.BuilderFlag) -> None\n\n\n    Doc\n")
    assert [p.name for p in one.parameters] == ["self", "flag"] and one.returns == "None" and one.doc == "Doc"
    (half,) = parse("(arg0: tensorrt.tensorrt.ITensor) -> List[int]\n")
    assert half.parameters == (Parameter("arg0", "tensorrt.tensorrt.ITensor"),) and half.returns == "List[int]"
    (unnamed,) = parse("f(arg0: int, size: int = 3) -> None")
    assert unnamed.bind([], {"arg0": 1}) is None and unnamed.bind([1], {"size": 2}) == {"arg0": 1, "size": 2}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_method_of_the_real_module_is_read(version):
    """Methods and properties of all classes; enums' texts of themselves are spelled oddly in 10.3 and are no methods to call."""
    read = 0
    for name, cls in vars(load_real(version)).items():
        if not inspect.isclass(cls) or hasattr(cls, "__members__"):
            continue
        for key, value in vars(cls).items():
            halves = [(None, half.__doc__) for half in (value.fget, value.fset) if half is not None] if isinstance(value, property) else []
            docs = [(key, value.__doc__)] if type(value).__name__ == "instancemethod" else halves
            for wanted, doc in docs:
                if doc:
                    found = parse(doc, wanted)
                    assert found and all(s.returns for s in found), f"{name}.{key}"
                    read += len(found)
    assert read > 900
