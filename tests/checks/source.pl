#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# tests/checks/source.pl CHECK [FILE]... - what the sources promise and a compiler does not see.
#
#     spdx        every source starts with its licence line
#     includes    a folder includes only from the folders it may use
#     forbidden   calls that invite overruns, unchecked memory, assert(), libraries that print
#     length      functions of at most 100 lines; main and "Length:" with a reason excepted
#     paths       no absolute path of one machine
#     self-test   each of these finds what it is there to find
#
# Prints "file:line: what" for each finding and exits 1 if there was one. With no FILE, all files
# that git tracks are read. Needs perl-base, and git when no FILE is named.
use strict;
use warnings;

# Who may use whom, directly or through others.
my %may_use = (
	core => [],
	aio => [qw(core)],
	nvme => [qw(aio core)],
	cpu_optim => [qw(core)],
	gpu => [qw(core)],
	offload => [qw(core aio nvme cpu_optim gpu)],
	model => [qw(core gpu offload)],
	cli => [qw(core gpu offload model bench)], # of bench its verbs.h
	include => [],
	examples => [],
	bench => [qw(core aio nvme cpu_optim gpu offload model cli)], # of cli what parses and prints
	tests => [qw(core aio nvme cpu_optim gpu offload model cli bench)],
);
my %is_library = map { $_ => 1 } qw(core aio nvme cpu_optim gpu offload model);

my %forbidden = (
	(map { $_ => 'has no error return: use strtol or strtod and check' } qw(atoi atol atoll atof)),
	(map { $_ => 'does not know the size of its target: use snprintf or memcpy' }
		qw(strcpy strcat stpcpy sprintf vsprintf gets)),
	strtok => 'keeps hidden state: use strcspn and strspn',
	alloca => 'grows the stack without a check: use an arena',
	system => 'starts a shell: do it in C',
	assert => 'vanishes with NDEBUG: return an error, or use ST_ASSERT',
);
my %prints = map { $_ => 1 } qw(printf vprintf puts putchar perror exit _exit _Exit quick_exit abort);
# The one broken-invariant handler, and the sink that a program may choose for its log.
my %may_print = ('core/status.c' => 1, 'core/log.c' => 1);

my $allocates = qr/\b(?:malloc|calloc|realloc|reallocarray|aligned_alloc|strdup|strndup)\b/;
my $check_lines = 40;	# an allocation is looked at within so many lines
my $length_max = 100;

my $n_findings;

sub finding {
	my ($file, $line, $what) = @_;
	print "$file:$line: $what\n";
	$n_findings++;
}

# C without comments, strings and character constants; line numbers stay. What stands in place of
# a string is "" and an #include keeps its name.
sub bare_c {
	my ($text) = @_;
	$text =~ s{
		(^[ \t]*\#[ \t]*include[^\n]*)
		| (/\*.*?\*/ | //[^\n]*)
		| ("(?:\\.|[^"\\\n])*")
		| ('(?:\\.|[^'\\\n])*')
	}{
		my $newlines = defined $2 ? ($2 =~ tr/\n//) : 0;
		defined $1 ? $1 : defined $2 ? ' ' . "\n" x $newlines : defined $3 ? '""' : "'0'"
	}gemsx;
	return $text;
}

sub is_c {
	return $_[0] =~ /\.(?:c|h|cc|cu|cuh)$/;
}

sub check_spdx {
	my ($file, $text) = @_;
	return if $file !~ /\.(?:c|h|cc|cu|cuh|sh|pl|py|cmake)$|(?:^|\/)CMakeLists\.txt$|^run$|^\.ci\/run$/;
	my $head = join "\n", (split /\n/, $text, 3)[0, 1];
	finding($file, 1, 'no SPDX-License-Identifier: Apache-2.0 in the first two lines')
		if $head !~ /SPDX-License-Identifier: Apache-2\.0/;
}

sub check_includes {
	my ($file, $text) = @_;
	return if !is_c($file);
	my ($from) = $file =~ m{^([^/]+)/};
	if (!defined $from || !$may_use{$from}) {
		finding($file, 1, 'lies in no folder that the table of includes knows');
		return;
	}
	my %ok = map { $_ => 1 } $from, @{ $may_use{$from} };
	my $line = 0;
	for (split /\n/, bare_c($text)) {
		$line++;
		next if !/^\s*#\s*include\s*"([^"]+)"/;
		my $name = $1;
		if ($name =~ /\.\./) {
			finding($file, $line, "\"$name\": name the folder from the root instead of ..");
		} elsif ($name =~ m{^([^/]+)/} && $1 ne 'strata') {
			finding($file, $line, "$from may not include from $1") if !$ok{$1};
		}
	}
}

# Is the variable tested between its allocation and the function's end?
sub is_looked_at {
	my ($lines, $at, $var) = @_;
	my $v = $var =~ /^\.(\w+)$/ ? "[\\w.>\\[\\]-]+(?:->|\\.)$1" : quotemeta $var;
	# *p = (struct s){ ..., malloc(n) }: one of its members must be looked at.
	$v .= '(?:(?:->|\.)\w+)' if $lines->[$at] =~ /=\s*\(struct \w+\)\s*\{/ && $var !~ /^\./;
	$v = "(?<![\\w.>])$v(?![\\w.\\[(]|->)";
	for my $i ($at .. $at + $check_lines) {
		last if $i > $#$lines;
		my $line = $lines->[$i];
		$line =~ s/^.*?$allocates\s*\(// if $i == $at;
		return 1 if $line =~ /!\s*\(?$v|$v\s*[!=]=\s*NULL|NULL\s*[!=]=\s*$v/;
		return 1 if $line =~ /$v\s*(?:&&|\|\||\?)|(?:&&|\|\|)\s*$v/;
		return 1 if $line =~ /\b(?:if|while|return|ck_assert\w*|ST_ASSERT)\b\s*\(?\s*$v/;
		last if $i > $at && $line =~ /^\}/;
	}
	return 0;
}

sub check_memory {
	my ($file, $lines, $i) = @_;
	my $line = $lines->[$i];
	return if $line !~ /$allocates\s*\(/ || $line =~ /^\s*return\b/;
	# A declaration or definition of a function of that name is no call.
	return if $line =~ /^[\w\s*]*\b(?:void|char)\s*\*\s*\w+\s*\([^()]*\)?\s*[;{]?$/ && $line !~ /=/;
	my $assigned = qr/([\w.\[\]>-]*\w\]?)\s*=(?!=)[^=]*/;
	my ($var) = $line =~ /$assigned$allocates\s*\(/;
	($var) = $lines->[$i - 1] =~ /$assigned$/ if !defined $var && $i > 0;
	if (!defined $var) {
		finding($file, $i + 1, 'the result of an allocation is used unseen')
			if $line !~ /\b(?:if|while)\s*\(/;
	} elsif (!is_looked_at($lines, $i, $var)) {
		finding($file, $i + 1, "$var is allocated and never checked");
	}
}

sub check_forbidden {
	my ($file, $text) = @_;
	my $banned = '-ffast-' . 'math';
	if (!is_c($file)) {
		my $line = 0;
		return if $file !~ /\.cmake$|CMakeLists\.txt$|^run$|^\.ci\/|\.sh$/;
		for (split /\n/, $text) {
			$line++;
			next if /^\s*#/;
			finding($file, $line, "$banned breaks NaN and the order of sums") if /\Q$banned\E/;
		}
		return;
	}
	my ($folder) = $file =~ m{^([^/]+)/};
	my $is_quiet = defined $folder && $is_library{$folder} && !$may_print{$file};
	my @lines = split /\n/, bare_c($text);
	for my $i (0 .. $#lines) {
		my $line = $lines[$i];
		while ($line =~ /(?<![\w.>])(\w+)\s*\(/g) {
			my $name = $1;
			finding($file, $i + 1, "$name() $forbidden{$name}") if $forbidden{$name};
			finding($file, $i + 1, "$name() in a library: return an error, or log")
				if $is_quiet && $prints{$name};
		}
		finding($file, $i + 1, 'a library does not write to stdout or stderr: log')
			if $is_quiet && $line =~ /\b(?:std(?:out|err)|STD(?:OUT|ERR)_FILENO)\b/;
		finding($file, $i + 1, 'assert.h: its checks vanish with NDEBUG')
			if $line =~ /^\s*#\s*include\s*<assert\.h>/;
		finding($file, $i + 1, 'a macro that starts with a bare if captures an else: use do { } while (0)')
			if $line =~ /^\s*#\s*define\s+\w+\([^)]*\)\s+if\b/;
		finding($file, $i + 1, 'optimises away NaN: state the operations instead')
			if $line =~ /fast-math|ffinite-math|associative-math/;
		check_memory($file, \@lines, $i);
	}
}

sub check_length {
	my ($file, $text) = @_;
	return if !is_c($file);
	my @raw = split /\n/, $text;
	my ($start, $head) = (undef, 0);
	for my $i (0 .. $#raw) {
		if ($raw[$i] =~ /^\{/) {
			$start = $i;
		} elsif (defined $start && $raw[$i] =~ /^\}/) {
			# The head: everything back to the blank line or brace before the function.
			for ($head = $start; $head > 0 && $raw[$head - 1] !~ /^\s*$|^\}/; $head--) {}
			my $about = join "\n", @raw[$head .. $start];
			my $n = $i - $start - 1;
			finding($file, $start + 1, "a function of $n lines: split it, or say why with \"Length:\"")
				if $n > $length_max && $about !~ /\bmain\s*\(|Length:/;
			$start = undef;
		}
	}
}

sub check_paths {
	my ($file, $text) = @_;
	my $system = qr/(?:proc|sys|dev|tmp|usr|etc|bin|sbin|lib|lib64|run|var|mnt|opt|nonexistent)/;
	return if $file =~ m{^LICENSE$|(?:^|/)\.gitignore$|^CMakeLists\.txt$} || $file =~ m{^tests/(?:corpus|golden)/};
	my $line = 0;
	for (split /\n/, $text) {
		$line++;
		next if $line == 1 && /^#!/;
		while (m{(?:^|[\s"'=(])/((?:home|root|work|builds?|workspace|Users)\b|[a-z][\w.-]*/[\w.-]+)}g) {
			my $path = $1;
			next if $path =~ m{^$system(?:/|$)};
			next if $path =~ m{^(\w+)/} && $may_use{$1}; # behind a macro for the root
			finding($file, $line, "/$path is a path of one machine");
		}
	}
}

my %checks = (
	spdx => \&check_spdx,
	includes => \&check_includes,
	forbidden => \&check_forbidden,
	length => \&check_length,
	paths => \&check_paths,
);

# Each check, a file that it must refuse once, and one that it must let pass.
sub self_test {
	my $root = '/' . 'home';
	my @cases = (
		[spdx => 'core/a.c', "int a;\n", 1],
		[spdx => 'core/a.c', "/* SPDX-License-Identifier: Apache-2.0 */\n", 0],
		[spdx => 'run', "#!/bin/bash\n# nothing\n", 1],
		[includes => 'core/a.c', "#include \"aio/aio.h\"\n", 1],
		[includes => 'aio/a.c', "#include \"core/log.h\"\n#include \"strata/strata.h\"\n", 0],
		[includes => 'nvme/a.c', "#include \"../core/log.h\"\n", 1],
		[includes => 'gpu/a.c', "/* #include \"nvme/store.h\" */\n", 0],
		[includes => 'extra/a.c', "int a;\n", 1],
		[forbidden => 'cli/a.c', "\tx = atoi(s);\n", 1],
		[forbidden => 'cli/a.c', "\t/* atoi(s) */ log(\"strcpy(a, b)\");\n", 0],
		[forbidden => 'cli/a.c', "\tassert(x);\n\tstatic_assert(1, \"\");\n", 1],
		[forbidden => 'core/a.c', "\tfprintf(stderr, \"x\");\n", 1],
		[forbidden => 'core/a.c', "\texit(1);\n", 1],
		[forbidden => 'core/a.c', "\tt->exit(1);\n\tsnprintf(a, n, \"%d\", 1);\n", 0],
		[forbidden => 'core/a.c', "#define X(a) if (a) b()\n", 1],
		[forbidden => 'core/a.c', "\tp = malloc(3);\n\tp[0] = 1;\n}\n", 1],
		[forbidden => 'core/a.c', "\ts->p = calloc(3, 1);\n\tif (!s->q)\n\t\treturn;\n}\n", 1],
		[forbidden => 'core/a.c', "\ts->p = calloc(3, 1);\n\tif (!s->p)\n\t\treturn;\n}\n", 0],
		[forbidden => 'core/a.c', "\tchar *p = strdup(a);\n\treturn p ? 0 : -ENOMEM;\n}\n", 0],
		[forbidden => 'core/a.c', "\tuse(malloc(3));\n", 1],
		[forbidden => 'core/a.c', "\tp = n ? malloc(n) : NULL;\n\tif (p && q)\n\t\treturn 0;\n}\n", 0],
		[forbidden => 'core/a.c', "\t*s = (struct s){ .p = strdup(a) };\n\tif (!s->p)\n\t\treturn;\n}\n", 0],
		[forbidden => 'tests/a.c', "\t*w = (struct s){ 1, malloc(3) };\n\tST_ASSERT(w->data != NULL);\n}\n", 0],
		[forbidden => 'tests/a.c', "\t*w = (struct s){ 1, malloc(3) };\n\tuse(w->data);\n}\n", 1],
		[forbidden => 'tests/a.c', "void *malloc(size_t n)\n{\n}\n", 0],
		[forbidden => 'core/a.c', "\tdata = a ? NULL :\n\t\trealloc(b, 3);\n\tdata[0] = !data2;\n}\n", 1],
		[forbidden => 'CMakeLists.txt', 'add_compile_options(-ffast-' . "math)\n", 1],
		[length => 'core/a.c', "int f(void)\n{\n" . "\tx++;\n" x 101 . "}\n", 1],
		[length => 'core/a.c', "int f(void)\n{\n" . "\tx++;\n" x 100 . "}\n", 0],
		[length => 'core/a.c', "/* Length: a table. */\nint f(void)\n{\n" . "\tx++;\n" x 101 . "}\n", 0],
		[paths => 'core/a.c', "\topen(\"$root/me/data\");\n", 1],
		[paths => 'core/a.c', "\topen(\"/proc/self/io\"); a = b / c; /* read/write */\n", 0],
		[paths => 'tests/a.c', "\topen(ROOT \"/tests/corpus/x\");\n", 0],
	);
	my $n_bad = 0;
	for (@cases) {
		my ($check, $file, $text, $expected) = @$_;
		$n_findings = 0;
		{
			open(my $quiet, '>', \my $sink) or die "source.pl: $!\n";
			my $old = select $quiet;
			$checks{$check}->($file, $text);
			select $old;
		}
		next if ($n_findings > 0) == $expected;
		print "self-test: $check, expected $expected, got $n_findings, on:\n$text";
		$n_bad++;
	}
	printf "self-test: %d cases, %d wrong\n", scalar @cases, $n_bad;
	return $n_bad ? 1 : 0;
}

my $check = shift @ARGV // '';
exit self_test() if $check eq 'self-test';
my $run = $checks{$check} or die "usage: source.pl spdx|includes|forbidden|length|paths|self-test [FILE]...\n";
my @files = @ARGV;
if (!@files) {
	open(my $p, '-|', 'git', 'ls-files', '-z') or die "source.pl: git: $!\n";
	@files = split /\0/, do { local $/; <$p> // '' };
	close $p or die "source.pl: git ls-files failed: name the files, or run inside the repository\n";
}
die "source.pl: no files to check\n" if !@files;
$n_findings = 0;
for my $file (grep { -f && !-l } @files) {
	open(my $f, '<:raw', $file) or die "source.pl: $file: $!\n";
	my $text = do { local $/; <$f> } // '';
	close $f;
	next if $text =~ /\0/;
	$run->($file, $text);
}
exit($n_findings ? 1 : 0);
