#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# examples/text/fetch.sh DIR - put real English text into DIR/austen.txt.
#
# The text is Jane Austen's six novels, out of Debian's package r-cran-janeaustenr (MIT; the novels
# are in the public domain). The package is downloaded and unpacked into DIR, never installed, and
# nothing it depends on is needed: the novels lie in an R data base, which unpack.pl reads.
# From version 1.0.0-1 (1.6 MB) come 4,024,178 bytes of prose in lines of at most 76
# characters, all but two of them printable ASCII; 3.09 nats per byte when only counting bytes.
#
# Other texts are as good: name one as "data": {"train": FILE} in the config.
set -euo pipefail
export LC_ALL=C

package=r-cran-janeaustenr
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

die() {
	printf 'fetch.sh: %s\n' "$*" >&2
	exit 1
}

# verify FILE: what is there must be what this script promises.
verify() {
	local file=$1 bytes odd

	bytes=$(wc -c <"$file")
	odd=$(tr -d '\n\40-\176' <"$file" | wc -c)
	[ "$bytes" -ge 2000000 ] || die "$file has $bytes bytes, 2000000 or more expected"
	[ $((odd * 1000)) -le "$bytes" ] || die "$file: $odd of $bytes bytes are no printable ASCII"
	grep -q 'It is a truth universally acknowledged' "$file" ||
		die "$file is not the text that was expected"
}

# download: the package's file into the current directory; package lists are fetched if missing.
download() {
	local sudo=''

	# The unprivileged user that apt downloads as cannot write here; plain root can.
	apt-get -q -o APT::Sandbox::User=root download "$package" >&2 && return
	[ "$(id -u)" -eq 0 ] || sudo=sudo
	$sudo apt-get -q update >&2 || die "apt-get update failed: see its message above"
	apt-get -q -o APT::Sandbox::User=root download "$package" >&2 ||
		die "apt-get cannot download $package: see its message above"
}

main() {
	local dir work deb data

	[ $# -eq 1 ] || die "usage: fetch.sh DIR"
	mkdir -p "$1"
	dir=$(cd "$1" && pwd)
	if [ -e "$dir/austen.txt" ]; then
		verify "$dir/austen.txt"
		return
	fi
	work=$(mktemp -d "$dir/fetch.XXXXXX")
	# shellcheck disable=SC2064 # the directory's name is wanted as it is now
	trap "rm -rf '$work'" EXIT
	cd "$work"
	download
	deb=$(echo "$package"_*.deb)
	dpkg-deb -x "$deb" root
	data=root/usr/lib/R/site-library/janeaustenr/data
	perl "$here/unpack.pl" "$data/Rdata.rdx" "$data/Rdata.rdb" | cat -s >austen.txt
	verify austen.txt
	mv austen.txt "$dir/austen.txt" # whole or not at all
	printf 'fetch.sh: %s: %s bytes of text from the Debian package %s %s\n' "$1/austen.txt" \
		"$(wc -c <"$dir/austen.txt")" "$package" "$(dpkg-deb -f "$deb" Version)" >&2
}

main "$@"
