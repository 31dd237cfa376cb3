#!/bin/sh
# Produces the output in docs/sign-in.md: `syncd login`, a machine with only a device key and a file of
# 6 GB, and `syncd whoami` before and after `syncd login --large-files`. It uses tmux and a stand-in
# cloud; curl confirms the code instead of a browser.
#
#     docs/screens/sign-in.sh [PORT]
#
# Needs tmux, curl, and for some seconds 6 GB of disk space, which is allocated and not written. Uses a
# temporary directory, shown as /demo.
set -eu
port=${1:-8787}
syncd=${SYNCD:-syncd}
home=$(mktemp -d)
pids=
end() {
    tmux -L "sign-in-$$" kill-server 2>/dev/null || true
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$home"
}
trap end EXIT

python3 - "$home/models" <<'TREE'
import json, os, random, sys
noise = random.Random(1)
sizes = {"checkpoints/video_xl.safetensors": 6_000_000_000, "loras/ink.safetensors": 2_000_000}
for path, size in sizes.items():
    path = os.path.join(sys.argv[1], path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    room = size - 8 - 128
    head = json.dumps({"w": {"dtype": "U8", "shape": [room], "data_offsets": [0, room]}}).encode()
    with open(path, "wb") as file:
        file.write((128).to_bytes(8, "little") + head.ljust(128))
        file.write(noise.randbytes(min(room, 2_000_000 - 136)))
        os.posix_fallocate(file.fileno(), 0, size)  # a sparse file would count as incomplete
TREE

"$syncd" sandbox --json --port "$port" --seed 1 >"$home/cloud.log" &
pids="$pids $!"
until [ -s "$home/cloud.log" ]; do sleep 0.2; done
value() { head -n 1 "$home/cloud.log" | sed "s/.*\"$1\": \"\([^\"]*\)\".*/\1/"; }

export SYNCD_MODELS_DIR="$home/models" SYNCD_STATE_DIR="$home/state" \
    SYNCD_API__BASE_URL="$(value base_url)" SYNCD_SETTLE__QUIET_S=1 SYNCD_SETTLE__QUIET_CLOSED_S=1 \
    PYTHON_KEYRING_BACKEND=keyring.backends.null.Keyring
shown() { sed -e "s#$home#/demo#g" -e 's/ *$//'; }
run() {
    printf '\n$ syncd %s\n' "$*"
    code=0
    "$syncd" "$@" 2>>"$home/syncd.log" >"$home/output" || code=$?
    shown <"$home/output"
    [ "$code" = 0 ] || printf '$ echo $?\n%s\n' "$code"
}

printf '$ syncd login\n'
tmux -L "sign-in-$$" -f /dev/null new-session -d -x 110 -y 45 "$syncd login; sleep 60"
shot() { tmux -L "sign-in-$$" capture-pane -p -J; }
until shot | grep -q 'user_code=.*'; do sleep 0.2; done
curl -sf "$(shot | grep -o 'http://[^ ]*user_code=[A-Z0-9-]*')" >/dev/null
until shot | grep -q 'login --large-files'; do sleep 0.2; done
shot | sed -e :a -e '/^\n*$/{$d;N;ba' -e '}' | shown

run whoami
run plan
run --once
run status
value password | "$syncd" login --large-files --email "$(value email)" --password-stdin >/dev/null
run whoami
