#!/bin/bash
#SBATCH --job-name=g2a-archive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
# A backlog fetched by a Slurm job array: from one ID file to one archive.
#
#     bash slurm.sh IDS.txt /shared/recordings [SHARDS]
#
# submits SHARDS tasks (8) and, behind them, the merge. Each task has an archive of its own beside the
# one that is to be, on the same file system, so that merging is linking. A task that was killed,
# preempted or out of time goes on where it stopped: `scontrol requeue JOB_TASK`.
#
# The credentials' trap: every task renews its access token by itself. A personal access token bears
# that; a refresh token does not, as the service may replace it at each use, and what the other
# tasks hold is void then. An access token alone ends after an hour.
#     G2A_ARCHIVE_CLIENT_ID, G2A_ARCHIVE_CLIENT_SECRET_FILE, G2A_ARCHIVE_PAT_FILE
set -euo pipefail
ids=$(realpath -- "${1:?the file of IDs}")
dest=$(realpath -- "${2:?the archive that is to be}")

if [ -z "${SLURM_JOB_ID:-}" ]; then
    job=$(sbatch --parsable --array="1-${3:-8}" -- "$0" "$ids" "$dest")
    # Not afterok: what one task could not get must not keep the rest out.
    sbatch --dependency="afterany:${job%%;*}" -- "$0" "$ids" "$dest"
elif [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    # Arrays may begin anywhere, and take steps.
    shard=$(((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN) / ${SLURM_ARRAY_TASK_STEP:-1} + 1))
    # exec: the signal before the time limit reaches the program, which then stops tidily.
    exec g2a-archive download --file "$ids" --shard "$shard/$SLURM_ARRAY_TASK_COUNT" \
        --dest "$dest.shard-$shard"
else
    code=0
    g2a-archive merge --move --dest "$dest" "$dest".shard-* || code=$?
    [ "$code" -le 1 ] || exit "$code"
    # What a task could not get is tried once more.
    g2a-archive download --file "$ids" --dest "$dest"
    exit "$code"
fi
