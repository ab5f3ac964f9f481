"""The grammar: what texts mean, and what is said of those that mean nothing."""

from __future__ import annotations

from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from euxen.toolstack.config.errors import ConfigError
from euxen.toolstack.config.xlcfg import MAX_NESTING, Atom, Source, Value, parse

Plain: TypeAlias = "str | list[Plain]"


def plain(value: Value) -> Plain:
    return value.text if isinstance(value, Atom) else [plain(item) for item in value.items]


def read(text: str, *overrides: str) -> dict[str, Plain]:
    return {setting.name: plain(setting.value) for setting in parse(Source("f", text, overrides))}


def refusal(text: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read(text, *overrides)
    return caught.value.sentences


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("", {}),
        ("\n;\n;;", {}),
        ('a="x"', {"a": "x"}),
        ("a='x'\n", {"a": "x"}),
        ("a=1", {"a": "1"}),
        ("a=0x1f", {"a": "0x1f"}),
        ("\ta\t= 1 ", {"a": "1"}),
        ('name="h0"; type="hvm"', {"name": "h0", "type": "hvm"}),
        ("a=1;;b=2\n\n;c=3;", {"a": "1", "b": "2", "c": "3"}),
        ("vif.default_1=2", {"vif.default_1": "2"}),
        ("a=1\na=2", {"a": "2"}),
        ("# x\na=1 # y = [\n#\n# z", {"a": "1"}),
        ("a=1\r\n# x\r\nb=[\r\n2\r\n]\r\n", {"a": "1", "b": ["2"]}),
        ("a=''", {"a": ""}),
        ("a='\"' ; b=\"'\"", {"a": '"', "b": "'"}),
        ("a='# ; [é€\t'", {"a": "# ; [é€\t"}),
        (r"""a="\"\'\\\a\b\f\n\r\t\v" """, {"a": "\"'\\\a\b\f\n\r\t\v"}),
        (r"a='\x41\x7a \101\60 \18'", {"a": "Az A0 \x018"}),
        (r"a='\xc3\251'", {"a": "\udcc3\udca9"}),
        ("a=[]", {"a": []}),
        ("a=[\n\n]", {"a": []}),
        ("a=[1]", {"a": ["1"]}),
        ("a=[1,]", {"a": ["1"]}),
        ("a=[ 1 ,\n # x\n 'y'\n,\n]\nb=2", {"a": ["1", "y"], "b": "2"}),
        ("a=[[1,[]],'x',[2,],]", {"a": [["1", []], "x", ["2"]]}),
        ("a+=1", {"a": "1"}),
        ("a='x'\na += 'y'\na+='z'", {"a": "xyz"}),
        ("a=[1]\nb=2\na+=[3,\n4]", {"a": ["1", "3", "4"], "b": "2"}),
        ("a=[]\na=[1]\na+=[2]", {"a": ["1", "2"]}),
    ],
)
def test_meaning(text: str, meaning: dict[str, Plain]) -> None:
    assert read(text) == meaning


def test_places() -> None:
    settings = parse(Source("f", " a = 1\nb=2; b = [\n  'x',\n [3]]\n"))
    assert [(setting.name, setting.line, setting.column) for setting in settings] == [
        ("a", 1, 2),
        ("b", 2, 1),
        ("b", 2, 6),
    ]
    value = settings[2].value
    assert not isinstance(value, Atom)
    assert [(value.line, value.column)] + [(item.line, item.column) for item in value.items] == [
        (2, 10),
        (3, 3),
        (4, 2),
    ]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ('name = "bad\n', ["f:1: config parsing error near `\"bad': lexical error"]),
        ("a=1 b=2", ["f:1: config parsing error near `b': syntax error, unexpected IDENT, expecting $end"]),
        ("a", ["f:1: config parsing error near `': syntax error, unexpected $end, expecting += or '='"]),
        (
            "\na=\n1",
            [
                "f:2: config parsing error near <newline>: syntax error, unexpected NEWLINE, "
                "expecting STRING or NUMBER or '['"
            ],
        ),
        (
            "a= # x\n",
            [
                "f:1: config parsing error near `# x': syntax error, unexpected NEWLINE, "
                "expecting STRING or NUMBER or '['"
            ],
        ),
        (
            "[1]",
            [
                "f:1: config parsing error near `[': syntax error, unexpected '[', "
                "expecting $end or IDENT or NEWLINE or ';'"
            ],
        ),
        ("a=[1 2]", ["f:1: config parsing error near `2': syntax error, unexpected NUMBER, expecting ']'"]),
        ("a=[,]", ["f:1: config parsing error near `,': syntax error, unexpected ',', expecting ']'"]),
        ("a=[1\nb=2\n", ["f:2: config parsing error near `b': syntax error, unexpected IDENT, expecting ']'"]),
        ("a='x'\na+=[1]", ["f:2: config parsing error near `]': can't add [list] to \"string\" or vice versa"]),
        ("a=[1]\na+='x'", ["f:2: config parsing error near `'x'': can't add [list] to \"string\" or vice versa"]),
        (r"a='\q'", ["f:1: config parsing error near `'\\q'': invalid character after backslash in quoted string"]),
        *(
            (
                f"a='{escape}'",
                [
                    f"f:1: config parsing error near `'{escape}'': "
                    f"invalid digit after backslash {base} numerical character escape in quoted string"
                ],
            )
            for escape, base in (
                (r"\x4", "hex"),
                (r"\xyz", "hex"),
                (r"\x00", "hex"),
                (r"\0", "octal"),
                (r"\777", "octal"),
            )
        ),
        ("A=1\nb=%%\n", [f"f:{n}: config parsing error near `{x}': lexical error" for n, x in ((1, "A=1"), (2, "%%"))]),
        ("a=1\0", ["f:1: config parsing error near `\0': lexical error"]),
        ("a='\0'", ["f:1: config parsing error near `'\0'': lexical error"]),
        # Every bad line is told, but not when it may only be due to the one before.
        (
            "a b\nc=1\nd=2\ne f\n",
            [
                f"f:{n}: config parsing error near `{x}': syntax error, unexpected IDENT, expecting += or '='"
                for n, x in ((1, "b"), (4, "f"))
            ],
        ),
        (
            "import os\nmemory = 64 * 2\nx = (1)\n",
            [
                "f:1: config parsing error near `os': syntax error, unexpected IDENT, expecting += or '='",
                "f:2: config parsing error near `*': lexical error",
            ],
        ),
        (
            "a = 1\nb = (1)\n",
            [
                "f:2: config parsing error near `(1)': lexical error",
                "f looks like it contains Python code; arbitrary Python is not supported",
            ],
        ),
    ],
)
def test_refusals(text: str, sentences: list[str]) -> None:
    assert list(refusal(text)) == sentences


def test_command_line() -> None:
    assert read("a=1\nb=[1]", "a=2", "b+=[3]") == {"a": "2", "b": ["1", "3"]}
    assert read("a=1\n", "b=2; c=3") == {"a": "1", "b": "2", "c": "3"}
    (sentence,) = refusal("a=1\n", "b=2", "c=")
    assert sentence.startswith("command line: config parsing error near")
    # As it is read as the last lines of the file, an open list goes on in it.
    assert read("a=[1,", "2]") == {"a": ["1", "2"]}


def test_nesting() -> None:
    assert read(f"a={'[' * MAX_NESTING}{']' * MAX_NESTING}")
    for text in ("a=" + "[" * (MAX_NESTING + 1), "a=" + "[" * 100_000):
        assert refusal(text) == (f"f:1: config parsing error near `[': lists nested more than {MAX_NESTING} deep",)


names = st.from_regex("[a-z][_0-9a-z]{0,8}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
values = st.recursive(texts, lambda inner: st.lists(inner, max_size=4), max_leaves=8)
blanks = st.sampled_from(["", " ", "\t", "  "])
ends = st.sampled_from(["\n", ";", "\r\n", " # x\n", "\n\n", ";;"])


@st.composite
def written(draw: st.DrawFn, value: Plain) -> str:
    """One of the ways to write a value."""
    if isinstance(value, str):
        quote = draw(st.sampled_from("'\""))
        return quote + "".join(draw(_character(character, quote)) for character in value) + quote
    inside = st.sampled_from(["", " ", "\n", "#,]\n", "\r\n\t"])
    items = [draw(inside) + draw(written(item)) + draw(inside) for item in value]
    last = draw(st.sampled_from(["", ","])) if items else ""
    return "[" + ",".join(items) + last + draw(inside) + "]"


def _character(character: str, quote: str) -> st.SearchStrategy[str]:
    escapes = {"\n": ["\\n"], "\\": ["\\\\"], quote: [f"\\{quote}"]}
    if character in escapes:
        return st.sampled_from(escapes[character])
    if character in "'\"\t\r":
        return st.sampled_from(
            [character, f"\\{character}"] if character in "'\"" else [character, f"\\x{ord(character):02x}"]
        )
    # Three digits, for others may follow.
    return st.sampled_from([character, f"\\{ord(character):03o}"]) if character < "\x80" else st.just(character)


@given(st.data())
def test_round_trip(data: st.DataObject) -> None:
    meaning = data.draw(st.dictionaries(names, values, max_size=5))
    text = "".join(
        f"{data.draw(blanks)}{name}{data.draw(blanks)}={data.draw(blanks)}{data.draw(written(value))}{data.draw(ends)}"
        for name, value in meaning.items()
    )
    assert read(text) == meaning


@given(st.one_of(st.text(), st.lists(st.sampled_from([*"a=[]',;\n\"\\#+1 \r\0", "x41", "+=", "é"])).map("".join)))
def test_any_text(text: str) -> None:
    try:
        read(text)
    except ConfigError as error:
        assert error.sentences and all(sentence.startswith(("f:", "f looks")) for sentence in error.sentences)
