#!/bin/sh
# Starts a replica at the first socket of a folder that no other replica has: 1.sock, 2.sock, ...
# Containers of a scaled service are all alike, and the server has to know their addresses beforehand.
#
#     replica.sh FOLDER NOTE      NOTE: a file of this container's own, where the socket's address is written
set -eu
mkdir -p "$1"
slot=1
while [ "$slot" -le 64 ]; do
    exec 9>"$1/$slot.slot"
    if flock --nonblock 9; then # for as long as the replica has it open
        # Each replica has a GPU of its own: the first socket goes with the first one.
        [ "${INSTGENIE_REPLICA_DEVICE:-}" != cuda ] || export INSTGENIE_REPLICA_DEVICE="cuda:$((slot - 1))"
        printf 'unix:%s\n' "$1/$slot.sock" >"$2"
        exec python -m instgenie.replica --listen "unix:$1/$slot.sock"
    fi
    slot=$((slot + 1))
done
echo "replica.sh: all 64 sockets in $1 are taken" >&2
exit 2
