#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# examples/text/unpack.pl INDEX DATA - write the character vectors of an R data base as lines.
#
# INDEX (.rdx) is a gzip stream: a serialized list whose integer vectors of length two are the
# offset and the length of each object in DATA (.rdb), in order. An object is
#
#     [length when inflated, 4 bytes, big endian][zlib stream]
#
# and inflates to a serialized vector: a header, type 16 and the number of strings, then for each
# string [flags, 4 bytes; the lowest is type 9][length, 4 bytes][bytes]. Needs perl-base and gzip.
use strict;
use warnings;

sub slurp {
	my ($path) = @_;
	open(my $f, '<:raw', $path) or die "unpack.pl: $path: $!\n";
	local $/;
	my $bytes = <$f>;
	close $f;
	return $bytes;
}

# Inflate through gzip: a zlib stream is two bytes, raw deflate, checksum. gzip finds no trailer
# of its own and says so, therefore the caller checks the length.
sub inflate {
	my ($zlib) = @_;
	my $tmp = "unpack.$$.gz";
	open(my $f, '>:raw', $tmp) or die "unpack.pl: $tmp: $!\n";
	print $f "\x1f\x8b\x08\0\0\0\0\0\0\x03", substr($zlib, 2) or die "unpack.pl: $tmp: $!\n";
	close $f or die "unpack.pl: $tmp: $!\n";
	open(my $p, '-|:raw', "gzip -dc $tmp 2>/dev/null") or die "unpack.pl: gzip: $!\n";
	local $/;
	my $bytes = <$p>;
	close $p;
	unlink $tmp;
	return $bytes // '';
}

sub print_strings {
	my ($object, $name) = @_;
	my $at = index($object, "\0\0\0\x10");
	die "unpack.pl: $name is no character vector\n" if $at < 0 || $at > 64;
	my $n = unpack('N', substr($object, $at + 4, 4));
	$at += 8;
	for (1 .. $n) {
		die "unpack.pl: $name ends early\n" if $at + 8 > length $object;
		my ($flags, $len) = unpack('NN', substr($object, $at, 8));
		die "unpack.pl: $name: no string at byte $at\n" if ($flags & 255) != 9;
		$at += 8;
		next if $len == 0xffffffff; # NA
		die "unpack.pl: $name ends early\n" if $at + $len > length $object;
		print substr($object, $at, $len), "\n" or die "unpack.pl: write: $!\n";
		$at += $len;
	}
}

die "usage: unpack.pl INDEX DATA\n" if @ARGV != 2;
my $data = slurp($ARGV[1]);
open(my $p, '-|:raw', 'gzip', '-dc', $ARGV[0]) or die "unpack.pl: gzip: $!\n";
my $index = do { local $/; <$p> };
close $p or die "unpack.pl: $ARGV[0] is no gzip stream\n";
binmode STDOUT;
my $n_objects = 0;
while ($index =~ /\0\0\0\x0d\0\0\0\x02(.{4})(.{4})/gs) {
	my ($off, $len) = (unpack('N', $1), unpack('N', $2));
	my $name = sprintf '%s: object %d at byte %d', $ARGV[1], $n_objects, $off;
	die "unpack.pl: $name lies beyond the end\n" if $len < 6 || $off + $len > length $data;
	my $object = inflate(substr($data, $off + 4, $len - 4));
	die "unpack.pl: $name does not inflate to the length it states\n"
		if length $object != unpack('N', substr($data, $off, 4));
	print_strings($object, $name);
	$n_objects++;
}
die "unpack.pl: $ARGV[0] names no objects\n" if !$n_objects;
