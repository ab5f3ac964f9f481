"""Our reading of xl.cfg's grammar against that of Xen's own library, down to the words of its errors."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from euxen.toolstack.config.errors import ConfigError
from euxen.toolstack.config.xlcfg import Atom, Source, Value, parse

from .real_xl import compile_c

Plain: TypeAlias = "str | list[Plain]"
Reading: TypeAlias = "tuple[dict[str, Plain] | None, list[str]]"
"""Settings or errors."""
Oracle = Callable[[str], Reading]


@pytest.fixture(scope="module")
def libxlutil(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    program = tmp_path_factory.mktemp("libxlutil") / "libxlutil"
    compile_c(Path(__file__).with_name("libxlutil.c"), program, "-lxlutil", "-lxenlight")

    def ask(text: str) -> Reading:
        names = sorted(set(re.findall("[a-z][._0-9a-z]*", text)))
        done = subprocess.run([program, *names], input=text.encode(), capture_output=True)
        if done.returncode == 0:
            return {name: _joined(value) for name, value in json.loads(done.stdout).items()}, []
        return None, [_line(line) for line in done.stderr.decode().split("\n")[:-1] if not line.startswith("warning:")]

    yield ask


def _joined(value: Plain) -> Plain:
    """Text out of bytes."""
    if isinstance(value, str):
        return value.encode(errors="surrogateescape").decode()
    return [_joined(item) for item in value]


def _line(line: str) -> str:
    """An error as libxlutil would tell it without a letter too few, and a line more where it counts one too few."""
    line = line.replace("backlash", "backslash")
    match = re.fullmatch(r"f:(\d+): (.*unexpected NEWLINE.*)", line)
    return f"f:{int(match[1]) + 1}: {match[2]}" if match else line


def _plain(value: Value) -> Plain:
    return value.text if isinstance(value, Atom) else [_plain(item) for item in value.items]


def ours(text: str) -> Reading:
    try:
        return {setting.name: _plain(setting.value) for setting in parse(Source("f", text))}, []
    except ConfigError as error:
        return None, [sentence for sentence in error.sentences if not sentence.startswith("f looks like")]


pieces = st.sampled_from(
    [
        *(
            "a",
            "b",
            "ab_1",
            "a.b",
            "=",
            "+=",
            "[",
            "]",
            ",",
            ";",
            "\n",
            "\n",
            "1",
            "0x1f",
            "12ab",
            '"x"',
            "'y z'",
            "''",
        ),
        *('"q\\n\\""', '"', "'", "\\", " ", "\t", "# c\n", "@", "-", "+", "%%x", "(", ")", ".", ":", "A", "é", '"é"'),
        *('"\\q"', '"\\', "a=1\n", 'b=["x"]\n', 'a+="y"\n', "a+=[1,\n2]", "[[1],2]", "a =", "[\n", ",\n"),
    ]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(pieces, max_size=14).map("".join))
@example("name = \"g1\"\ntype='pv'\nmemory = 192; vcpus=2\ndisk = [ 'phy:/dev/loop0,xvda,w',\n ]\n")
@example('a=["x\n"]\nb=1\n')
@example("a b c d\nb=1 2 3\nc= =\nd=1\n@ foo bar\n")
@example("def f():\n  pass\n\na=1\n")
def test_any_text(libxlutil: Oracle, text: str) -> None:
    assume(not re.search(r"\\[0-7]", text))
    # At the end of a text libxlutil overlooks a character.
    text += "\n"
    assert ours(text) == libxlutil(text)


@pytest.mark.parametrize(
    ("text", "meaning", "theirs"),
    [
        ("a='x'\r\n", "x", "f:1: config parsing error near `\r': lexical error"),
        ("a='x' # y", "x", "f:1: config parsing error near `#': lexical error"),
        (
            r"a='\x41'",
            "A",
            r"f:1: config parsing error near `'\x41'': "
            "invalid digit after backslash hexnumerical character escape in quoted string",
        ),
        (r"a='\101x'", "Ax", "x"),
        ("a=0x1F", None, "0x1"),
    ],
)
def test_differences(libxlutil: Oracle, text: str, meaning: str | None, theirs: str) -> None:
    """What ``lexer`` says of where libxlutil is different is true."""
    settings, _ = ours(text)
    assert (settings and settings["a"]) == meaning
    their_settings, errors = libxlutil(text)
    assert theirs == (their_settings["a"] if their_settings else "\n".join(errors))
