# Holds a history against the promises, and says which of them it breaks.
#
# The checker reads rows and logs and folds them by code of its own; it shares nothing with the
# product, so that both cannot be wrong in the same way.  A finding names the invariant and shows
# the rows that break it.

package Torture::Checker;

use strict;
use warnings;

use JSON::PP;

use Torture::Check::Alarm;
use Torture::Check::Ingest;
use Torture::Check::Push;
use Torture::Check::Saga;

my $json = JSON::PP->new->canonical->allow_blessed->allow_nonref;
my $most_rows = 8;

# Findings: { invariant => 'I3', what => 'in words', rows => [...] }, in the order of invariants.
sub check
{
	my ($class, $history) = @_;
	my @findings;
	my $find = sub {
		my ($invariant, $what, @rows) = @_;

		push @findings, { invariant => $invariant, what => $what, rows => \@rows };
	};

	$_->($history, $find)
	  foreach \&Torture::Check::Saga::check, \&Torture::Check::Ingest::check,
	  \&Torture::Check::Alarm::check, \&Torture::Check::Push::check;
	return sort { substr($a->{invariant}, 1) <=> substr($b->{invariant}, 1) } @findings;
}

# The invariants that findings break, each once.
sub invariants
{
	my %seen;

	return grep { !$seen{$_}++ } map { $_->{invariant} } @_;
}

# A finding as text, with its rows.
sub describe
{
	my ($finding) = @_;
	my @rows = @{ $finding->{rows} };
	my $more = @rows > $most_rows ? @rows - $most_rows : 0;

	splice @rows, $most_rows if $more;
	return join("\n",
		"$finding->{invariant}: $finding->{what}",
		(map { '    ' . $json->encode($_) } @rows),
		$more ? "    and $more more" : ());
}

1;
