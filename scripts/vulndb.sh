#!/usr/bin/env bash
# Makes a copy of the Go vulnerability database out of the module it is published as, for machines that reach a
# module proxy and not vuln.go.dev. Prints the copy's address, for GOVULNDB. It is made once for each version.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root/.tools" # no module of its own

export GOWORK=off GOFLAGS=-mod=mod
version=$(go list -m -f '{{.Version}}' golang.org/x/vulndb@latest)
copy=$root/.tools/vulndb/$version
if [ ! -d "$copy" ]; then
  echo "vulndb: making a copy of golang.org/x/vulndb $version" >&2
  source=$(go mod download -json "golang.org/x/vulndb@$version" | sed -n 's/^[[:space:]]*"Dir": "\(.*\)",$/\1/p')
  GOBIN=$root/.tools/bin go install "golang.org/x/vulndb/cmd/indexdb@$version"
  rm -rf "$root/.tools/vulndb" # older ones
  mkdir -p "$root/.tools/vulndb"
  "$root/.tools/bin/indexdb" -vulns "$source/data/osv" -out "$copy.part" >&2
  mv "$copy.part" "$copy"
fi
echo "file://$copy"
