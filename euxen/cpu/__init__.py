"""Engines that execute guest instructions, and what they need: CPUID and MSR policy, the native runtime.

``engine`` is the contract. ``state`` and ``block`` are the virtual CPU as native code sees it.
``native`` is how native code is written. ``unicorn`` is the engine over QEMU's translator.
"""
