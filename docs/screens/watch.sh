#!/bin/sh
# Produces the output in docs/screens/watch.md: `syncd status --watch` in a tmux session during an upload
# to a stand-in cloud with injected faults. Prints the screen after SECONDS, the output of `syncd file`
# for two files, and the screen after `syncd pause`.
#
#     docs/screens/watch.sh [SECONDS]
#
# Needs tmux and curl. Uses a temporary directory.
set -eu
seconds=${1:-25}
syncd=${SYNCD:-syncd}
home=$(mktemp -d)
pids=
end() {
    tmux -L "watch-$$" kill-server 2>/dev/null || true
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$home"
}
trap end EXIT

python3 - "$home/models" <<'TREE'
import json, os, random, sys
noise = random.Random(1)
sizes = {"checkpoints/flux_dev.safetensors": 190, "diffusion_models/wan_14b.safetensors": 95,
         "loras/ink.safetensors": 3, "loras/charcoal.safetensors": 4, "vae/vae_ft.safetensors": 8,
         "text_encoders/clip_l.safetensors": 12}
for path, mib in sizes.items():
    path = os.path.join(sys.argv[1], path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    size = mib << 20
    head = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with open(path, "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head + noise.randbytes(size))
TREE

"$syncd" sandbox --json --switch part_size=5242880 \
    --fault '{"fault": "answer", "status": 503, "call": "put_part", "count": null, "probability": 0.2}' \
    --fault '{"fault": "reset", "call": "put_part", "count": null, "probability": 0.05}' \
    --fault '{"fault": "answer", "status": 500, "call": "presign", "contains": "charcoal", "count": null}' \
    >"$home/cloud.log" &
pids="$pids $!"
until [ -s "$home/cloud.log" ]; do sleep 0.2; done
value() { head -n 1 "$home/cloud.log" | sed "s/.*\"$1\": \"\([^\"]*\)\".*/\1/"; }

export SYNCD_MODELS_DIR="$home/models" SYNCD_STATE_DIR="$home/state" \
    SYNCD_API__BASE_URL="$(value base_url)" SYNCD_API__TOKEN="$(value session_token)" \
    SYNCD_API__TEAM_ID="$(value team_id)" SYNCD_API__SINGLE_PUT_LIMIT=16000000 \
    SYNCD_SETTLE__QUIET_S=1 SYNCD_SETTLE__QUIET_CLOSED_S=1 SYNCD_UPLOAD__BANDWIDTH=6MiB/s
"$syncd" 2>"$home/syncd.log" &
pids="$pids $!"
until curl -sf --unix-socket "$home/state/syncd.sock" http://syncd/live >/dev/null; do sleep 0.2; done

tmux -L "watch-$$" -f /dev/null new-session -d -x 100 -y 26 "$syncd status --watch"
shot() { tmux -L "watch-$$" capture-pane -p | sed -e :a -e '/^\n*$/{$d;N;ba' -e '}'; }
sleep "$seconds"
shot
for path in checkpoints/flux_dev.safetensors loras/charcoal.safetensors; do
    printf '\n\n$ syncd file %s\n' "$path"
    COLUMNS=100 "$syncd" file "$path" | sed "s#$home#/opt/ComfyUI#"
done
printf '\n\n'
"$syncd" pause >/dev/null
sleep 4
shot
