#!/usr/bin/env bash
# Replace the issuing authority or the root of a federation while everybody goes on, one step after the other.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: rotate-ca.sh STEP DIR OUT [LEVEL|force]

Another issuing authority, perhaps of another LEVEL (standard, high, maximum, cnsa2):
  1. announce   makes it and puts it into ca.pem; give that to every party, and wait until all have it
  2. use        it signs certificates from now on; those of the former one stay good until they are renewed
  3. sign       the roster names the renewed certificates; give that to every party
  4. retire     takes the former one out of ca.pem, once everybody has renewed what it signed; give that to every party.
                With "force" it goes all the same, and whoever has not renewed gets in no more

Another root:
  1. root       makes it, certified by the present one, and puts it into ca.pem; give that to every party, and wait
  2. sign       the new root signs the roster; give that to every party
  3. retire     as above; then the former root's key, in DIR/former, can be destroyed

DIR is the authority's folder; announce, root and sign need root.key in it. OUT is a folder, made where it is missing, that
gets what every party has to be given: ca.pem, roster.json and, where there is one, crl.pem.

Environment:
  PQFL       the command to run, perhaps with arguments; default: pqfl
  PQFL_YES   1: do not ask before the root signs the roster
USAGE
}

case "${1-} $#" in
    -h\ * | --help\ *) usage; exit 0 ;;
    announce\ [34] | use\ [34] | root\ 3 | sign\ 3 | retire\ 3) ;;
    retire\ 4) [ "$4" = force ] || { usage >&2; exit 2; } ;;
    *) usage >&2; exit 2 ;;
esac
step=$1 dir=$2 out=$3 level=${4-}
read -r -a pqfl <<<"${PQFL:-pqfl}"

case "$step" in
    announce) "${pqfl[@]}" ca rotate issuing --dir "$dir" --announce ${level:+--level "$level"} ;;
    use) "${pqfl[@]}" ca rotate issuing --dir "$dir" ${level:+--level "$level"} ;;
    root) "${pqfl[@]}" ca rotate root --dir "$dir" ;;
    # Nobody is admitted on the way: who waits for the roster is a decision of its own.
    sign) "${pqfl[@]}" ca roster sign --dir "$dir" --admit-nobody $([ "${PQFL_YES-}" != 1 ] || echo --yes) ;;
    retire) "${pqfl[@]}" ca retire --dir "$dir" ${level:+--force} ;;
esac

mkdir -p -- "$out"
for name in ca.pem roster.json crl.pem; do
    [ ! -e "$dir/$name" ] || cp -- "$dir/$name" "$out/$name"
done
printf '%s\n' "$out: give what is in it to every party"
