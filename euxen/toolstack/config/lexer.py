"""The words of xl.cfg(5): text to tokens, by the rules of tools/libs/util/libxlu_cfg_l.l.

A string can be in either quotes, on one line, with escapes. A number is only checked where a number is
wanted. A line ends a statement except inside a list; a comment goes to the end of its line.

Taken here and not by Xen 4.17: lines that end in CR LF; a comment on the last line where that has no end;
the escapes ``\\xHH`` (there always an error) and ``\\NNN``, octal (there lost). A stray character at the
very end is an error here, and overlooked there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Kinds of tokens, by the names that syntax errors have for them."""

    END = "$end"
    IDENT = "IDENT"
    STRING = "STRING"
    NUMBER = "NUMBER"
    NEWLINE = "NEWLINE"
    ADD = "+="
    ASSIGN = "'='"
    SEMICOLON = "';'"
    OPEN = "'['"
    CLOSE = "']'"
    COMMA = "','"


@dataclass(frozen=True, slots=True)
class Token:
    """A word. ``value`` is what it means, ``text`` how it is written; ``column`` counts from 1."""

    kind: Kind
    text: str
    value: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class LexicalError:
    """What is no word, or a string with a bad escape, which is a word nevertheless and follows."""

    message: str
    text: str
    line: int
    python: bool = False
    """It would be one in Python, which xend's configurations could contain."""
    ends_line: bool = False
    escape: bool = False


_MARKS = {"+=": Kind.ADD, "=": Kind.ASSIGN, ";": Kind.SEMICOLON, "[": Kind.OPEN, "]": Kind.CLOSE, ",": Kind.COMMA}
_WORD = re.compile(
    r"""
      (?P<IDENT>   [a-z][._0-9a-z]* )
    | (?P<NUMBER>  [0-9][0-9a-fx]* )
    | (?P<BLANK>   [ \t]+ )
    | (?P<MARK>    \+= | [=;,\[\]] )
    | (?P<NEWLINE> (?:\#[^\n]*?)? \r?\n | \#[^\n]*\Z )
    | (?P<STRING>  '(?:[^'\\\n\0]|\\[^\n\0])*' | "(?:[^"\\\n\0]|\\[^\n\0])*" )
    | (?P<PYTHON>  [-+.():] [^ \t\r\n]* )
    | (?P<OTHER>   [^\n] [^ \t\r\n]* )
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:x(?P<hex>[0-9a-fA-F]{2})|(?P<octal>[0-7]{1,3})|(?P<other>.))")
_LETTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}


def tokens(text: str) -> Iterator[Token | LexicalError]:
    """The words of a text; the last is END, again and again. Anything is a text."""
    line, line_start, position = 1, 0, 0
    last = Token(Kind.END, "", "", 1, 1)
    while position < len(text):
        match = _WORD.match(text, position)
        assert match is not None, "a rule for each character"
        kind, word, column = match.lastgroup, match[0], position - line_start + 1
        position = match.end()
        if kind == "BLANK":
            continue
        if kind in ("PYTHON", "OTHER"):
            # libxlu takes at least two bytes, of which the second may be the line's end.
            ends_line = len(word) == 1 and word.isascii() and text.startswith("\n", position)
            yield LexicalError("lexical error", word, line, kind == "PYTHON", ends_line)
            continue
        if kind == "NEWLINE":
            last = Token(Kind.NEWLINE, word.rstrip("\r\n"), "", line, column)
            line, line_start = line + 1, position
        elif kind == "STRING":
            value, complaint = dequote(word)
            if complaint:
                yield LexicalError(complaint, word, line, escape=True)
            last = Token(Kind.STRING, word, value, line, column)
        else:
            last = Token(_MARKS[word] if kind == "MARK" else Kind[kind or ""], word, word, line, column)
        yield last
    while True:  # in libxlu it is where the last word is
        yield Token(Kind.END, "", "", last.line, last.column)


def dequote(literal: str) -> tuple[str, str]:
    """What a string in quotes means, and what is wrong with it: nothing, or some words.

    A byte above 127 that an escape gives is in a surrogate, as ``os.fsdecode`` has bytes that are no text.
    """
    bad = ""

    def meaning(match: re.Match[str]) -> str:
        nonlocal bad
        other = match["other"]
        if other in _LETTERS:
            return _LETTERS[other]
        byte = int(match["hex"], 16) if match["hex"] else int(match["octal"], 8) if match["octal"] else 0
        if 0 < byte < 128:
            return chr(byte)
        if 128 <= byte < 256:
            return chr(0xDC00 + byte)
        if other is None or other == "x":
            base = "octal" if match["octal"] else "hex"
            bad = bad or f"invalid digit after backslash {base} numerical character escape in quoted string"
        else:
            bad = bad or "invalid character after backslash in quoted string"
        return ""

    return _ESCAPE.sub(meaning, literal[1:-1]), bad
