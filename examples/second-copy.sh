#!/bin/sh
# A second copy of an archive with rclone, and the proof that it is one, by the recorded sums:
#     second-copy.sh /mnt/nas/recordings remote:bucket/recordings
# Recordings are only added, never changed (--immutable), nor deleted: what `remove` takes out of
# the archive must be taken out of the copy, too. May run beside a night's run, as a recording has
# its name only when it is whole. Exit 0: all that has a sum is there, byte for byte.
set -eu
archive=$1
remote=$2
# Reads everything back and hashes it here. Empty where the remote knows SHA-256 by itself
# (sftp with sha256sum, a local disk): `rclone backend features remote:` tells.
CHECK_OPTIONS=${CHECK_OPTIONS---download}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$archive"

# The sums of all days as one list; what comes during the copy is for the next time.
find . -name SHA256SUMS | LC_ALL=C sort | while IFS= read -r file; do
    day=${file#./}
    awk -v day="${day%SHA256SUMS}" \
        'length($1) == 64 && $1 !~ /[^0-9a-f]/ { print $1 "  " day substr($0, 67) }' "$file"
done > "$work/sums"
[ -s "$work/sums" ] || { echo "second-copy: no sums in $archive: is it mounted?" >&2; exit 6; }

code=0
recordings() {
    rclone "$@" --filter '- /.g2a-archive/**' --filter '- /browse/**' \
        --filter '+ *.{mp4,events,jpg,png,gif,webp}' --filter '- *'
}
recordings copy . "$remote" --immutable || code=1
# What tells of them does change.
rclone copy . "$remote" --filter '- /.g2a-archive/partial/**' --filter '+ SHA256SUMS' \
    --filter '+ /.g2a-archive/removed.csv' --filter '- *' || code=1

# Every line of the list must have been found right, whatever else lies there.
: > "$work/found"
# shellcheck disable=SC2086 # several options, or none
recordings checksum sha256 "$work/sums" "$remote" --combined "$work/found" $CHECK_OPTIONS || true
right=$(grep -c '^= ' "$work/found" || true)
total=$(grep -c '' "$work/sums")
echo "second-copy: $right of $total files are right in $remote"
[ "$right" -eq "$total" ] || code=1
exit $code
