#!/usr/bin/env bash
# Makes a clip with curl. Usage: rest.sh [http://HOST:PORT]
set -euo pipefail
service=${1:-http://127.0.0.1:8080}

field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

id=$(curl -sf "$service/v1/models/wan-video/wan-2.7-t2v/predictions" \
    -H 'Content-Type: application/json' \
    -H "Idempotency-Key: rest-example-$$" \
    -d '{"input": {"prompt": "a red circle moving right on a white background", "resolution": "480p", "duration": 2}}' |
    field id)

status=starting
while [ "$status" = starting ] || [ "$status" = processing ]; do
    sleep 0.5
    status=$(curl -sf "$service/v1/predictions/$id" | field status)
    echo "$status"
done
[ "$status" = succeeded ]

curl -sf "$service/v1/predictions/$id/output/video.mp4" -o rest.mp4
