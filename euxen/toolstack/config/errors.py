"""The exceptions of a configuration that says what cannot be."""

from __future__ import annotations

from euxen.toolstack.errors import UserError


class ConfigError(UserError):
    """A configuration that cannot be used; its words are xl's where xl has any.

    ``sentences`` are one or more, each with its place, as a compiler lists them.
    """

    def __init__(self, *sentences: str) -> None:
        super().__init__("\n".join(sentences))
        self._sentences = sentences

    @property
    def sentences(self) -> tuple[str, ...]:
        """All of them."""
        return self._sentences

    def at(self, place: str) -> ConfigError:
        """The same, where what was read alone is a part of something, for example of a file."""
        return ConfigError(*(f"{place}: {sentence}" for sentence in self.sentences))


class OptionError(ConfigError):
    """An option whose value does not go with the others, or with what Xen can do."""

    def __init__(self, option: str, sentence: str) -> None:
        super().__init__(sentence)
        self.option = option
