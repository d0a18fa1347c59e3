# doc/promises.md names, for each promise, tests that exist and that speak of it, and the figure that
# they last told.

use strict;
use warnings;

use Test::More;

sub content
{
	my ($file) = @_;

	open(my $in, '<', $file) or return;
	local $/;
	return <$in>;
}

my $doc = "$ENV{IOT_SOURCE}/doc";
my $page = content("$doc/promises.md");
my @rows = grep { /^\| I\d+ \|/ } split /\n/, $page;

# a number stays that of its promise: 38 is nobody's any more
is(join(' ', map { /^\| I(\d+) / } @rows), join(' ', 1 .. 37, 39 .. 42),
	'the page lists every promise, once and in order');
foreach my $row (@rows)
{
	my ($id) = $row =~ /^\| (I\d+) /;
	my (undef, undef, undef, $shown_by, $figure, @more) = split / ?\| ?/, $row;
	my @tests = ($shown_by || '') =~ /\]\(([^)]+)\)/g;

	is(scalar @more, 0, "$id: number, promise, tests and figure");
	cmp_ok(scalar @tests, '>', 0, "$id has a test");
	like($figure || '', qr/\d/, '... and a figure');
	foreach my $test (@tests)
	{
		my $text = content("$doc/$test");

		ok(defined $text && $text =~ /\b$id\b/, "... and $test speaks of it");
	}
}
done_testing();
