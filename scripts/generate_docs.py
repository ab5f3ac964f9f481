"""`make docs`: write the parts of docs/ that are made from the code.

A part stands between two comments, ``<!-- NAME -->`` and ``<!-- end of NAME -->``; ``PARTS`` makes each.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from euxen.abi import cpufeatureset, features, xen
from euxen.cpu.policy import BRAND, HVM_FEATURES, PV_FEATURES, VENDOR
from euxen.hypervisor.guest_context import ASSISTS
from euxen.hypervisor.hypercalls.table import HYPERCALLS, Kinds
from euxen.hypervisor.hypercalls.version import FEATURES
from euxen.toolstack.config.options import OPTIONS, Treatment
from scripts.suboperations import FAMILIES, suboperations

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TRANSCRIPTS = ROOT / "tests" / "dom0" / "xenstore" / "transcripts"
READING_ORDER = "reading-order.md"
MODULE = re.compile(r"^(- \[(euxen/[^]]+\.py)\]\([^)]*\)).*$", re.MULTILINE)
GUESTS = {Kinds.PV: "PV", Kinds.ALL: "all"}
OXENSTORED = re.compile(r"-> .*# oxenstored: (?!skip)")
"""An answer, and another one of oxenstored's; not where oxenstored is not asked."""


def hypercalls() -> Iterator[str]:
    """Every hypercall: what of it there is, and its operations."""
    yield "| number | hypercall | guests | state | remarks |"
    yield "|---|---|---|---|---|"
    for number, call in sorted(HYPERCALLS.items()):
        yield f"| {number} | `{call.name}` | {GUESTS[call.kinds]} | {call.state} | {call.note} |"
    yield ""
    yield "Any other number is answered with -ENOSYS, and so is an HVM guest that makes a hypercall of PV guests."


def operations() -> Iterator[str]:
    """The operations of the hypercalls that have many."""
    for family in FAMILIES:
        answers = suboperations(family)
        yield f"**{family.hypercall}** (`{family.header}`)"
        yield ""
        for kind, names in answers.items():
            if names:
                yield f"- {kind}: {', '.join(f'`{name}`' for name in names)}"
        yield ""


def cpu_features() -> Iterator[str]:
    """What CPUID offers."""
    names = {number: name.removeprefix("XEN_X86_FEATURE_") for name, number in vars(cpufeatureset).items()
             if name.startswith("XEN_X86_FEATURE_")}  # fmt: skip
    yield f"Vendor `{VENDOR.decode()}`, brand `{BRAND.decode()}`, and these features, by Xen's names:"
    yield ""
    yield ", ".join(f"`{names[number]}`" for number in sorted(PV_FEATURES))
    yield ""
    more = ", ".join(f"`{names[number]}`" for number in sorted(HVM_FEATURES - PV_FEATURES))
    yield f"HVM guests have these as well: {more}."


def xen_features() -> Iterator[str]:
    """What XENVER_get_features and vm_assist offer."""
    offered = {name.removeprefix("XENFEAT_") for name, number in vars(features).items()
               if name.startswith("XENFEAT_") and number in FEATURES}  # fmt: skip
    assists = {name.removeprefix("VMASST_TYPE_") for name, number in vars(xen).items()
               if name.startswith("VMASST_TYPE_") and number in ASSISTS}  # fmt: skip
    yield f"`XENVER_get_features`: {', '.join(f'`{name}`' for name in sorted(offered))}."
    yield ""
    yield f"`vm_assist`: {', '.join(f'`{name}`' for name in sorted(assists))}."


def xenstore() -> Iterator[str]:
    """Requests that oxenstored answers differently, out of the transcripts that tests play to both."""
    for path in sorted(TRANSCRIPTS.glob("*.txt")):
        lines = [" ".join(line.split()) for line in path.read_text().splitlines() if OXENSTORED.search(line)]
        if lines:
            yield f"{path.stem.replace('_', ' ')}:"
            yield ""
            yield "```"
            yield from lines
            yield "```"
            yield ""


def options() -> Iterator[str]:
    """Every option of xl.cfg(5)."""
    honoured = [name for name, option in OPTIONS.items() if option.treatment is Treatment.HONOURED]
    yield f"Honoured: {', '.join(f'`{name}`' for name in honoured)}."
    yield ""
    for treatment, title in ((Treatment.IGNORED, "Read, checked, and without effect"), (Treatment.REFUSED, "Refused")):
        reasons: dict[str, list[str]] = {}
        for name, option in OPTIONS.items():
            if option.treatment is treatment:
                reasons.setdefault(option.why, []).append(f"`{name}`")
        yield f"{title}:"
        yield ""
        for why, names in reasons.items():
            yield f"- {', '.join(names)}: {why}"
        yield ""


PARTS: dict[str, dict[str, Callable[[], Iterator[str]]]] = {
    "differences.md": {
        "hypercalls": hypercalls,
        "operations": operations,
        "cpu features": cpu_features,
        "xen features": xen_features,
        "xenstore": xenstore,
        "xl.cfg": options,
    }
}
"""By the name of the page, and then by that of the part."""


def renewed(page: str) -> str:
    """A page with its parts made anew. Raises ValueError where it lacks the place for one."""
    text = (DOCS / page).read_text()
    for name, make in PARTS[page].items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        content = "\n".join(make()).strip("\n")
        if text.count(start) != 1 or text.count(end) != 1:
            raise ValueError(f"docs/{page} has not one place for {name}")
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{content}\n\n{end}{rest.partition(end)[2]}"
    return text


def reading_order() -> str:
    """docs/reading-order.md, where each module is followed by what it says of itself."""
    return MODULE.sub(lambda found: f"{found[1]}: {summary(ROOT / found[2])}", (DOCS / READING_ORDER).read_text())


def summary(path: Path) -> str:
    """The first sentence of a module's docstring, or nothing for a module that is gone."""
    text = (path.is_file() and ast.get_docstring(ast.parse(path.read_text()))) or ""
    sentence = re.split(r"(?<=\.)\s", " ".join(text.partition("\n\n")[0].split()))[0]
    return sentence.replace("``", "`")


def main() -> int:
    """Write every page."""
    pages = {page: renewed(page) for page in PARTS} | {READING_ORDER: reading_order()}
    for page, text in pages.items():
        if text != (DOCS / page).read_text():
            (DOCS / page).write_text(text)
            print(f"docs/{page} is new")
    return 0


if __name__ == "__main__":
    sys.exit(main())
