#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# tests/checks/cuda_archs.pl PLUGIN CODE... - the device code inside strata-cuda.so, by architecture:
# objects and bytes (compressed as they are). A CODE is sm_80 or, for PTX, compute_80. Exits with 1 if one of
# them is not inside, or is in fewer objects than PTX is. (nvcc's link may add an empty object.)
#
# nvcc puts one fat binary of each source into the section .nv_fatbin. A header
#	magic u32 | version u16 | header bytes u16 | bytes of all that follows u64
# is followed by entries
#	kind u16 (1 PTX, 2 ELF) | version u16 | header bytes u32 | bytes that follow it u64 |
#	... | at 28: architecture u32
use strict;
use warnings;

my $magic = "\x50\xed\x55\xba";
my ($plugin, @codes) = @ARGV;
die "usage: cuda_archs.pl PLUGIN CODE...\n" if !@codes;

open my $in, '<:raw', $plugin or die "$plugin: $!\n";
my $all = do { local $/; <$in> };
close $in;

my (%objects, %bytes);
for (my $at = index $all, $magic; $at >= 0; $at = index $all, $magic, $at + 4) {
	next if $at + 16 > length $all;
	my ($version, $header, $size) = unpack 'x4 v v Q<', substr $all, $at, 16;
	next if $header != 16 || $at + $header + $size > length $all; # the same four bytes elsewhere
	for (my $entry = $at + $header; $entry + 32 <= $at + $header + $size;) {
		my ($kind, undef, $entry_header, $entry_bytes, $arch) = unpack 'v v V Q< x12 V', substr $all, $entry, 32;
		last if $kind != 1 && $kind != 2;
		my $code = ($kind == 1 ? 'compute_' : 'sm_') . $arch;
		$objects{$code}++;
		$bytes{$code} += $entry_bytes;
		$entry += $entry_header + $entry_bytes;
	}
}

my $most = 1;
for (grep { /^compute_/ } keys %objects) {
	$most = $objects{$_} if $objects{$_} > $most;
}
printf "%-12s %8s %10s\n", 'code', 'objects', 'bytes';
printf "%-12s %8d %10d\n", $_, $objects{$_}, $bytes{$_} for sort { $bytes{$a} <=> $bytes{$b} } keys %objects;
my $n_wrong = 0;
for (@codes) {
	next if ($objects{$_} // 0) >= $most;
	print "cuda_archs: $plugin: no code for $_\n" if !$objects{$_};
	print "cuda_archs: $plugin: $objects{$_} objects have code for $_, of $most\n" if $objects{$_};
	$n_wrong++;
}
exit 1 if $n_wrong;
printf "cuda_archs: %s, %d bytes: %s in %d objects\n", $plugin, length $all, join(', ', @codes), $most;
