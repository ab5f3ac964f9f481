"""Guest kernel images: read, unpack and judge them. Start at ``image``.

``decompress`` and ``bzimage`` peel a file down to its ELF image, ``elf`` reads that image's headers,
``notes`` what it says about itself to Xen, ``image`` puts it together for the domain builders, and
``inspect`` tells it to people.
"""
