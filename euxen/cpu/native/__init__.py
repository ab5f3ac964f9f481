"""The native runtime: handlers written in Python, compiled to machine code, run without a Python frame.

``language`` is what a handler may say, ``compiler`` turns handlers into one object file (numba),
``library`` keeps that file in a cache (``cache``) and loads it, so that a warm start neither
compiles nor imports numba.
"""
