"""XenBus: how a front end and its back end find each other, agree, connect, and part.

Each side has a directory in xenstore, with a ``state`` that the other watches. ``states`` has the law of both sides as
tables, ``bus`` finds the devices that the toolstack has made for a domain's back ends, ``device`` drives one of them.
What kind of device it is is the business of a ``Driver``. xen/include/public/io/xenbus.h
"""
