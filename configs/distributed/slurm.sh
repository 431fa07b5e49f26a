#!/usr/bin/env bash
# The paper's 6.7 B model on 4 hosts of 8 GPUs: sbatch configs/distributed/slurm.sh
# A job that ends at its time limit, or makes room for another, saves; the next one with the same name goes on.
#SBATCH --job-name=lit-mixers
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue

root=runs/$SLURM_JOB_NAME
resume=()
if [ -n "$(find "$root" -name last.ckpt 2> /dev/null)" ]; then resume=(--ckpt_path=last); fi

srun python cli.py fit --config=configs/paper/6.7b.yaml --config=configs/distributed/fsdp2.yaml \
    --data.batch_size=128 --trainer.accumulate_grad_batches=16 "--trainer.default_root_dir=$root" "${resume[@]}"
