#!/usr/bin/env bash
# Make a whole small federation: authority, gateway, aggregator and sites, each with an identity folder of its own.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: new-federation.sh DIR FEDERATION SITE...

Makes DIR, which must not exist yet:
  DIR/ca           the authority; root.key and issuing.key in it are secret, and root.key belongs offline
  DIR/gateway      identity of spiffe://FEDERATION/gateway/hub
  DIR/aggregator   identity of spiffe://FEDERATION/aggregator/main
  DIR/sites/SITE   identity of spiffe://FEDERATION/site/SITE, one for each SITE
  DIR/roster.json  the signed roster, for everybody

FEDERATION and SITE are 1 to 63 of a-z, 0-9 and '-'.

Environment:
  PQFL         the command to run, perhaps with arguments; default: pqfl
  PQFL_LEVEL   security level: standard, high, maximum or cnsa2; default: high
  PQFL_HOSTS   host names of the gateway, separated by spaces; default: localhost
USAGE
}

case "${1-}" in
    -h | --help)
        usage
        exit 0
        ;;
esac

if [ "$#" -lt 3 ]; then
    usage >&2
    exit 2
fi

dir=${1%/}
federation=$2
shift 2

read -r -a pqfl <<<"${PQFL:-pqfl}"
read -r -a hosts <<<"${PQFL_HOSTS:-localhost}"

if [ -e "$dir" ] || [ -L "$dir" ]; then
    printf 'new-federation.sh: %s: exists already\n' "$dir" >&2
    exit 2
fi
mkdir -p -- "$(dirname -- "$dir")"
# Without -p: whoever comes second fails here and removes nothing of the first.
mkdir -- "$dir"
trap 'rm -rf -- "$dir"' EXIT

issue() {
    local profile=$1 name=$2 out=$3
    shift 3
    "${pqfl[@]}" ca issue --dir "$dir/ca" --profile "$profile" --name "$name" --out "$dir/$out" "$@" >/dev/null
    printf '%s\n' "$dir/$out: spiffe://$federation/$profile/$name"
}

"${pqfl[@]}" ca init --dir "$dir/ca" --federation "$federation" --level "${PQFL_LEVEL:-high}" >/dev/null
printf '%s\n' "$dir/ca: authority of $federation"
issue gateway hub gateway "${hosts[@]/#/--dns=}"
issue aggregator main aggregator
for site in "$@"; do
    issue site "$site" "sites/$site"
done
cp -- "$dir/ca/roster.json" "$dir/roster.json"

trap - EXIT
printf '%s\n' "$dir/roster.json: give it to every party" \
    "SECRET: $dir/ca/root.key (keep it offline), $dir/ca/issuing.key, and every *.key of an identity"
