#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# tests/checks/cuda_mutations.pl BUILD CXX [NUMBER]... - can tests/test_cuda_kernels.cc fail?
#
# Each mutation below breaks one line of a kernel as somebody might: an index, a mask, a fragment, a
# barrier left out, another rounding. The broken file alone is compiled again, linked with what BUILD
# holds, and run on the cases of the operation. All must be caught, by a wrong number or by a report
# of the emulation, and the source as it is must pass. A mutation whose text is no longer in the
# source, or is there twice, is an error: it must follow the source. With NUMBERs only these.
use strict;
use warnings;
use File::Temp;

# operation, file, text, what replaces it
my @mutations = (
	# rows
	['layernorm_fwd', 'rows', 'q = fma_rn(v.x[j] - m, v.x[j] - m, q);', 'q = fma_rn(v.x[j], v.x[j], q);'],
	['layernorm_bwd', 'rows', "	barrier();\n	a = b = 0.0f;", '	a = b = 0.0f;'],
	['layernorm_bwd', 'rows', 'room + r % 2 * (LN_ROOM / 2)', 'room'],
	['layernorm_bwd', 'rows', '(v.x[j] - m) * k * q', '(v.x[j] - m) * q'],
	['layernorm_bwd', 'rows', 'part += blockIdx.y * offset + c;', 'part += c;'],
	['bias_bwd', 'rows', 'group == 0 && w < SUM_GROUPS', 'group == 0 && w + 1 < SUM_GROUPS'],
	['bias_bwd', 'rows', 'r1 = r0 + each < rows ? r0 + each : rows;', 'r1 = r0 + each;'],
	# elementwise
	['gelu_bwd', 'elementwise', 'fma_rn(x * x, 6.0f * GELU_C3', 'fma_rn(x * x, 3.0f * GELU_C3'],
	['add', 'elementwise', 'launch(false, whole, n)', 'launch(false, whole, n + 1)'],
	['cast', 'elementwise', 'all.x[i + 4] = hi.x[i];', 'all.x[i + 4] = lo.x[i];'],
	# embedding
	['embedding', 'embedding', '((1u << lane) - 1)', '((2u << lane) - 1)'],
	['embedding', 'embedding', "(uint32_t)threadIdx.x;\n	barrier();\n	return all;",
		"(uint32_t)threadIdx.x;\n	return all;"],
	['embedding', 'embedding', 'wpe + row % seq * cols + c', 'wpe + row / seq * cols + c'],
	['embedding', 'embedding', 'barrier_or(i < place &&', 'barrier_or(i + 1 < place &&'],
	# loss
	['cross_entropy', 'loss', 'b.sum * expf(b.max - max)', 'b.sum'],
	['cross_entropy', 'loss', 'c + j == at ?', 'c == at ?'],
	['cross_entropy', 'loss', "	barrier();\n	a = room[0];", '	a = room[0];'],
	['cross_entropy', 'loss', "for (size_t c = whole + first; c < vocab; c += THREADS)\n		a =",
		"for (size_t c = vocab + first; c < vocab; c += THREADS)\n		a ="],
	# attention on tensor cores
	['attention_fwd', 'attention', 'col + frag_col(n, j) > row + mine', 'col + frag_col(n, j) >= row + mine'],
	['attention_fwd', 'attention', 'barrier(); /* it is there for all; and all are done with the other one */', ''],
	['attention_fwd', 'attention', 'x[1] = pack2(T{}, p[2 * k][2], p[2 * k][3]);',
		'x[1] = pack2(T{}, p[2 * k][3], p[2 * k][2]);'],
	['attention_fwd', 'attention', '2 * k + lane / 8 % 2', '2 * k + lane / 16'],
	['attention_fwd', 'attention', "copy_wait<0>();\n		barrier(); /* it", "copy_wait<1>();\n		barrier(); /* it"],
	['attention_fwd', 'attention', 'piece_at(t, row + lane % 16, 2 * k + lane / 16)',
		'piece_at(t, row + lane % 8, 2 * k + lane / 16)'],
	['attention_fwd', 'attention', 'o[n][2 * h] *= shrink;', ''],
	['attention_fwd', 'attention', 'return x + shfl_xor(x, 2);', 'return x + shfl_xor(x, 1);'],
	['attention_fwd', 'attention', 'is_there = row + r < rows &&', 'is_there ='],
	['attention_bwd', 'attention', 'frag_row(j) <= col + c &&', 'frag_row(j) < col + c &&'],
	['attention_bwd', 'attention', 'now.lse[c], now.delta[c]', 'now.lse[c], now.delta[0]'],
	['attention_bwd', 'attention', 'combine<T, D, N>(dq, dp, k);', 'combine<T, D, N>(dq, dp, v);'],
	['attention_bwd', 'attention', 'fetch_q<T, D, C>(i ? t[0] : t[1], a, col + C);',
		'fetch_q<T, D, C>(i ? t[1] : t[0], a, col + C);'],
	# attention in fp32
	['attention_bwd', 'attention_fma', 'barrier(); /* all have read P^T */', ''],
	['attention_fwd', 'attention_fma', 'COL(j) > row + ROW(i) ?', 'COL(j) > row + ROW(j) ?'],
	['attention_fwd', 'attention_fma', '(size_t)c * TILE < head_dim', 'c < 1'],
	['attention_bwd', 'attention_fma', 'm = DELTA_LANES / 2', 'm = DELTA_LANES / 4'],
	# gradients and the optimizer
	['reduce', 'optim', 'u + 0x7fffu + (u >> 16 & 1u)', 'u + 0x8000u'],
	['reduce', 'optim', 'const double x = value[i];', 'const float x = value[i];'],
	['reduce', 'optim', "	barrier();\n	for (int i = me; me < LANES", "	for (int i = me; me < LANES"],
	['reduce', 'optim', 'lane[0] == lane[0] ?', 'true ?'],
	['adam_update', 'optim', '*m = fma_rn(s.b1, *m, t);', '*m = add_rn(mul_rn(s.b1, *m), t);'],
	['adam_update', 'optim', '(hi[j] + 0x8000u) >> 16', '(hi[j] + 0x7fffu) >> 16'],
	['adam_update', 'optim', '(int32_t)(int16_t)lo[j]', 'lo[j]'],
);

my ($build, $cxx, @only) = @ARGV;
die "usage: cuda_mutations.pl BUILD CXX [NUMBER]...\n" if !defined $cxx;
(my $root = $0) =~ s{[^/]+$}{};
chdir "${root}../.." or die "$root: $!\n";

my $work = File::Temp->newdir();
my @flags = (qw(-x c++ -std=c++17 -O1 -ffp-contract=off -D_GNU_SOURCE -DSTRATA_CUDA_EMU -I. -Iinclude),
	'-Itests/cuda_emu');

sub read_file {
	my ($file) = @_;
	open my $in, '<', $file or die "$file: $!\n";
	local $/ = undef;
	return scalar <$in>;
}

# Everything of the test but the object of one kernel file: what the linker finds first wins.
my @objects = split /\n/, `find '$build/tests' -path '*test_cuda_kernels.dir*' -name '*.o'`;
my @libraries = map { "$build/libst_$_.a" } qw(gpu cpu_optim core);
my @emulation = map { split /\n/, `find '$build' -name libst_cuda_$_.a` } qw(cases emu);
die "$build: no test_cuda_kernels; build it first\n" if !@objects || !@emulation;
my @libs = split ' ', `pkg-config --libs check jansson libxxhash`;

# Is it caught? undef: it does not compile.
sub run_source {
	my ($op, $file, $text) = @_;
	my $source = "$work/$file.cu";
	open my $out, '>', $source or die "$source: $!\n";
	print $out $text;
	close $out or die "$source: $!\n";
	system($cxx, @flags, '-c', $source, '-o', "$work/$file.o") == 0 or return undef;
	system($cxx, '-o', "$work/test", "$work/$file.o", @objects, @emulation, @libraries, @libs,
		qw(-ldnnl -fopenmp -lpthread -lm)) == 0 or return undef;
	return system("timeout 120 '$work/test' $op >'$work/log' 2>&1") != 0;
}

my ($n, $missed) = (0, 0);
my %is_sound;
my %is_only = map { $_ => 1 } @only;
for my $i (0 .. $#mutations) {
	my ($op, $file, $old, $new) = @{ $mutations[$i] };
	my $text = read_file("gpu/cuda/$file.cu");
	my $count = () = $text =~ /\Q$old\E/g;

	next if @only && !$is_only{$i};
	if ($count != 1) {
		print "$i $op: \"$old\" is $count times in $file.cu\n";
		$missed++;
		next;
	}
	# The source as it is: else anything would seem to be caught.
	if (!defined $is_sound{"$op $file"}) {
		my $is_caught = run_source($op, $file, $text);
		$is_sound{"$op $file"} = defined $is_caught && !$is_caught;
		if (!$is_sound{"$op $file"}) {
			print "$op fails as it is:\n", -e "$work/log" ? read_file("$work/log") : '';
			$missed++;
		}
	}
	$text =~ s/\Q$old\E/$new/;
	my $is_caught = run_source($op, $file, $text);
	$n++;
	(my $short = $old) =~ s/\s+/ /g;
	if ($is_caught) {
		my ($why) = split /\n/, read_file("$work/log");
		$why = substr $why // 'no output', 0, 150;
		print "$i $op, $short: caught: $why\n";
	} else {
		print "$i $op, $short: ", defined $is_caught ? 'NOT CAUGHT' : 'does not compile', "\n";
		$missed++;
	}
}
print "cuda_mutations: $n, $missed missed\n";
exit($missed || !$n ? 1 : 0);
