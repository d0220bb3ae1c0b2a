#!/bin/sh
# A short stay at a GPU: what `python -m studies.gpu` measures, then a training with the time that is left.
#
#   studies/gpu.sh OUT [all|measure|train]
#
# It may be stopped at any time, and started again: what OUT/gpu.json lacks is measured, and the training goes on from
# OUT/train/checkpoint.pt. Needs no network. Settings, by environment:
#
#   PYTHON    Python with PyTorch (python3)
#   WHEELS    folder of wheels of what else is missing, installed into OUT/site (wheels beside the repository, if there)
#   DATA      folder of CT to train on (data beside the repository)
#   SECONDS_IN_ALL   of the whole stay (540)
#   CONFIGS   of the training, in bundle/configs, separated by spaces (train.json shipped.json)
#   MEASURE   options of studies.gpu, e.g. "--side 64" where there is no GPU
#   SETTINGS  of the training, e.g. "--processes 14 --steps_per_epoch 150"
set -eu

begin=$(date +%s)
here=$(cd "$(dirname "$0")/.." && pwd)
[ $# -ge 1 ] || { echo "error: expected a folder for the results; studies/gpu.sh OUT [all|measure|train]" >&2; exit 2; }
part=${2:-all}
case $part in all | measure | train) ;; *) echo "error: part $part, expected all, measure or train" >&2; exit 2 ;; esac
mkdir -p "$1"
out=$(cd "$1" && pwd)
PYTHON=${PYTHON:-python3}
WHEELS=${WHEELS:-$here/../wheels}
DATA=${DATA:-$here/../data}
SECONDS_IN_ALL=${SECONDS_IN_ALL:-540}
export PYTHONPATH="$out/site:$here/bundle:$here${PYTHONPATH:+:$PYTHONPATH}"

left() { echo $((SECONDS_IN_ALL - $(date +%s) + begin)); }

# Run a command for the time that is left; that the time is over is no error.
in_time() {
    [ "$(left)" -gt 0 ] || { echo "no time left for: $*"; return 0; }
    status=0
    timeout --signal=INT --kill-after=20 "$(left)" "$@" || status=$?
    case $status in 0) ;; 124 | 137) echo "the time is over" ;; *) exit "$status" ;; esac
}

if [ -d "$WHEELS" ] && [ ! -d "$out/site" ]; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$out/site.partial" "$WHEELS"/*.whl
    mv "$out/site.partial" "$out/site"
fi

if [ "$part" != train ]; then
    # shellcheck disable=SC2086
    in_time "$PYTHON" -m studies.gpu "$out/gpu.json" ${MEASURE:-}
fi

if [ "$part" != measure ] && [ ! -f "$out/train/model.pt" ]; then
    [ -d "$DATA" ] || { echo "error: no folder $DATA to train on; name one by DATA" >&2; exit 2; }
    DATA=$(cd "$DATA" && pwd)
    [ -f "$out/train/checkpoint.pt" ] && CONFIGS="${CONFIGS:-train.json shipped.json} resume.json"
    files=""
    for name in ${CONFIGS:-train.json shipped.json}; do files="$files${files:+,}'configs/$name'"; done
    cd "$here/bundle"
    # shellcheck disable=SC2086
    in_time "$PYTHON" -m monai.bundle run training --bundle_root . --config_file "[$files]" \
        --dataset_dir "$DATA" --output_dir "$out/train" --cache_dir "$out/cache" ${SETTINGS:-}
fi
echo "after $(($(date +%s) - begin)) s: $(ls "$out")"
