#!/bin/sh
# Runs in the guest: every workload in a row, for runs that are typed by an input script. The answers go to the
# console, where two runs are compared; the last line says that each program found its own answers right.
set -e
here=$(dirname "$0")
cd /root
seq 1 200000 | sha256sum
seq 1 200000 | openssl dgst -sha512 -r
seq 1 20000 >/tmp/signed
openssl pkeyutl -sign -rawin -inkey "$here/ed25519.pem" -in /tmp/signed | sha256sum
python3 "$here/py_check.py"
rm -f check.db
sqlite3 check.db <"$here/sql_check.sql"
gcc -O2 -o compiled "$here/compiled.c" -lm
./compiled
apt-get -q update
apt-get -q -y install hello
hello
hello32
virtft-guest selftest
python3 "$here/fsync_check.py" /root/durable
sync
echo "virtft: workloads ok"
