#!/usr/bin/env bash
# Runs the GPU cells of the protocol on one machine with a CUDA GPU. It needs no network and no git history there.
#
# Here, from a clean tree:
#   python benchmarks/pack.py                                        # .gpu/data: small images, commit.json
#   pip wheel --no-deps -w .whl . ; pip download --no-deps -d .whl PACKAGES   # what the machine lacks
# There, with the repository, .gpu/data and .whl:
#   benchmarks/gpu.sh .gpu/data OUT                                  # benchmarks/cells/gpu.yaml
#   MINUTES=9 PROCESSES=5 WORKERS=2 OMP_NUM_THREADS=1 benchmarks/gpu.sh .gpu/data OUT benchmarks/cells/gpu-quarter.yaml
# Here again: unpack OUT/results.tar.gz in the repository, and the detections, for paired comparisons:
#   tar xzf OUT/results.tar.gz ; cat OUT/detections.* | tar x
#
# PROCESSES work through the list side by side, each at the next cell that none has begun. After MINUTES what still runs
# is stopped; the same command goes on from the last checkpoints, as long as runs/ is still there. OUT lies outside
# the repository, is brought up to date every 45 seconds (the detections at the end), and has few
# files, none over 15 MiB.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ $# -ge 2 ] || { sed -n '2,18s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }
data=$1 out=$2
shift 2
[ $# -ge 1 ] || set -- benchmarks/cells/gpu.yaml
python=${PYTHON:-python3}
minutes=${MINUTES:-9}
work=runs/benchmarks
mkdir -p "$out" "$work/logs" "$work/runs"

if [ -d .whl ]; then
    site=$PWD/runs/site
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$site" .whl/*.whl || exit 1
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}

"$python" - >"$work/runs/machine.json" <<'PYTHON'
import json, sys

sys.path.insert(0, ".")
from benchmarks.provenance import machine, versions

print(json.dumps({"versions": versions(), "device": machine("cuda")}))
PYTHON

pack() { # rows, curves and logs; the old file stays until the new one is whole
    find benchmarks/results "$work/logs" "$work/runs" \
        \( -name '*.json' -o -name '*.log' -o -name metrics.csv -o -name config.yaml \) -print0 2>/dev/null |
        tar czf "$work/results.tar.gz" --null -T - && mv "$work/results.tar.gz" "$out/results.tar.gz"
}
# Ended from outside, at a time limit, a machine still hands over what there is.
(while sleep 45; do pack; done) &
packer=$!
trap 'kill $packer 2>/dev/null' EXIT

pids=()
for process in $(seq "${PROCESSES:-3}"); do
    timeout --kill-after=10 "${minutes}m" \
        "$python" benchmarks/run.py --cells "$@" --data "$data" --work "$work" --device cuda \
        --workers "${WORKERS:-4}" ${RUN_FLAGS:-} >"$work/logs/process-$process.log" 2>&1 &
    pids+=($!)
    sleep 1 # the first cells of the list go to the first processes
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
tail -n 4 "$work"/logs/process-*.log

kill $packer
wait $packer 2>/dev/null
pack
if [ -d "$work/detections" ]; then
    tar c "$work/detections" | split -b 15m - "$out/detections."
fi
exit "$status"
