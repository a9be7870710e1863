#!/usr/bin/env bash
# The authority of a federation with nothing but the `openssl` program: root, issuing authority, leaves, revocation.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: with-openssl.sh [OPTION]... COMMAND

Commands:
  new DIR FEDERATION SITE...                       all of a small federation: DIR/ca, DIR/gateway, DIR/sites/SITE
  init DIR FEDERATION                              the authority alone, in DIR, which must not exist yet
  issue DIR PROFILE NAME OUT [HOST]...             keys and certificates of a party, in the new folder OUT
  sign DIR PROFILE NAME REQUEST CERT [HOST]...     a TLS certificate for a request (PKCS#10) whose key is elsewhere
  revoke DIR PROFILE NAME [REASON]                 revoke all certificates of a party; REASON as in keyCompromise
  crl DIR OUT                                      the next revocation list (PEM), valid for 7 days

PROFILE is gateway, site or aggregator; HOST a host name or an IP address; FEDERATION, NAME and SITE are 1 to 63 of
a-z, 0-9 and '-'. What pqfl needs for TLS is here. Receiving keys and the roster are not: `pqfl ca` makes those.

Options:
  --level LEVEL            standard, high, maximum or cnsa2: ML-DSA-44, -65 or -87 below a root of ML-DSA-87  [high]
  --algorithm ALGORITHM    instead of a level's, for issuing authority and leaves: falcon512, mayo2, or composite keys
                           as p256_mldsa44, in the provider's spelling
  --root-algorithm ALGORITHM                                                                     [ML-DSA-87]
  --hosts HOSTS            init, new: permit only hosts in this domain or network (10.0.0.0/8) below the issuing
                           authority; repeatable  [any]
  --renew                  sign: the party has a certificate already, and this request is its own
  --provider NAME          load a provider beside OpenSSL's own: oqsprovider, for algorithms that OpenSSL lacks
  --help                   show this

pqfl's sidecars accept ML-DSA alone; certificates of other algorithms are for programs that use the same provider.

Environment:
  OPENSSL           the program, 3.5 or later; default: openssl
  OPENSSL_MODULES   where it finds providers
USAGE
}

die() {
    printf 'with-openssl.sh: %s\n' "$1" >&2
    exit 2
}

openssl=${OPENSSL:-openssl}
level=high algorithm='' root_algorithm=ML-DSA-87 provider='' renew=no hosts=()
while [ "$#" -gt 0 ]; do
    case "$1" in
        -h | --help) usage; exit 0 ;;
        --renew) renew=yes; shift ;;
        --level | --algorithm | --root-algorithm | --provider | --hosts)
            [ "$#" -ge 2 ] || die "$1 needs a value"
            case "$1" in
                --level) level=$2 ;;
                --algorithm) algorithm=$2 ;;
                --root-algorithm) root_algorithm=$2 ;;
                --provider) provider=$2 ;;
                --hosts) hosts+=("$2") ;;
            esac
            shift 2 ;;
        -*) die "unknown option $1" ;;
        *) break ;;
    esac
done
case "$level" in
    standard) : "${algorithm:=ML-DSA-44}" ;;
    high) : "${algorithm:=ML-DSA-65}" ;;
    maximum | cnsa2) : "${algorithm:=ML-DSA-87}" ;;
    *) die "unknown level $level" ;;
esac
# Never empty: bash 3.2, which is macOS's, takes an empty array for an unset one.
providers=(-provider default)
[ -z "$provider" ] || providers+=(-provider "$provider")

# Nobody's configuration decides here which code is loaded; what `req` and `ca` need they are given by name.
export OPENSSL_CONF=/dev/null
export LC_ALL=C
umask 077
partial=''
work=$(mktemp -d)
trap 'rm -rf -- "$work" ${partial:+"$partial"}' EXIT

ossl() {
    local command=$1
    shift
    "$openssl" "$command" "${providers[@]}" "$@"
}

require_openssl() {
    local version
    version=$("$openssl" version 2>/dev/null) || die "$openssl: not found; name an OpenSSL of 3.5 or later in OPENSSL"
    case "$version" in
        'OpenSSL '[12].* | 'OpenSSL 3.'[0-4].*) die "$version is too old: ML-DSA needs 3.5 or later" ;;
        'OpenSSL '*) ;;
        *) die "$version is not OpenSSL" ;;
    esac
    if [ -n "$provider" ] && ! "$openssl" list -providers "${providers[@]}" >/dev/null 2>&1; then
        die "$version cannot load the provider $provider from ${OPENSSL_MODULES:-$("$openssl" version -m)}"
    fi
}

require_algorithm() {
    ossl genpkey -algorithm "$1" -out /dev/null 2>/dev/null && return
    [ -n "$provider" ] || die "this OpenSSL has no $1 of its own: load the provider that has it, --provider oqsprovider"
    die "neither OpenSSL nor the provider $provider has $1"
}

require_label() {
    case "$2" in
        '' | -* | *[!a-z0-9-]*) die "$1 '$2' is not 1 to 63 of a-z, 0-9 and '-', beginning with a letter or a digit" ;;
    esac
    [ "${#2}" -le 63 ] || die "$1 '$2' is longer than 63"
}

require_new() {
    if [ -e "$1" ] || [ -L "$1" ]; then die "$1: exists already"; fi
}

new_folder() {
    require_new "$1"
    mkdir -p -- "$(dirname -- "$1")"
    # Without -p: whoever comes second fails here and removes nothing of the first.
    mkdir -- "$1"
    # Of folders in one another the outermost goes, if this ends badly.
    : "${partial:=$1}"
}

done_with() {
    partial=''
    printf '%s\n' "$@"
}

minutes_ago() {
    date -u -d "-$1 minutes" +%Y%m%d%H%M%SZ 2>/dev/null || date -u -v "-$1M" +%Y%m%d%H%M%SZ
}

new_key() {
    case "$1" in
        # RFC 9881 §6: the seed is all that has to be kept. Other algorithms know no such choice.
        ML-DSA-*) ossl genpkey -algorithm "$1" -provparam ml-dsa.output_formats=seed-only -out "$2" 2>"$work/why" ;;
        *) ossl genpkey -algorithm "$1" -out "$2" 2>"$work/why" ;;
    esac || die "$2: $(tail -n 1 "$work/why")"
}

new_request() {
    ossl req -new -config "$cnf" -key "$1" -subj "$2" -out "$3"
}

# RFC 7093 §2, method 1: the leftmost 160 bits of SHA-256 over the key itself, which is the bit string of its SPKI.
key_identifier() {
    local at
    ossl req -config "$cnf" -in "$1" -noout -pubkey | ossl pkey -pubin -outform DER -out "$work/spki"
    at=$("$openssl" asn1parse -inform DER -in "$work/spki" | awk -F: '/BIT STRING/ && !seen++ { print $1 + 0 }')
    "$openssl" asn1parse -inform DER -in "$work/spki" -strparse "$at" -noout -out "$work/raw"
    "$openssl" dgst -sha256 -r "$work/raw" | cut -c 1-40
}

issued_by='authorityKeyIdentifier = keyid:always'

authority_extensions() {
    cat <<EXTENSIONS
basicConstraints = critical, CA:TRUE, pathlen:$1
keyUsage = critical, keyCertSign, cRLSign
nameConstraints = critical, @constraints
EXTENSIONS
}

# What an authority permits: a section, so behind all extensions. No e-mail is in .invalid, so none is permitted.
root_constraints() {
    cat <<EXTENSIONS
[ constraints ]
permitted;URI = $federation
permitted;email = .invalid
EXTENSIONS
}

issuing_constraints() {
    local host domains=0 networks=0
    root_constraints
    echo 'permitted;dirName = organization'
    for host in ${hosts[@]+"${hosts[@]}"}; do
        case "$host" in
            */*) printf 'permitted;IP.%s = %s\n' "$((networks += 1))" "$(with_mask "$host")" ;;
            *) printf 'permitted;DNS.%s = %s\n' "$((domains += 1))" "$host" ;;
        esac
    done
    # Who names domains alone permits no addresses, and the other way round.
    if [ "$((domains + networks))" -gt 0 ]; then
        [ "$domains" -gt 0 ] || echo 'excluded;DNS = ""'
        [ "$networks" -gt 0 ] || printf 'excluded;IP.%s\n' '1 = 0.0.0.0/0.0.0.0' '2 = ::/::'
    fi
    printf '[ organization ]\nO = %s\n' "$federation"
}

# 10.0.0.0/8 as openssl wants it: 10.0.0.0/255.0.0.0
with_mask() {
    local bits=${1#*/} width=8 parts=4 form=%d separator=. mask='' part
    case "$1" in *:*) width=16 parts=8 form=%x separator=: ;; esac
    for ((part = 0; part < parts; part += 1)); do
        local ones=$((bits > width ? width : bits))
        # shellcheck disable=SC2059
        mask+=${mask:+$separator}$(printf "$form" "$((((1 << width) - 1) & ~((1 << (width - ones)) - 1)))")
        bits=$((bits - ones))
    done
    printf '%s/%s' "${1%/*}" "$mask"
}

# openssl takes 10.0.0.1/8 for a network, and pqfl refuses a certificate that has it.
require_networks() {
    local network base='' part parts masks
    "$openssl" x509 -in "$1" -noout -ext nameConstraints | sed -n 's/^ *IP://p' >"$work/networks"
    while read -r network; do
        case "$network" in *:*) base=16# IFS=: ;; *) base='' IFS=. ;; esac
        read -ra parts <<<"${network%/*}"
        read -ra masks <<<"${network#*/}"
        unset IFS
        for part in "${!parts[@]}"; do
            [ "$((${base}${parts[part]} & ~${base}${masks[part]}))" -eq 0 ] ||
                die "--hosts: $network is no network: its address has bits beyond the mask"
        done
    done <"$work/networks"
}

require_host_constraint() {
    case "$1" in
        '' | *[!a-z0-9.:/-]* | */*/* | */ | */*[!0-9]*) die "--hosts '$1' is neither a domain in lower case nor a network" ;;
        *:*/* | [0-9]*.[0-9]*.[0-9]*.[0-9]*/*) ;;
        *[/:]* | [0-9]*.[0-9]*.[0-9]*.[0-9]*) die "--hosts '$1' is no network: ADDRESS/BITS" ;;
    esac
}

leaf_extensions() {
    local usage=$1 names=$2 host
    shift 2
    for host in "$@"; do
        case "$host" in
            # A comma would begin a name of its own.
            '' | *[!a-zA-Z0-9.:*-]*) die "'$host' is neither a host name nor an address" ;;
            *:* | [0-9]*.[0-9]*.[0-9]*.[0-9]*) names+=", IP:$host" ;;
            *) names+=", DNS:$host" ;;
        esac
    done
    cat <<EXTENSIONS
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = $usage
subjectAltName = $names
$issued_by
EXTENSIONS
}

# certify AUTHORITY DAYS SUBJECT REQUEST CERT [FLAG]... <extensions: the request is proof of possession and nothing else.
certify() {
    local authority=$1 days=$2 subject=$3 request=$4 certificate=$5
    shift 5
    ossl req -config "$cnf" -in "$request" -noout -verify >/dev/null 2>&1 ||
        die "$request: no request that is signed with its own key"
    {
        # First, because what comes may end with sections.
        printf 'subjectKeyIdentifier = %s\n' "$(key_identifier "$request")"
        cat
    } >"$work/extensions"
    ossl ca -config "$cnf" -name "$authority" -batch -notext -in "$request" -subj "$subject" "$@" \
        -startdate "$(minutes_ago 5)" -days "$days" -extfile "$work/extensions" -out "$work/certificate" \
        2>"$work/why" || die "$request: $(grep -v '^Using configuration' "$work/why" | tail -n 3 | tr '\n' ' ')"
    cp -- "$work/certificate" "$certificate"
    chmod 644 "$certificate"
}

write_configuration() {
    cat >"$dir/openssl.cnf" <<'CONFIGURATION'
# What `openssl req` and `openssl ca` read here. CA_DIR is this folder.
[ req ]
distinguished_name = names
[ names ]
[ names_policy ]
organizationName = supplied
organizationalUnitName = supplied
commonName = supplied
[ crl ]
authorityKeyIdentifier = keyid:always
CONFIGURATION
    local authority
    for authority in root issuing; do
        cat >>"$dir/openssl.cnf" <<CONFIGURATION
[ $authority ]
private_key = \$ENV::CA_DIR/$authority.key
certificate = \$ENV::CA_DIR/$authority.pem
database = \$ENV::CA_DIR/$authority/index.txt
crlnumber = \$ENV::CA_DIR/$authority/crlnumber
new_certs_dir = \$ENV::CA_DIR/$authority
rand_serial = yes
default_md = default
default_crl_days = 7
crl_extensions = crl
policy = names_policy
CONFIGURATION
        mkdir -- "$dir/$authority"
        : >"$dir/$authority/index.txt"
        printf 'unique_subject = no\n' >"$dir/$authority/index.txt.attr"
        printf '01\n' >"$dir/$authority/crlnumber"
    done
    printf '%s %s\n' "$federation" "$algorithm" >"$dir/federation.txt"
}

init() {
    dir=$1 federation=$2
    require_label federation "$federation"
    local host
    for host in ${hosts[@]+"${hosts[@]}"}; do require_host_constraint "$host"; done
    require_algorithm "$root_algorithm"
    require_algorithm "$algorithm"
    new_folder "$dir"
    cnf=$dir/openssl.cnf
    export CA_DIR=$dir
    write_configuration
    local subject=/O=$federation/OU=authority/CN
    new_key "$root_algorithm" "$dir/root.key"
    new_key "$algorithm" "$dir/issuing.key"
    new_request "$dir/root.key" "$subject=root" "$work/root.csr"
    new_request "$dir/issuing.key" "$subject=issuing" "$work/issuing.csr"
    { authority_extensions 1; root_constraints; } | certify root 3650 "$subject=root" "$work/root.csr" "$dir/root.pem" -selfsign
    { authority_extensions 0; printf '%s\n' "$issued_by"; issuing_constraints; } |
        certify root 1825 "$subject=issuing" "$work/issuing.csr" "$dir/issuing.pem"
    require_networks "$dir/issuing.pem"
    cat -- "$dir/root.pem" "$dir/issuing.pem" >"$dir/ca.pem"
    chmod 644 "$dir/ca.pem"
}

open_authority() {
    dir=$1 cnf=$1/openssl.cnf
    [ -f "$dir/federation.txt" ] || die "$dir: no authority of with-openssl.sh"
    export CA_DIR=$dir
    # Its own algorithm, whatever the options say: an authority is of one level.
    read -r federation algorithm <"$dir/federation.txt"
    require_algorithm "$algorithm"
}

# A key of another algorithm would be refused by every peer, and with it the party that nobody told.
require_level() {
    local found
    ossl req -config "$cnf" -in "$1" -noout -text >"$work/text" 2>/dev/null || die "$1: no certification request"
    found=$(awk -F ': ' '/Public Key Algorithm/ && !seen++ { print $2 }' "$work/text")
    [ "$found" = "$algorithm" ] || die "$1: asks for a key of $found, and this authority certifies $algorithm"
}

tls_usage() {
    case "$1" in
        gateway | aggregator) echo serverAuth ;;
        site) echo clientAuth ;;
        *) die "unknown profile $1; profiles are gateway, site, aggregator" ;;
    esac
}

require_free() {
    ! cut -f 6 "$dir/issuing/index.txt" | grep -qxF "/O=$federation/OU=$1/CN=$2" ||
        die "spiffe://$federation/$1/$2 was issued before; \`sign --renew\` gives it another certificate"
}

# sign PROFILE NAME USAGE REQUEST CERT [HOST]...
sign() {
    local profile=$1 name=$2 usage=$3 request=$4 certificate=$5 extensions
    shift 5
    require_label name "$name"
    [ "$profile" != site ] || [ "$#" -eq 0 ] || die "a site dials and never listens: its certificate names no hosts"
    extensions=$(leaf_extensions "$usage" "URI:spiffe://$federation/$profile/$name" "$@")
    printf '%s\n' "$extensions" |
        certify issuing 90 "/O=$federation/OU=$profile/CN=$name" "$request" "$certificate"
}

issue() {
    local profile=$1 name=$2 out=$3 usage
    shift 3
    usage=$(tls_usage "$profile")
    require_label name "$name"
    require_free "$profile" "$name"
    new_folder "$out"
    cp -- "$dir/ca.pem" "$out/ca.pem"
    chmod 644 "$out/ca.pem"
    new_key "$algorithm" "$out/tls.key"
    new_request "$out/tls.key" "/CN=$name" "$work/tls.csr"
    sign "$profile" "$name" "$usage" "$work/tls.csr" "$out/tls.pem" "$@"
    [ "$profile" != gateway ] || return 0
    new_key "$algorithm" "$out/signing.key"
    new_request "$out/signing.key" "/CN=$name" "$work/signing.csr"
    # id-kp-documentSigning, RFC 9336
    sign "$profile" "$name" 1.3.6.1.5.5.7.3.36 "$work/signing.csr" "$out/signing.pem"
}

revoke() {
    local profile=$1 name=$2 reason=${3:-unspecified} serial serials
    tls_usage "$profile" >/dev/null
    require_label name "$name"
    serials=$(awk -F '\t' -v subject="/O=$federation/OU=$profile/CN=$name" \
        '$1 == "V" && $6 == subject { print $4 }' "$dir/issuing/index.txt")
    [ -n "$serials" ] || die "spiffe://$federation/$profile/$name has no certificate that could be revoked"
    for serial in $serials; do
        ossl ca -config "$cnf" -name issuing -revoke "$dir/issuing/$serial.pem" -crl_reason "$reason" 2>"$work/why" ||
            die "$(tail -n 1 "$work/why")"
        printf '%s\n' "revoked: spiffe://$federation/$profile/$name, serial number $serial, $reason"
    done
}

[ "$#" -ge 1 ] || { usage >&2; exit 2; }
command=$1
shift
arguments=$#
need() {
    [ "$arguments" -ge "$1" ] || { usage >&2; exit 2; }
}

case "$command" in
    new)
        need 3
        require_openssl
        base=${1%/} federation=$2
        shift 2
        new_folder "$base"
        init "$base/ca" "$federation"
        issue gateway hub "$base/gateway" localhost
        for site in "$@"; do issue site "$site" "$base/sites/$site"; done
        done_with "$base: federation $federation" "SECRET: $base/ca/root.key (keep it offline), and every other *.key"
        ;;
    init)
        need 2
        require_openssl
        init "${1%/}" "$2"
        done_with "$dir: authority of $federation" "SECRET: $dir/root.key (keep it offline), $dir/issuing.key"
        ;;
    issue)
        need 4
        require_openssl
        open_authority "${1%/}"
        shift
        issue "$@"
        done_with "$3: spiffe://$federation/$1/$2"
        ;;
    sign)
        need 5
        require_openssl
        open_authority "${1%/}"
        shift
        require_new "$4"
        usage=$(tls_usage "$1")
        [ "$renew" = yes ] || require_free "$1" "$2"
        require_level "$3"
        sign "$1" "$2" "$usage" "$3" "$4" "${@:5}"
        done_with "$4: spiffe://$federation/$1/$2"
        ;;
    revoke)
        need 3
        require_openssl
        open_authority "${1%/}"
        revoke "${@:2}"
        ;;
    crl)
        need 2
        require_openssl
        open_authority "${1%/}"
        ossl ca -config "$cnf" -name issuing -gencrl -out "$work/crl" 2>"$work/why" || die "$(tail -n 1 "$work/why")"
        cp -- "$work/crl" "$2.partial"
        chmod 644 "$2.partial"
        mv -- "$2.partial" "$2"
        done_with "$2: revocation list, valid for 7 days; give it to every party"
        ;;
    *)
        die "unknown command $command"
        ;;
esac
