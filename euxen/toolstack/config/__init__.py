"""What a domain shall be: xl.cfg(5) read as xl reads it. Start at ``model``.

``lexer`` and ``xlcfg`` are the grammar, ``settings`` gives typed values, ``disk``, ``nic``, ``devices``,
``cpus`` and ``cpuid`` read the small languages inside strings, ``options`` says of every option what
becomes of it, and ``model`` is what all the rest of the toolstack works with.

It takes what Xen 4.17's xl takes, to the same end. It refuses more, for xl goes on with a warning where a
value makes no sense, and silently where it does not look. It takes more where xl trips over itself, which
``lexer`` and ``disk`` tell.
"""
