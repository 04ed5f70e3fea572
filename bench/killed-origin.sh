#!/usr/bin/env bash
# One of three origins is killed under load and comes back: how many requests fail, and how long until the proxy knows.
#
#   bench/killed-origin.sh [SECONDS [RATE]]        (30 s and 5,000 requests a second)
#
# Needs release builds of ringway-edge and ringway-bench, curl, taskset and two cores. The origin is killed (SIGKILL) after a
# third of the time and started again after two thirds. Times are read from the proxy's metrics every 20 ms or so.
set -euo pipefail
seconds=${1:-30} rate=${2:-5000}
bin=$(dirname "$0")/../target/release
dir=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -r "$dir"' EXIT

cat > "$dir/ringway.yaml" <<YAML
version: 1
workers: 1
admin: { address: "127.0.0.1:18901" }
listeners:
  - { name: proxy, address: "127.0.0.1:18080" }
upstreams:
  - name: proxy
    endpoints: ["http://127.0.0.1:19001", "http://127.0.0.1:19002", "http://127.0.0.1:19003"]
    outlier_detection: { base_ejection_time: 1s }
routes:
  - { name: proxy, upstream: proxy, retry: {} }
YAML

origin() {
    taskset -c 1 "$bin/ringway-bench" origin --listen "127.0.0.1:$1" > /dev/null &
    pids+=($!)
}
metrics() { curl -s http://127.0.0.1:18901/metrics; }
healthy() { metrics | sed -n 's/^ringway_endpoint_healthy{.*19002.*} //p'; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }
# Waits until the endpoint's health reads so and says how long after the moment given.
await() {
    while [ "$(healthy)" != "$1" ]; do
        kill -0 "$load" || { echo "never $2"; exit 1; }
        sleep 0.01
    done
    echo "$2: $(($(now_ms) - $3)) ms"
}

origin 19001; origin 19003; origin 19002
doomed=${pids[2]}
taskset -c 0 "$bin/ringway-edge" run --config "$dir/ringway.yaml" --no-pin 2> "$dir/journal" &
edge=$!
pids+=($edge)
until curl -sf -o /dev/null http://127.0.0.1:18080/bytes/1024; do
    kill -0 $edge || { cat "$dir/journal"; exit 1; }
    sleep 0.1
done

taskset -c 1 "$bin/ringway-bench" load http://127.0.0.1:18080/bytes/1024 --rate "$rate" -c 64 -d "${seconds}s" \
    --warm-up 0 --quiet > "$dir/report" &
load=$!
sleep $((seconds / 3))
killed=$(now_ms)
kill -KILL "$doomed"; wait "$doomed" 2>/dev/null || true; unset 'pids[2]'
await 0 "out after the kill" "$killed"
sleep "$(awk "BEGIN { print $seconds / 3 - ($(now_ms) - $killed) / 1000 }")"
started=$(now_ms)
origin 19002
await 1 "back after the start" "$started"
wait "$load"

metrics | grep -E '^ringway_(retries_total|outlier_ejections_total|outlier_returns_total|upstream_connect_errors_total|upstream_stale_total|requests_total|retries_refused_total)' || true
cat "$dir/journal"
cat "$dir/report"
