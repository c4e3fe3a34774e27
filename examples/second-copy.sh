#!/bin/sh
# A second copy of an archive with rclone, and the proof that it is one, by the recorded sums:
#     second-copy.sh /mnt/nas/recordings remote:bucket/recordings
# Recordings are only added, never changed (--immutable), nor deleted: what `remove` takes out of
# the archive must be taken out of the copy, too. May run beside a night's run, as a recording has
# its name only when it is whole. Exit 0: all that has a sum is there, byte for byte.
# Where the catalogue lies elsewhere, G2A_ARCHIVE_CONFIG or G2A_ARCHIVE_CATALOG tell.
set -eu
PATH=$PATH:/opt/g2a-archive/bin   # cron's is short
archive=$1
remote=$2
# Reads everything back and hashes it here. Empty where the remote knows SHA-256 by itself
# (sftp with sha256sum, a local disk): `rclone backend features remote:` tells.
CHECK_OPTIONS=${CHECK_OPTIONS---download}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$archive"
[ -d .g2a-archive ] || { echo "second-copy: no archive in $archive: is it mounted?" >&2; exit 6; }

# A year on a disk that is not mounted has no sums here: the archive knows how many there are.
known=$(g2a-archive status --fingerprint --dest .) || exit 6
known=$(echo "$known" | cut -d ' ' -f 3)

# The sums of all days as one list, those on other disks (-L), too; what comes during the copy is
# for the next time.
find -L . -name SHA256SUMS | LC_ALL=C sort | while IFS= read -r file; do
    day=${file#./}
    awk -v day="${day%SHA256SUMS}" \
        'length($1) == 64 && $1 !~ /[^0-9a-f]/ { print $1 "  " day substr($0, 67) }' "$file"
done > "$work/sums"
here=$(grep -c '' "$work/sums" || true)
[ "$here" -ge "${known:-0}" ] || {
    echo "second-copy: only $here of $known sums are here: is every disk mounted?" >&2
    exit 6
}

code=0
recordings() {
    rclone "$@" --copy-links --filter '- /.g2a-archive/**' --filter '- /browse/**' \
        --filter '+ *.{mp4,events,jpg,png,gif,webp}' --filter '- *'
}
recordings copy . "$remote" --immutable || code=1
# What tells of them does change.
rclone copy . "$remote" --copy-links --filter '- /.g2a-archive/partial/**' --filter '+ SHA256SUMS' \
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
