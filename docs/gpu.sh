#!/bin/sh
# What only a GPU can tell, in about 40 minutes: sh docs/gpu.sh OUT
#
# 1. tests/test_gpu.py: every form, op and kernel against the reference.
# 2. A training step of the 16 x 1024 model at 2,048 tokens with every mixer, eager and compiled: tokens/s, MFU, memory.
# 3. The RetNet paper's comparison at its size of model, for as many tokens as there is time for.
#
# Each part writes into OUT as it goes, and another call with the same OUT goes on: a part that is done is left out.
# Needs the packages of ".[test,corpora]". OUT/log has what was printed.
set -u
out=${1:?"write the folder for the results: sh docs/gpu.sh OUT"}
tests_s=${TESTS_S:-300} speed_s=${SPEED_S:-420} runs_s=${RUNS_S:-1260} # seconds for each part
mkdir -p "$out/log"

part() { # part NAME SECONDS COMMAND...: does it unless it is done; SIGTERM lets a run save itself
    name=$1 seconds=$2
    shift 2
    [ -e "$out/log/$name.done" ] && return
    echo "$name: at most $seconds s"
    timeout --kill-after=60 "$seconds" "$@" >>"$out/log/$name.txt" 2>&1
    code=$?
    [ $code -eq 0 ] && touch "$out/log/$name.done"
    echo "$name: exit code $code, see $out/log/$name.txt"
}

python - >"$out/log/device.txt" <<'PYTHON' || exit 1
import sys
import torch

if not torch.cuda.is_available():
    sys.exit("docs/gpu.sh needs a CUDA device, and torch sees none")
print(torch.cuda.get_device_name(), "torch", torch.__version__, "CUDA", torch.version.cuda)
PYTHON
cat "$out/log/device.txt"
part tests "$tests_s" python -m pytest tests/test_gpu.py -n 0 -ra
for compile in false true; do
    part "speed_compile_$compile" "$speed_s" python cli.py benchmark train --whole_model=true --lengths='[2048]' \
        --batch_sizes='[8]' --dtype=bfloat16 --compile="$compile" --rounds=2 --repeats=3 --root="$out/speed"
done
part comparison "$runs_s" python cli.py compare configs/comparison/gpu.yaml --folder="$out/comparison"
