#!/usr/bin/env bash
# Throw a site out of a federation: its certificates at once, by the revocation list, and its place in the next roster.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: revoke-site.sh DIR SITE REASON [OUT]

Revokes every certificate of SITE and signs the next revocation list, which gateways and aggregators that read it obey
at once; then, where DIR has root.key, the next roster without SITE, after asking. OUT is a folder that gets crl.pem and
roster.json too: give them to every party.

DIR is the authority's folder; REASON is one of RFC 5280: keyCompromise, cessationOfOperation, affiliationChanged, …

Environment:
  PQFL       the command to run, perhaps with arguments; default: pqfl
  PQFL_YES   1: do not ask
USAGE
}

case "${1-} $#" in
    -h\ * | --help\ *) usage; exit 0 ;;
    *\ 3 | *\ 4) ;;
    *) usage >&2; exit 2 ;;
esac
dir=$1 site=$2 reason=$3 out=${4-}
read -r -a pqfl <<<"${PQFL:-pqfl}"

"${pqfl[@]}" ca revoke --dir "$dir" --name "site/$site" --reason "$reason"
if [ -n "$out" ]; then
    mkdir -p -- "$out"
    cp -- "$dir/crl.pem" "$out/crl.pem"
fi
if [ ! -e "$dir/root.key" ]; then
    printf '%s\n' "$site keeps its place in the roster until root.key is back: pqfl ca roster sign --dir $dir --admit-nobody"
    exit 0
fi
sign=("${pqfl[@]}" ca roster sign --dir "$dir" --admit-nobody)
[ -z "$out" ] || sign+=(--out "$out/roster.json")
[ "${PQFL_YES-}" != 1 ] || sign+=(--yes)
exec "${sign[@]}"
