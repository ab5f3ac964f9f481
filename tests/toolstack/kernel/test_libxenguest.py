"""Our reading of kernels against that of Xen's own domain builder, libxenguest."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from euxen.toolstack.debian import DebianGuest
from euxen.toolstack.kernel.errors import KernelError
from euxen.toolstack.kernel.image import KernelImage, parse_kernel, read_kernel
from euxen.toolstack.kernel.layout import GuestKind, Layout, layout_of

from .compressors import payload
from .elf_writer import (
    BSD_SYMTAB,
    ENTRY,
    FEATURES,
    GUEST_OS,
    INIT_P2M,
    LOADER,
    PADDR_OFFSET,
    PAE_MODE,
    PHYS32_ENTRY,
    SHT_NOTE,
    SHT_STRTAB,
    SHT_SYMTAB,
    SUPPORTED_FEATURES,
    VIRT_BASE,
    XEN_VERSION,
    Elf,
    Load,
    Section,
    bzimage,
    note,
    pv_notes,
)

Oracle = Callable[[GuestKind, Path], str]

BASE = 0xFFFFFFFF80000000


@pytest.fixture(scope="module")
def libxenguest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    """Asks libxenguest: the log of its builder."""
    program = tmp_path_factory.mktemp("libxenguest") / "libxenguest"
    source = Path(__file__).with_suffix("").with_name("libxenguest.c")
    compiler = shutil.which("cc")
    libraries = ["-lxenguest", "-lxenctrl", "-lxentoollog"]
    if (
        compiler is None
        or subprocess.run([compiler, "-o", program, source, *libraries], capture_output=True).returncode
    ):
        pytest.skip("libxenguest cannot be asked here: on Debian 12, install gcc and libxen-dev")
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="latin-1") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(kind: GuestKind, path: Path) -> str:
            stdin.write(f"{'pv' if kind is GuestKind.PV else 'hvm'} {path}\n")
            stdin.flush()
            return "".join(iter(stdout.readline, "done\n"))

        yield ask
        stdin.close()


def accepted(log: str) -> bool:
    """Whether the kernel passed every check but that for a hypervisor, which there is none of."""
    return re.search(r"xc_dom_parse_elf_kernel: (xen|hvm)-3\.0-", log) is not None


def addresses(log: str) -> dict[str, int]:
    """What libelf computed."""
    return {name: int(value, 16) for name, value in re.findall(r"detail:     (\w+) += 0x([0-9a-f]+)", log)}


def compare(oracle: Oracle, image: KernelImage, path: Path) -> None:
    for kind in GuestKind:
        log = oracle(kind, path)
        reasons = image.reasons_against(kind)
        # Xen loads 32-bit PV kernels where it has CONFIG_PV32.
        if kind is GuestKind.PV and image.bits == 32:
            reasons = tuple(reason for reason in reasons if "32-bit PV kernel" not in reason)
        assert accepted(log) == (not reasons), f"{reasons}\n{log}"
        if not reasons:
            assert image.notes is not None
            compare_addresses(layout_of(kind, image.notes, image.segments, image.entry), image, log)


def compare_addresses(layout: Layout, image: KernelImage, log: str) -> None:
    theirs = addresses(log)
    assert len(theirs) == 7
    p2m_base = theirs.pop("p2m_base")
    if image.notes is not None and image.notes.bsd_symtab and image.bits == 32:
        del theirs["virt_kend"]  # see euxen.toolstack.kernel.symtab
    assert theirs == {name: getattr(layout, name) for name in theirs}, log
    assert image.notes is not None
    assert image.notes.p2m_base == (None if p2m_base == (1 << 64) - 1 else p2m_base)


def test_debian_cloud(libxenguest: Oracle, debian_cloud: DebianGuest) -> None:
    compare(libxenguest, read_kernel(debian_cloud.kernel), debian_cloud.kernel)


def test_debian_full(libxenguest: Oracle, debian_full: DebianGuest) -> None:
    compare(libxenguest, read_kernel(debian_full.kernel), debian_full.kernel)


@pytest.mark.parametrize("platform", ["x86_64-xen", "i386-xen", "i386-xen_pvh"])
def test_grub(libxenguest: Oracle, grub_xen: dict[str, Path], platform: str) -> None:
    compare(libxenguest, read_kernel(grub_xen[platform]), grub_xen[platform])


# Debian builds libxenguest without bzip2 and lzo.
@pytest.mark.parametrize("compression", ["gzip", "xz", "lzma", "lz4", "zstd"])
def test_bzimage(libxenguest: Oracle, tmp_path: Path, compression: str) -> None:
    data = bzimage(payload(compression, Elf(notes=pv_notes()).build()))
    path = tmp_path / "bzImage"
    path.write_bytes(data)
    image = parse_kernel(data, str(path))
    assert image.kinds == (GuestKind.PV,)
    compare(libxenguest, image, path)


numbers = st.one_of(
    st.integers(0, 0x4000_0000),
    st.integers(0, 0x4000).map(lambda page: BASE + page * 0x1000),
    st.sampled_from([0, 1, BASE, (1 << 64) - 1, (1 << 32) - 1]),
    st.integers(0, (1 << 64) - 1),
)
words = st.sampled_from(["linux", "generic", "xen-3.0", "xen-3.0-x86_64", "yes", "no", "yes,bimodal", "GRUB", ""])
feature_lists = st.lists(
    st.sampled_from(
        ["writable_page_tables", "!pae_pgdir_above_4gb", "!dom0", "dom0", "!unheard_of", "unheard_of", "", "!"]
    ),
    max_size=4,
).map("|".join)
random_notes = st.lists(
    st.one_of(
        st.builds(note, st.sampled_from([GUEST_OS, LOADER, XEN_VERSION, PAE_MODE, BSD_SYMTAB]), words),
        st.builds(note, st.just(FEATURES), feature_lists),
        st.builds(note, st.sampled_from([ENTRY, VIRT_BASE, PADDR_OFFSET, INIT_P2M, PHYS32_ENTRY]), numbers),
        st.builds(note, st.just(SUPPORTED_FEATURES), st.integers(0, (1 << 32) - 1), size=st.just(4)),
        st.builds(note, st.integers(0, 40), st.binary(max_size=16).map(lambda desc: desc + b"\0")),
        st.builds(note, st.integers(0, 20), words, name=st.sampled_from([b"GNU\0", b"Xen", b"Xenon\0", b"\0"])),
    ),
    max_size=6,
).map(b"".join)
some_notes = st.one_of(
    random_notes,
    random_notes.map(lambda more: pv_notes(more)),
    random_notes.map(lambda more: pv_notes(more, note(PHYS32_ENTRY, 0x100010))),
    random_notes.map(lambda more: pv_notes(more, base=BASE, entry=BASE + 0x100000)),
)
guest_infos = st.lists(
    st.one_of(
        st.sampled_from(["GUEST_OS=linux", "LOADER=generic", "XEN_VER=xen-3.0", "BSD_SYMTAB", "PAE=yes[extended-cr3]"]),
        st.sampled_from(["VIRT_BASE", "VIRT_ENTRY", "ELF_PADDR_OFFSET", "HYPERCALL_PAGE", "NAME" * 12]).flatmap(
            lambda name: st.sampled_from(
                ["0x0", "0xffffffff80000000", "1048576", "0100", "-1", " 12x", "x", "9" * 40, "0x100000"]
            ).map(lambda value: f"{name}={value}")
        ),
        feature_lists.map("FEATURES={}".format),
        st.text("AB=,", max_size=40),
    ),
    max_size=8,
).map(lambda pairs: ",".join(["LOADER=generic", "XEN_VER=xen-3.0", *pairs]).encode() + b"\0")


SYMBOLS = [Section(".symtab", SHT_SYMTAB, bytes(50), link=2), Section(".strtab", SHT_STRTAB, b"\0name\0")]


@st.composite
def elves(draw: st.DrawFn) -> Elf:
    """Images with their headers in order, and anything said in their notes."""
    loads = [Load(paddr, memsz=0x2000) for paddr in draw(st.sampled_from([[0x100000], [0x100000, 0x200000], [0]]))]
    sections = []
    how = draw(st.sampled_from(["segment", "segment", "section", "string"]))
    if how == "section":
        sections.append(Section(".notes", SHT_NOTE, draw(some_notes)))
    elif how == "string":
        sections.append(Section("__xen_guest", data=draw(guest_infos)))
    return Elf(
        loads=loads,
        notes=draw(some_notes) if how == "segment" else b"",
        sections=[*(SYMBOLS if draw(st.booleans()) else []), *sections],
        entry=draw(st.sampled_from([0x100000, 0x100020, 0x300000, 0])),
        bits=draw(st.sampled_from([64, 64, 64, 32])) if how != "string" else 64,
    )


OURS_ONLY = re.compile(r"not page-aligned|not canonical|autotranslate|above 4 GiB")
"""What libxenguest finds later than here, or a processor would."""


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(elves())
@example(Elf(notes=pv_notes(note(FEATURES, "!dom0"))))
@example(Elf(notes=pv_notes(note(BSD_SYMTAB, "yes")), sections=SYMBOLS))
@example(Elf(notes=note(PHYS32_ENTRY, 0x100000) + note(BSD_SYMTAB, "yes"), sections=SYMBOLS, bits=32))
@example(Elf(notes=note(INIT_P2M, 0x100000) + note(PHYS32_ENTRY, 0x100000)))
@example(Elf(notes=note(PADDR_OFFSET, 0) + note(PHYS32_ENTRY, 0x100000)))
@example(Elf(sections=[Section("__xen_guest", data=b"LOADER=generic,XEN_VER=xen-3.0,VIRT_BASE=0x100000\0")]))
def test_any_notes(libxenguest: Oracle, tmp_path: Path, elf: Elf) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(elf.build())
    try:
        image = read_kernel(path)
    except KernelError as error:
        # An image is refused as a whole only where it is damaged; libelf may get by.
        assert "no end within" in str(error) or "was cut off" in str(error)
        return
    for kind in GuestKind:
        log = libxenguest(kind, path)
        if kind is GuestKind.PV and image.bits == 32:
            continue
        reasons = [reason for reason in image.reasons_against(kind) if not OURS_ONLY.search(reason)]
        theirs = accepted(log) and "does not support unprivileged" not in log
        assert theirs == (not reasons), f"{reasons}\n{log}"
        if accepted(log):
            assert image.notes is not None
            compare_addresses(layout_of(kind, image.notes, image.segments, image.entry), image, log)
