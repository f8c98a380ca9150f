#!/usr/bin/env bash
# The pages' types and tests, and that what ships and both schema.ts are what their sources make, byte for byte.
set -euo pipefail
cd "$(dirname "$0")"
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
types() {
  npx --no-install openapi-typescript "$1" --output "$made/schema.ts" >/dev/null
  cmp "$made/schema.ts" "$2" || { echo "the page's types are not the API's: make page-types" >&2; exit 1; }
}
types openapi.json src/api/schema.ts
types dashboard-openapi.json src/dashboard/schema.ts
npx --no-install vitest run
PAGE_FOLDER=$made/page TABLET_FOLDER=$made/tablet npm run --silent build
{ diff -r "$made/page" ../page && diff -r "$made/tablet" ../../tablet/page; } || { echo "the page that ships is not what its sources make: make page" >&2; exit 1; }
