"""Which operations of the hypercalls there are, read off the hypervisor's source.

An operation that the source names is answered. One that it names only to return an error for, whatever its arguments,
is refused. One that it does not name gets -ENOSYS, as every command that nobody knows.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import euxen.hypervisor


@dataclass(frozen=True)
class Family:
    """The operations of one hypercall: constants of a module of euxen.abi that begin alike."""

    hypercall: str
    module: str
    prefix: str
    others: tuple[str, ...] = ()
    """How constants begin that look like operations and are parameters of some."""
    directory: str = ""

    @property
    def header(self) -> str:
        """Where Xen declares them."""
        return f"xen/include/public/{self.directory}{self.module}.h"

    @property
    def names(self) -> list[str]:
        """All of them, in the order of the header."""
        return list(self.numbers)

    @property
    def numbers(self) -> dict[str, int]:
        """The same with their numbers."""
        module = import_module(f"euxen.abi.{self.module}")
        return {
            name: value
            for name, value in vars(module).items()
            if name.startswith(self.prefix) and not name.startswith(self.others) and isinstance(value, int)
        }


PARTS_OF_DOMCTL = (
    *("XEN_DOMCTL_CDF_", "XEN_DOMCTL_DEBUG_OP_", "XEN_DOMCTL_GRANT_", "XEN_DOMCTL_INTERFACE_", "XEN_DOMCTL_IOMMU_"),
    *("XEN_DOMCTL_PFINFO_", "XEN_DOMCTL_SCHEDOP_", "XEN_DOMCTL_SCHEDRT_", "XEN_DOMCTL_SENDTRIGGER_"),
    "XEN_DOMCTL_SHADOW_",
)
PARTS_OF_SYSCTL = (
    *("XEN_SYSCTL_CPUPOOL_", "XEN_SYSCTL_CSCHED_", "XEN_SYSCTL_INTERFACE_", "XEN_SYSCTL_PHYSCAP_"),
    *("XEN_SYSCTL_SCHED_", "XEN_SYSCTL_SCHEDOP_", "XEN_SYSCTL_cpu_featureset_", "XEN_SYSCTL_cpu_policy_"),
)
FAMILIES = (
    Family("mmuext_op", "xen", "MMUEXT_"),
    Family("memory_op", "memory", "XENMEM_", ("XENMEM_RDM_", "XENMEM_resource_")),
    Family("event_channel_op", "event_channel", "EVTCHNOP_"),
    Family("sched_op", "sched", "SCHEDOP_"),
    Family("vcpu_op", "vcpu", "VCPUOP_"),
    Family("callback_op", "callback", "CALLBACKOP_"),
    Family("physdev_op", "physdev", "PHYSDEVOP_", ("PHYSDEVOP_DBGP_",)),
    Family("grant_table_op", "grant_table", "GNTTABOP_"),
    Family("xen_version", "version", "XENVER_"),
    Family("hvm_op", "hvm_op", "HVMOP_", directory="hvm/"),
    Family("domctl", "domctl", "XEN_DOMCTL_", PARTS_OF_DOMCTL),
    Family("sysctl", "sysctl", "XEN_SYSCTL_", PARTS_OF_SYSCTL),
)


def suboperations(family: Family) -> dict[str, list[str]]:
    """The operations of a family, by what becomes of them."""
    mentions = _mentions()
    answered = {
        name
        for name, number in family.numbers.items()
        if name in mentions.answered
        or any(family.numbers.get(a, 0) <= number <= family.numbers.get(b, -1) for a, b in mentions.ranges)
    }
    refused = mentions.refused - answered
    return {
        "answered": [name for name in family.names if name in answered],
        "refused": [name for name in family.names if name in refused],
        "-ENOSYS": [name for name in family.names if name not in refused | answered],
    }


@dataclass
class _Mentions:
    """The names of constants in the hypervisor's source."""

    answered: set[str]
    """By which it does something,"""
    refused: set[str]
    """for which it returns an error,"""
    ranges: set[tuple[str, str]]
    """and between which it does something for all."""


@cache
def _mentions() -> _Mentions:
    mentions = _Mentions(set(), set(), set())
    # Who may do something is not what it does.
    paths = [path for path in Path(euxen.hypervisor.__path__[0]).rglob("*.py") if path.stem != "xsm"]
    trees = {path: ast.parse(path.read_text()) for path in paths}
    failing = {f"{path.stem}.{name}" for path, tree in trees.items() for name in _failing_functions(tree)}
    for tree in trees.values():
        refusals = _refusals(tree, failing)
        inside = {id(node) for refusal in refusals for node in ast.walk(refusal)}
        for node in ast.walk(tree):
            if name := _name(node):
                (mentions.refused if id(node) in inside else mentions.answered).add(name)
            if isinstance(node, ast.BoolOp) and (ends := _range(node)):
                mentions.ranges.add(ends)
    return mentions


def _range(node: ast.BoolOp) -> tuple[str, str] | None:
    """The names in ``x >= A and x <= B``."""
    match node.values:
        case [ast.Compare(ops=[ast.GtE()], comparators=[low]), ast.Compare(ops=[ast.LtE()], comparators=[high])]:
            return _name(low), _name(high)
    return None


def _failing_functions(tree: ast.Module) -> set[str]:
    """The functions that do nothing but fail."""
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and _only_fails(node.body)}


def _refusals(tree: ast.Module, failing: set[str]) -> list[ast.AST]:
    """The parts of a module that only decide on an error: conditions, the sets in them, and entries of tables.

    ``failing``: the functions of all modules that do nothing else, with the names of their modules.
    """
    found: list[ast.AST] = []
    functions = _failing_functions(tree) | failing
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and _only_fails(node.body):
            found.append(node.test)
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            found += [key for key, value in pairs if key and ast.unparse(value) in functions]
        elif isinstance(node, ast.ImportFrom):
            found.append(node)
    conditions = {_name(node) for test in found for node in ast.walk(test)}
    found += [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in conditions
    ]
    return found


def _only_fails(body: list[ast.stmt]) -> bool:
    """Whether some code does nothing but raise, or return minus a constant."""
    last = body[-1]
    if any(not isinstance(statement, ast.Expr) for statement in body[:-1]):
        return False
    negative = isinstance(last, ast.Return) and isinstance(last.value, ast.UnaryOp)
    return isinstance(last, ast.Raise) or negative


def _name(node: ast.AST) -> str:
    """What a node of the syntax names, if it does."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Name):
        return node.id
    return ""
