#!/usr/bin/env bash
# How long small requests wait beside one bulk download: their p99 without the proxy, through it, and through it beside a
# download over loopback that never waits for its source.
#
#   bench/fairness.sh [SECONDS [RATE]]        (10 s and 1,000 requests a second, for each of four runs)
#
# Needs release builds of ringway-edge and ringway-bench (BIN says where, else target/release), curl, taskset, chrt and two
# cores: the proxy's one worker has the first, everybody else the second. There the small requests' load and their origin come
# first (SCHED_FIFO, where that is allowed), or the wait for the download's client and origin would be measured. IO=epoll
# measures epoll.
set -euo pipefail
seconds=${1:-10} rate=${2:-1000}
bin=${BIN:-$(dirname "$0")/../target/release}
dir=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -r "$dir"' EXIT
url=http://127.0.0.1:18082 origin=http://127.0.0.1:19012 bulk_origin=http://127.0.0.1:19013
first=""
if chrt -f 5 true 2>/dev/null; then first="chrt -f 5"; fi

cat > "$dir/ringway.yaml" <<YAML
version: 1
workers: 1
io: ${IO:-auto}
admin: { address: "127.0.0.1:18902" }
listeners:
  - { name: proxy, address: "127.0.0.1:18082" }
upstreams:
  - { name: small, endpoints: ["$origin"] }
  - { name: bulk, endpoints: ["$bulk_origin"] }
routes:
  - { name: bulk, match: { path: { prefix: /bytes/1073741824 } }, upstream: bulk }
  - { name: small, upstream: small }
YAML

$first taskset -c 1 "$bin/ringway-bench" origin --listen 127.0.0.1:19012 > /dev/null &
pids+=($!)
taskset -c 1 "$bin/ringway-bench" origin --listen 127.0.0.1:19013 > /dev/null &
pids+=($!)
taskset -c 0 "$bin/ringway-edge" run --config "$dir/ringway.yaml" --no-pin 2> "$dir/journal" &
pids+=($!)
until curl -sf -o /dev/null $url/bytes/1024; do
    kill -0 "${pids[2]}" || { cat "$dir/journal"; exit 1; }
    sleep 0.1
done

# Requests of 1 KiB at a fixed rate, counted from when each was due.
small() {
    printf '%-36s' "$1"
    $first taskset -c 1 "$bin/ringway-bench" load "$2/bytes/1024" --rate "$rate" -c 16 -d "${seconds}s" --quiet |
        grep -iE 'p50|p99|latency' | tr '\n' ' '
    echo
}
# One download after the other until told to stop, on one connection; bounded, should this script be killed.
bulk() {
    taskset -c 1 timeout $((seconds + 10)) curl -s -o /dev/null "$1/bytes/1073741824?[1-1000]" &
    download=$!
    pids+=("$download")
    sleep 0.5
}
stop() {
    kill "$download" 2>/dev/null || true
    wait "$download" 2>/dev/null || true
}

small "without the proxy" $origin
bulk $bulk_origin; small "without the proxy, beside a download" $origin; stop
small "through the proxy" $url
bulk $url; small "through the proxy, beside a download" $url; stop
