"""Dividing what a sender has left to be divided (TSO) for a receiver that takes segments only. Native.

The frames that come of it are whole: their lengths, sequence numbers, flags and checksums are those that the sender's
own TCP would have written.
"""

from __future__ import annotations

from euxen.cpu.native.language import copy, load8, load16, load64, native, store8, store16, store64
from euxen.dom0.net.checksum import (
    TCP,
    fill_checksum,
    fill_ip_checksum,
    get32,
    network_offset,
    packet_end,
    put32,
    swap16,
    transport_offset,
)
from euxen.dom0.net.packet import NetPacket, own_packet

MAX_SEGMENTS = 128
"""Of one packet: 64 KiB in segments of 512 bytes."""
TH_FIN, TH_PSH, TH_CWR = 0x01, 0x08, 0x80
DATA_VALIDATED = 2
ALIGN = 63


@native
def _segment_size(headers: int, payload: int) -> int:
    return (headers + payload + ALIGN) & ~ALIGN


@native
def _write_segment(frame: int, size: int, source: int, headers: int, done: int, last: int) -> int:
    """Make the headers of one segment, whose payload begins ``done`` bytes into that of the whole."""
    ip = network_offset(source, headers)
    at = transport_offset(source, headers) >> 8
    if load8(source + ip) >> 4 == 4:
        store16(frame + ip + 2, swap16(size - ip))
    else:
        store16(frame + ip + 4, swap16(size - ip - 40))
    put32(frame + at + 4, get32(source + at + 4) + done)
    flags = load8(source + at + 13)
    if not last:
        flags &= ~(TH_FIN | TH_PSH)
    if done:
        flags &= ~TH_CWR
    store8(frame + at + 13, flags)
    return fill_checksum(frame, size)


@native
def segment(source: int, size: int, gso_size: int, packets: int, host: int, machine_address: int, room: int) -> int:
    """Divide a frame; how many came of it, or 0 if it can't be divided.

    They are written to ``room`` bytes of Domain 0's own memory, at a host and a machine address, and described in
    ``packets``, which has room for MAX_SEGMENTS.
    """
    where = transport_offset(source, size)
    if where & 0xFF != TCP or gso_size <= 0:
        return 0
    ip = network_offset(source, size)
    at = where >> 8
    headers = at + (load8(source + at + 12) >> 4) * 4
    end = packet_end(source, size)
    payload = end - headers
    if headers < at + 20 or payload <= 0:
        return 0
    segments = (payload + gso_size - 1) // gso_size
    if segments > MAX_SEGMENTS or segments * _segment_size(headers, gso_size) > room:
        return 0
    number = swap16(load16(source + ip + 4))
    for n in range(segments):
        done = n * gso_size
        part = min(gso_size, payload - done)
        copy(host, source, headers)
        copy(host + headers, source + headers + done, part)
        if load8(source + ip) >> 4 == 4:
            store16(host + ip + 4, swap16((number + n) & 0xFFFF))
        _write_segment(host, headers + part, source, headers, done, 1 if n == segments - 1 else 0)
        if load8(source + ip) >> 4 == 4:
            fill_ip_checksum(host, ip)
        own_packet(packets + n * NetPacket.size, machine_address, host, headers + part, DATA_VALIDATED)
        step = _segment_size(headers, gso_size)
        host += step
        machine_address += step
    return segments


@native
def copy_details(packet: int, source: int) -> int:
    """Give a packet that was made of another what is not in its bytes: flags, hash, kind of segmentation."""
    for field in range(4):
        offset = NetPacket.flags + field * 8
        store64(packet + offset, load64(source + offset))
    return 0
