"""The commands: ``euxen`` and its verbs. ``main`` knows them all; one module is one verb."""
