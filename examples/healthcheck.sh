#!/bin/sh
# Tells a monitoring service (healthchecks.io and the like) how the night went; for cron.
# 0: all archived; 3: some not ready yet; 8: out of time. Anything else is a failure.
# The address to ping is a secret: it stays in a file, out of the process list.
PING_CONFIG=${PING_CONFIG:-/etc/g2a-archive/ping}   # one line: url = "https://hc-ping.com/…"

/opt/g2a-archive/bin/g2a-archive sync "$@"
code=$?
case $code in
    0 | 3 | 8) ending= ;;
    *) ending=/fail ;;
esac
sed "s|\"\$|$ending\"|" "$PING_CONFIG" | curl -fsS -m 10 --retry 3 -o /dev/null -K -
exit $code
