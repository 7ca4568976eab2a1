#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# tests/checks/cuda_table.pl LOG... PTX... - the table of tests/checks/cuda_table.sh: LOG is what nvcc and
# `ptxas -v` said, PTX the code for compute_80. Exits with 1 if a kernel breaks a rule.
use strict;
use warnings;

# Of one multiprocessor: registers, threads, blocks, shared memory in KiB (and of one block).
my %card = (
	sm_80 => [65536, 2048, 32, 164, 163],
	sm_86 => [65536, 1536, 16, 100, 99],
	sm_89 => [65536, 1536, 24, 100, 99],
	sm_90 => [65536, 2048, 32, 228, 227],
	sm_100 => [65536, 2048, 32, 228, 227],
	sm_120 => [65536, 1536, 24, 100, 99],
);

# Kernel, dynamic shared memory of a launch in bytes, by what the mangled name says after the name.
sub tile { return 3 * 64 * 65 * 4 }

my @dynamic = (
	[qr/^attention_fwd<.*64>/, (64 + 4 * 64) * 64 * 2],
	[qr/^attention_fwd<.*128>/, (64 + 4 * 64) * 128 * 2],
	[qr/^attention_bwd_q<.*64>/, (128 + 4 * 64) * 64 * 2],
	[qr/^attention_bwd_q<.*128>/, (128 + 4 * 32) * 128 * 2],
	[qr/^attention_bwd_kv<.*64>/, (128 + 4 * 64) * 64 * 2 + 4 * 64 * 4],
	[qr/^attention_bwd_kv<.*128>/, (128 + 4 * 32) * 128 * 2 + 4 * 32 * 4],
	[qr/^attention_fma/, tile()],
	[qr/^layernorm_bwd/, (32 + 2 * 1600) * 4], # of 1,600 columns
	[qr/^column_sums<.*, 8>/, 256 * 8 * 4],
	[qr/^column_sums<.*, 4>/, 256 * 4 * 4],
	[qr/^add_parts<4>/, 256 * 4 * 4],
	[qr/^(?:column_sums|add_parts)/, 256 * 4],
	[qr/^check_tokens/, 256 * 8],
	[qr/^embedding_bwd_wte/, 264 * 4],
	[qr/^cross_entropy/, 16 * 8],
	[qr/^reduce/, 4096 * 4 + 16 * 8],
);

# Kernels that move all they move 16 bytes at a time, in their wide form: name, then whether it
# stores so, too (a row's statistics and what is left of a sum are single words).
my $streams = qr/^(?:gelu_fwd|gelu_bwd|add|layernorm_fwd|layernorm_bwd|column_sums|add_parts|
	embedding_fwd|embedding_bwd_wte|embedding_bwd_wpe|cross_entropy|attention_delta|cast|
	adam_update|reduce)<.*\b[48]>/x;
my $loads_only = qr/^(?:column_sums|attention_delta|reduce|layernorm_bwd)/;
my $tensor = qr/^attention_(?:fwd|bwd_q|bwd_kv)</;

my (%kernel, @wrong, %shown, @sms);

sub demangle {
	my @names = @_;
	open my $pipe, '-|', 'c++filt', @names or die "c++filt: $!\n";
	for my $name (@names) {
		my $text = <$pipe> // $name;
		chomp $text;
		$text =~ s/^void //;
		$text =~ s/\(anonymous namespace\)::|_INTERNAL_\w+:://g;
		$text =~ s/\(.*$//s if $text !~ /</;
		$text =~ s/>\(.*$/>/s;
		$text =~ s/\((?:int|strata_optim_grads)\)//g;
		$shown{$name} = $text;
	}
	close $pipe;
}

sub read_log {
	my ($file) = @_;
	my ($name, $sm);
	open my $in, '<', $file or die "$file: $!\n";
	while (<$in>) {
		push @wrong, "$file: $_" if /\bwarning\b/i;
		if (/Compiling entry function '(\w+)' for '(sm_\d+)\w*'/) {
			($name, $sm) = ($1, $2);
			$kernel{$name}{sm}{$sm} = {};
		} elsif (defined $name && /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/) {
			@{ $kernel{$name}{sm}{$sm} }{qw(stack stores loads)} = ($1, $2, $3);
		} elsif (defined $name && /Used (\d+) registers/) {
			$kernel{$name}{sm}{$sm}{registers} = $1;
			$kernel{$name}{sm}{$sm}{static} = /(\d+) bytes smem/ ? $1 : 0;
		}
	}
	close $in;
}

sub read_ptx {
	my ($file) = @_;
	my $k;
	open my $in, '<', $file or die "$file: $!\n";
	while (<$in>) {
		next if /^\s*\.(?:b\d|loc\b)|^\s*(?:add|mul|mov|fma|sub|cvt|setp|selp)\./; # most of it
		$k = $kernel{$1} //= {} if /\.entry (\w+)\(/;
		next if !$k;
		$k->{threads} = $1 if /^\.maxntid\s+(\d+)/;
		$k->{load16}++ if /\bld\.(?:global|volatile)?[\w.:]*v4\.(?:u32|b32|f32)|\bld[\w.:]*v2\.(?:u64|b64|f64)/;
		$k->{store16}++ if /\bst[\w.:]*v4\.(?:u32|b32|f32)|\bst[\w.:]*v2\.(?:u64|b64|f64)/;
		$k->{mma}++ if /\bmma\.sync/;
		$k->{ldmatrix}++ if /\bldmatrix\.sync/;
		$k->{copies}++ if /\bcp\.async\.c[ag]/;
		$k->{local}++ if /\b(?:ld|st)\.local/;
		$k->{atomics}++ if /\b(?:atom|red)\.[\w.:]*add[\w.:]*\.(?:f16|bf16|f32|f64)/;
	}
	close $in;
}

sub least {
	my $least = shift;
	for (@_) {
		$least = $_ if $_ < $least;
	}
	return int $least;
}

# Share of a multiprocessor's threads that can be there at once, in percent.
sub occupancy {
	my ($sm, $registers, $threads, $shared) = @_;
	my ($all_regs, $all_threads, $all_blocks, $all_kib, $block_kib) = @{ $card{$sm} };
	my $warps = int(($threads + 31) / 32);
	my $regs = int(($registers * 32 + 255) / 256) * 256; # of a warp
	return 0 if $shared > $block_kib * 1024;
	my $blocks = least($all_blocks, $all_threads / ($warps * 32), int($all_regs / $regs) / $warps,
		$all_kib * 1024 / ($shared + 1024)); # of which the system takes 1 KiB for each block
	return int(100 * $blocks * $warps * 32 / $all_threads + 0.5);
}

sub shared_of {
	my ($text) = @_;
	for (@dynamic) {
		return $_->[1] if $text =~ $_->[0];
	}
	return 0;
}

sub check {
	my ($name, $text, $k) = @_;
	for my $sm (sort keys %{ $k->{sm} }) {
		my $x = $k->{sm}{$sm};
		if (!defined $x->{stack} || !defined $x->{registers}) { # or lines of two compilations are mixed
			push @wrong, "$text, $sm: figures are missing\n";
			next;
		}
		push @wrong, "$text, $sm: $x->{stores} bytes spilled, $x->{loads} loaded back\n"
			if $x->{stores} || $x->{loads};
		push @wrong, "$text, $sm: a stack frame of $x->{stack} bytes\n" if $x->{stack};
		push @wrong, "$text, $sm: $x->{registers} registers in $k->{threads} threads do not fit\n"
			if occupancy($sm, $x->{registers}, $k->{threads}, shared_of($text) + $x->{static}) == 0;
	}
	push @wrong, "$text: not compiled for every architecture\n" if keys %{ $k->{sm} } != @sms;
	push @wrong, "$text: $k->{local} accesses to local memory\n" if $k->{local};
	push @wrong, "$text: $k->{atomics} floating-point atomics\n" if $k->{atomics};
	push @wrong, "$text: streams, but loads no 16 bytes at a time\n" if $text =~ $streams && !$k->{load16};
	push @wrong, "$text: streams, but stores no 16 bytes at a time\n"
		if $text =~ $streams && $text !~ $loads_only && !$k->{store16};
	return if $text !~ $tensor;
	for my $what (qw(mma ldmatrix copies)) {
		push @wrong, "$text: attention on tensor cores without $what\n" if !$k->{$what};
	}
}

for my $file (@ARGV) {
	if ($file =~ /\.ptx$/) {
		read_ptx($file);
	} else {
		read_log($file);
	}
}
die "cuda_table.pl: no kernel found\n" if !%kernel;

my %is_there = map { $_ => 1 } map { keys %{ $_->{sm} } } values %kernel;
@sms = sort { substr($a, 3) <=> substr($b, 3) } keys %is_there;
$card{$_} or die "cuda_table.pl: what has a multiprocessor of $_? Say it in \%card.\n" for @sms;
printf "%-44s %7s %7s %6s %5s %5s %4s %6s %5s  %s\n", 'kernel', 'threads', 'shared', 'spills',
	'ld16', 'st16', 'mma', 'ldmatr', 'copy', join ' ', map { sprintf '%8s', $_ } @sms;
my %n;
demangle(keys %kernel);
for my $name (sort { $shown{$a} cmp $shown{$b} } keys %kernel) {
	my ($k, $text) = ($kernel{$name}, $shown{$name});
	my $spills = 0;
	$k->{threads} //= 1024;
	$spills += ($_->{stores} // 0) + ($_->{loads} // 0) for values %{ $k->{sm} };
	printf "%-44s %7d %7d %6d %5d %5d %4d %6d %5d  %s\n", $text, $k->{threads}, shared_of($text),
		$spills, map({ $k->{$_} // 0 } qw(load16 store16 mma ldmatrix copies)),
		join ' ', map {
			my $x = $k->{sm}{$_};
			$x && defined $x->{registers} ? sprintf('%3dr %2d%%', $x->{registers}, occupancy($_, $x->{registers},
				$k->{threads}, shared_of($text) + $x->{static})) : sprintf('%8s', '-');
		} @sms;
	check($name, $text, $k);
	$n{streams}++ if $text =~ $streams;
	$n{tensor}++ if $text =~ $tensor;
}
# A rule that matches nothing holds nothing.
push @wrong, "no kernel streams: the names have changed\n" if ($n{streams} // 0) < 30;
push @wrong, "no kernel uses tensor cores: the names have changed\n" if ($n{tensor} // 0) < 12;
print "\nr: registers; %: threads of a multiprocessor that fit at once\n";
if (@wrong) {
	print "cuda_table: $_" for @wrong;
	exit 1;
}
print 'cuda_table: ', scalar keys %kernel, " kernels, no spills, no local memory\n";
