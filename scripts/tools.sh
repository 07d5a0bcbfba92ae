#!/usr/bin/env bash
# Installs the pinned development tools into .tools/bin; does nothing when they are there already.
# gofumpt and goimports come inside golangci-lint (`golangci-lint fmt`), so that lint and fmt agree.
#
#   scripts/tools.sh                  all of them
#   scripts/tools.sh govulncheck …    the named ones only
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=$root/.tools/bin

# install NAME PACKAGE VERSION. A tool built by another Go is built again: a linter older than the language
# it reads refuses to run. A tool that is missing has no version, which is no error.
install() {
  local name=$1 package=$2 version=$3 have
  have=$(go version -m "$bin/$name" 2>/dev/null | awk 'NR == 1 { go = $NF } $1 == "mod" { print go, $3 }') || true
  if [ "$have" = "$(go env GOVERSION) $version" ]; then
    return
  fi
  echo "tools: installing $name $version (a minute or two when nothing is cached)" >&2
  GOWORK=off GOBIN=$bin go install "$package@$version"
}

if [ $# -eq 0 ]; then
  set -- golangci-lint govulncheck
fi
mkdir -p "$bin"
for tool in "$@"; do
  case $tool in
    golangci-lint) install "$tool" github.com/golangci/golangci-lint/v2/cmd/golangci-lint v2.15.0 ;;
    govulncheck) install "$tool" golang.org/x/vuln/cmd/govulncheck v1.9.0 ;;
    *)
      echo "tools: unknown tool $tool" >&2
      exit 2
      ;;
  esac
done
