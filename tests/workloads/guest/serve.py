"""Serves clients of the tests: numbered records on one port, a database that acknowledges commits on another."""

import socket
import sqlite3
import threading

RECORDS, COMMITS = 6001, 6002


def records(stream):
    """Numbered lines go out; the client's are checked."""

    def check():
        for number, line in enumerate(stream.makefile("rb"), 1):
            if line != b"client %d\n" % number:
                stream.sendall(b"wrong: %r instead of number %d\n" % (line, number))
                return

    threading.Thread(target=check, daemon=True).start()
    number = 0
    while True:
        number += 1
        stream.sendall(b"server %d\n" % number)
        threading.Event().wait(0.005)


def commits(stream):
    """Each number that comes is committed, then sent back."""
    base = sqlite3.connect("/root/commits.db")
    base.execute("pragma synchronous=full")
    base.execute("create table if not exists done (number integer primary key)")
    for line in stream.makefile("rb"):
        base.execute("insert into done values (?)", (int(line),))
        base.commit()
        stream.sendall(line)


def serve(port, body):
    """Each connection on a thread of its own."""
    listener = socket.create_server(("", port))
    while True:
        threading.Thread(target=body, args=(listener.accept()[0],), daemon=True).start()


threading.Thread(target=serve, args=(RECORDS, records), daemon=True).start()
threading.Thread(target=serve, args=(COMMITS, commits), daemon=True).start()
print("serving", flush=True)
threading.Event().wait()
