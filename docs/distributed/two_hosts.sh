#!/usr/bin/env bash
# Trains on two hosts of one process each, with ddp and with fsdp2, and on one process, and shows that the losses agree.
# The hosts are network namespaces of this machine, joined by a cable (veth); their files are the same. Needs root.
#
#   docs/distributed/two_hosts.sh [python] > docs/distributed/two_hosts.txt
set -euo pipefail
cd "$(dirname "$0")/../.."

python=${1:-python}
work=$(mktemp -d)
hosts=(mixers0 mixers1)
addresses=(10.77.0.1 10.77.0.2)
export OMP_NUM_THREADS=1

options=(
    --data.tokenizer=bytes --data.block_size=64 --data.batch_size=8 "--data.cache_dir=$work/cache"
    --model.mixer=retention --model.dim=64 --model.depth=2 --model.warmup_steps=1000
    --trainer.max_steps=20 --trainer.val_check_interval=20 --trainer.limit_val_batches=4 --trainer.log_every_n_steps=1
    --trainer.accelerator=cpu --trainer.precision=32-true --trainer.devices=1
)

cleanup() {
    for host in "${hosts[@]}"; do ip netns delete "$host" 2> /dev/null || true; done
    rm -rf "$work"
}
trap cleanup EXIT

for host in "${hosts[@]}"; do ip netns add "$host"; done
ip link add cable0 netns "${hosts[0]}" type veth peer name cable1 netns "${hosts[1]}"
for rank in 0 1; do
    ip -n "${hosts[$rank]}" address add "${addresses[$rank]}/24" dev "cable$rank"
    ip -n "${hosts[$rank]}" link set "cable$rank" up
    ip -n "${hosts[$rank]}" link set lo up
done

bytes_received() { ip netns exec "${hosts[1]}" cat /sys/class/net/cable1/statistics/rx_bytes; }

on_host() { # RANK STRATEGY
    ip netns exec "${hosts[$1]}" env "GLOO_SOCKET_IFNAME=cable$1" "$python" -m torch.distributed.run \
        --nnodes=2 --nproc-per-node=1 "--node-rank=$1" "--master-addr=${addresses[0]}" --master-port=29500 \
        cli.py fit "${options[@]}" --trainer.num_nodes=2 "--trainer.strategy=$2" "--trainer.default_root_dir=$work/$2"
}

echo "== one process"
"$python" cli.py fit "${options[@]}" "--trainer.default_root_dir=$work/one" 2> /dev/null | grep -E "^(step|validation|bits)"
for strategy in ddp fsdp2; do
    before=$(bytes_received)
    echo "== two hosts, $strategy"
    on_host 1 "$strategy" > "$work/$strategy.log" 2>&1 &
    other=$!
    on_host 0 "$strategy" 2> "$work/first.log" | grep -E "^(step|validation|bits)" || { cat "$work"/*.log; exit 1; }
    wait "$other"
    echo "   $((($(bytes_received) - before) / 1000000)) MB came over the cable to the second host"
done
