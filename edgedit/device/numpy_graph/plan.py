"""From a model to the steps that run it: kernels bound, constants folded, attention joined, and when each value is free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedit.core.errors import ArtifactError, EdgeditError
from edgedit.device.numpy_graph.bind import FIX, Array, Kernel, bind
from edgedit.device.numpy_graph.onnx_file import Model, Node
from edgedit.device.numpy_graph.operators import MICROSOFT, OPERATORS, PRODUCTS

OPSETS = {"": range(17, 24), MICROSOFT: range(1, 2)}
"""Versions whose operators are known: those that `edgedit export` writes."""


@dataclass(frozen=True)
class Step:
    """One node, ready to run.

    Attributes:
        spare: its first input may be overwritten: nothing needs it or shares its memory afterwards.
        free: values that nothing needs after it.
    """

    node: Node
    kernel: Kernel
    spare: bool
    free: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What `run` needs. `constants` holds the values that follow from constants alone too."""

    constants: Mapping[str, Array]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]


def make_plan(model: Model) -> Plan:
    """ArtifactError for an operator, attribute, type or version that is not known."""
    constants, bound = dict(model.constants), []
    _check_versions(model)
    for node in _join_attention(model):
        kernel = bind(OPERATORS.get((node.domain, node.kind)), node, model.opsets.get("", 0))
        if node.inputs and all(name in constants for name in node.inputs if name):
            constants.update(zip(node.outputs, _call(node, kernel, constants, spare=False), strict=True))
        else:
            bound.append((node, kernel))
    needed = {name for node, _ in bound for name in node.inputs} | {v.name for v in model.outputs}
    outputs = tuple(v.name for v in model.outputs)
    return Plan({name: value for name, value in constants.items() if name in needed}, _steps(bound, constants, outputs), outputs)


def _check_versions(model: Model) -> None:
    for domain in sorted({node.domain for node in model.nodes}):
        version, known = model.opsets.get(domain), OPSETS.get(domain)
        if version is None or known is None or version not in known:
            told = "; ".join(f"{name or 'ai.onnx'} {versions[0]} to {versions[-1]}" for name, versions in OPSETS.items())
            saw = f"{domain or 'ai.onnx'} {version or 'without version'}"
            raise ArtifactError(f"the numpy runtime runs the operators of {told}", saw=saw, fix=FIX)


def run(plan: Plan, inputs: Mapping[str, Array]) -> list[Array]:
    """The graph's outputs; they may be views of the inputs or constants.

    Raises:
        ArtifactError: a node that cannot be computed from what it gets.
        EdgeditError: not enough memory.
    """
    values = {**plan.constants, **inputs}
    for step in plan.steps:
        values.update(zip(step.node.outputs, _call(step.node, step.kernel, values, step.spare), strict=True))
        for name in step.free:
            del values[name]
    return [values[name] for name in plan.outputs]


def _call(node: Node, kernel: Kernel, values: Mapping[str, Array], spare: bool) -> tuple[Array, ...]:
    inputs: list[Any] = [values[name] if name else None for name in node.inputs]
    try:
        with np.errstate(all="ignore"):  # infinities and NaN are values like any other, as in every runtime
            return kernel(inputs, spare)
    except MemoryError as error:
        raise EdgeditError(f"not enough memory for node '{node.name}' ({node.kind})", saw=_told(inputs),
                           fix="export the student with a smaller --batch") from error
    except (ValueError, IndexError, TypeError, AttributeError, ArithmeticError) as error:
        raise ArtifactError(f"the numpy runtime cannot compute node '{node.name}' ({node.kind}): {error}", saw=_told(inputs),
                            fix=FIX) from error


def _told(inputs: Sequence[Any]) -> str:
    return ", ".join("-" if x is None else f"{x.dtype} {x.shape}" for x in inputs)


def _join_attention(model: Model) -> list[Node]:
    """The nodes with each MatMul–Softmax–MatMul as one, where nothing else looks at what is between.

    Apart, the scores of a whole batch lie in memory at once: 0.5 GB at 256 passes of 256 tokens and 8 heads.
    """
    made = {node.outputs[0]: node for node in model.nodes if len(node.outputs) == 1}
    uses = Counter(name for node in model.nodes for name in node.inputs)
    uses.update(v.name for v in model.outputs)
    joined: dict[str, Node] = {}
    gone: set[str] = set()
    for node in model.nodes:
        share = made.get(node.inputs[0]) if _is(node, "MatMul") else None
        score = made.get(share.inputs[0]) if share is not None and _is(share, "Softmax") else None
        if share is None or score is None or not _is(score, "MatMul") or share.attributes.get("axis", -1) != -1:
            continue
        if uses[node.inputs[0]] == uses[share.inputs[0]] == 1 and len(score.inputs) == len(node.inputs) == 2:
            joined[node.outputs[0]] = Node(PRODUCTS, "edgedit", node.name, (*score.inputs, node.inputs[1]), node.outputs, {})
            gone |= {node.inputs[0], share.inputs[0]}
    return [joined.get(n.outputs[0], n) if n.outputs else n for n in model.nodes if not (n.outputs and n.outputs[0] in gone)]


def _is(node: Node, kind: str) -> bool:
    return node.kind == kind and not node.domain and bool(node.inputs)


def _steps(bound: Sequence[tuple[Node, Kernel]], constants: Mapping[str, Array], outputs: Sequence[str]) -> tuple[Step, ...]:
    """Where each value is used last, and whose memory may then be overwritten.

    Values that may be views of each other form a group, named after the value whose memory it is.
    """
    made = {name: i for i, (node, _) in enumerate(bound) for name in node.outputs}
    last = dict(made)
    last.update({name: i for i, (node, _) in enumerate(bound) for name in node.inputs if name})
    last.update({name: len(bound) for name in (*outputs, *constants)})
    group: dict[str, str] = {}
    for node, _ in bound:
        view = OPERATORS[node.domain, node.kind].view
        group.update({name: group.get(node.inputs[0], node.inputs[0]) if view else name for name in node.outputs})
    ends: dict[str, int] = {}
    for name, owner in group.items():
        ends[owner] = max(ends.get(owner, -1), last[name], last.get(owner, -1))
    steps = []
    for i, (node, kernel) in enumerate(bound):
        first = node.inputs[0] if node.inputs else ""
        owner = group.get(first, first)
        alone = all(group.get(name, name) != owner for name in node.inputs[1:])
        spare = owner in made and ends.get(owner) == i and alone
        free = tuple(sorted({name for name in (*node.inputs, *node.outputs) if name in made and last[name] == i}))
        steps.append(Step(node, kernel, spare, free))
    return tuple(steps)
