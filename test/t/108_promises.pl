# doc/promises.md names, for each promise, tests that exist and that speak of it.

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

cmp_ok(scalar @rows, '>=', 40, 'the page lists the promises');
foreach my $row (@rows)
{
	my ($id) = $row =~ /^\| (I\d+) /;
	my @tests = $row =~ /\]\(([^)]+)\)/g;

	cmp_ok(scalar @tests, '>', 0, "$id has a test");
	foreach my $test (@tests)
	{
		my $text = content("$doc/$test");

		ok(defined $text && $text =~ /\b$id\b/, "... and $test speaks of it");
	}
}
done_testing();
