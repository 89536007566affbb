"""Moves a known stream of bytes over TCP and says its SHA-256; used on both sides of a transfer.

    python3 transfer.py send  HOST PORT MIB     connects, sends
    python3 transfer.py fetch HOST PORT MIB     connects, receives
    python3 transfer.py serve ADDRESS PORT MIB  one connection to each, prints a line for each

The server sends to a client whose first byte is "f", and receives from one that begins with "s".
"""

import hashlib
import random
import socket
import sys

TIMEOUT_S = 600
BLOCK = 1 << 16


def blocks(mebibytes):
    """The stream: random-looking, the same every time."""
    block = bytearray(random.Random(77).randbytes(BLOCK))
    for number in range(mebibytes * (1 << 20) // BLOCK):
        block[:8] = number.to_bytes(8, "big")
        yield bytes(block)


def send(connection, mebibytes):
    digest = hashlib.sha256()
    for block in blocks(mebibytes):
        connection.sendall(block)
        digest.update(block)
    connection.shutdown(socket.SHUT_WR)
    # Not closed before the other side has all: its answer is the end of its stream.
    connection.recv(1)
    return digest.hexdigest()


def receive(connection):
    digest = hashlib.sha256()
    total = 0
    while data := connection.recv(BLOCK):
        digest.update(data)
        total += len(data)
    return total, digest.hexdigest()


def serve(address, port, mebibytes):
    with socket.create_server((address, port)) as listener:
        listener.settimeout(TIMEOUT_S)
        print("listening", flush=True)
        for _ in range(2):
            connection, _peer = listener.accept()
            with connection:
                connection.settimeout(TIMEOUT_S)
                if connection.recv(1) == b"f":
                    print("sent", mebibytes << 20, send(connection, mebibytes), flush=True)
                else:
                    print("received", *receive(connection), flush=True)


def main():
    what, host, port, mebibytes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if what == "serve":
        serve(host, port, mebibytes)
        return
    with socket.create_connection((host, port), TIMEOUT_S) as connection:
        connection.sendall(what[:1].encode())
        if what == "send":
            print("sent", mebibytes << 20, send(connection, mebibytes))
        else:
            print("received", *receive(connection))


main()
