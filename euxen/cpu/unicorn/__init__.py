"""The engine over Unicorn: QEMU's translator, in process, with its slow paths replaced by ours.

``layout`` knows where things are in the one version of the library that we accept and checks it;
``library`` loads a private copy and puts our functions in the place of the library's;
``engine`` is the whole; all others are those functions.
"""
