"""The grammar of xl.cfg(5): text to settings, as tools/libs/util/libxlu_cfg_y.y has it.

    file:       (assignment? end)* assignment?
    end:        NEWLINE | ';'
    assignment: IDENT ('=' | '+=') value
    value:      STRING | NUMBER | '[' (value (',' value)* ','?)? ']'       NEWLINEs anywhere within brackets

Errors are told in the words of Xen's parser, which bison made: what it expected is what its tables say,
and after an error it goes on with the next line, without a word before three tokens were right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from euxen.toolstack.config.errors import ConfigError
from euxen.toolstack.config.lexer import Kind, LexicalError, Token, tokens

MAX_NESTING = 100
"""Of lists in lists. Xen's parser has room for some 2500; no option has a use for more than two."""


@dataclass(frozen=True, slots=True)
class Atom:
    """A string or a number: both are text."""

    text: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class List:
    """Values in brackets."""

    items: tuple[Value, ...]
    line: int
    column: int


Value: TypeAlias = Atom | List


@dataclass(frozen=True, slots=True)
class Setting:
    """An assignment. With ``+=``, ``value`` has what the name had before in front."""

    name: str
    operator: Literal["=", "+="]
    value: Value
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Source:
    """A configuration file, and assignments given on a command line, which are read as its last lines."""

    filename: str
    text: str
    overrides: tuple[str, ...] = ()

    @property
    def whole(self) -> str:
        return "\n".join((self.text, *self.overrides))

    def place(self, line: int) -> str:
        """Where a line is, for people."""
        if line <= self.text.count("\n") + 1:
            return f"{self.filename}:{line}"
        return "command line"


def parse(source: Source) -> tuple[Setting, ...]:
    """The settings in their order, one name perhaps several times. Raises ConfigError, which tells all errors."""
    return _Parser(source).parse()


class _SyntaxError(Exception):
    """The statement is over; the parser may find another one."""


class _Parser:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._tokens: Iterator[Token | LexicalError] = tokens(source.whole)
        self._next: Token | None = None
        self._settings: list[Setting] = []
        self._latest: dict[str, Setting] = {}
        self._errors: list[str] = []
        self._quiet = 0  # tokens to be shifted before a syntax error is told again, bison's yyerrstatus
        self._told_line = -1  # none is told up to here, libxlu's lexerrlineno
        self._python = False

    def parse(self) -> tuple[Setting, ...]:
        try:
            while self._peek().kind is not Kind.END:
                try:
                    self._statement()
                except _SyntaxError:
                    self._recover()
        except EOFError:
            pass
        if self._errors and self._python:
            self._errors.append(
                f"{self._source.filename} looks like it contains Python code; arbitrary Python is not supported"
            )
        if self._errors:
            raise ConfigError(*self._errors)
        return tuple(self._settings)

    def _statement(self) -> None:
        if self._peek().kind is Kind.IDENT:
            self._assignment()
            if self._peek().kind is Kind.END:
                return
            if self._peek().kind not in (Kind.NEWLINE, Kind.SEMICOLON):
                # Bison's tables take any other token for the end of the file, and give up.
                self._complain(Kind.END)
                raise EOFError
        self._expect(Kind.NEWLINE, Kind.SEMICOLON, told=(Kind.END, Kind.IDENT, Kind.NEWLINE, Kind.SEMICOLON))

    def _recover(self) -> None:
        """Leave out the rest of the line."""
        self._quiet = 3
        while self._peek().kind is not Kind.NEWLINE:
            if self._peek().kind is Kind.END:
                raise EOFError
            self._next = None
        self._expect(Kind.NEWLINE)

    def _assignment(self) -> None:
        name = self._expect(Kind.IDENT)
        operator = self._expect(Kind.ADD, Kind.ASSIGN)
        value = self._value()
        if self._errors:
            return
        adds = operator.kind is Kind.ADD
        if adds and name.value in self._latest:
            value = self._concatenate(self._latest[name.value].value, value)
        setting = Setting(name.value, "+=" if adds else "=", value, value.line, name.column)
        self._settings.append(setting)
        self._latest[name.value] = setting

    def _concatenate(self, first: Value, second: Value) -> Value:
        if isinstance(first, List) and isinstance(second, List):
            return List(first.items + second.items, second.line, second.column)
        if isinstance(first, Atom) and isinstance(second, Atom):
            return Atom(first.text + second.text, second.line, second.column)
        near = f"`{self._shifted.text}'"
        self._tell(self._shifted.line, near, 'can\'t add [list] to "string" or vice versa')
        self._told_line = self._shifted.line
        return second

    def _value(self) -> Value:
        token = self._expect(Kind.STRING, Kind.NUMBER, Kind.OPEN)
        if token.kind is not Kind.OPEN:
            return Atom(token.value, token.line, token.column)
        # Without recursion, for a text can have any number of brackets.
        opened: list[tuple[Token, list[Value]]] = [(token, [])]
        room = True  # for a value: after '[' or ','
        while True:
            while self._peek().kind is Kind.NEWLINE:
                self._expect(Kind.NEWLINE)
            if room:
                token = self._expect(Kind.STRING, Kind.NUMBER, Kind.OPEN, Kind.CLOSE, told=(Kind.CLOSE,))
            else:
                token = self._expect(Kind.COMMA, Kind.CLOSE, told=(Kind.CLOSE,))
            if token.kind is Kind.OPEN:
                opened.append((token, []))
                if len(opened) > MAX_NESTING:
                    self._tell(token.line, f"`{token.text}'", f"lists nested more than {MAX_NESTING} deep")
                    raise EOFError
            elif token.kind is Kind.CLOSE:
                bracket, items = opened.pop()
                value = List(tuple(items), bracket.line, bracket.column)
                if not opened:
                    return value
                opened[-1][1].append(value)
            elif token.kind is not Kind.COMMA:
                opened[-1][1].append(Atom(token.value, token.line, token.column))
            room = token.kind in (Kind.OPEN, Kind.COMMA)

    def _peek(self) -> Token:
        """The next token; what is none is told on the way."""
        while self._next is None:
            found = next(self._tokens)
            if isinstance(found, Token):
                self._next = found
            else:
                self._python |= found.python
                if found.escape and self._errors:
                    continue  # libxlu looks into strings as long as it has a use for them
                if found.line + found.ends_line > self._told_line:
                    self._tell(found.line, f"`{found.text}'", found.message)
                self._told_line = found.line + found.ends_line
        return self._next

    def _expect(self, *kinds: Kind, told: tuple[Kind, ...] = ()) -> Token:
        """Shift one of these, or raise _SyntaxError."""
        token = self._peek()
        if token.kind not in kinds:
            self._complain(*(told or kinds))
            raise _SyntaxError
        self._quiet = max(0, self._quiet - 1)
        self._shifted, self._next = token, None
        return token

    def _complain(self, *expected: Kind) -> None:
        token = self._peek()
        if not self._quiet and token.line > self._told_line:
            text = token.text.rstrip(" \t")
            near = "<newline>" if token.kind is Kind.NEWLINE and not text else f"`{text}'" if text else "`'"
            self._tell(token.line, near, f"syntax error, unexpected {token.kind}, expecting {' or '.join(expected)}")

    def _tell(self, line: int, near: str, message: str) -> None:
        self._errors.append(f"{self._source.place(line)}: config parsing error near {near}: {message}")
