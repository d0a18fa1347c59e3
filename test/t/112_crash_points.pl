# The adapter, the notifier, a sending backend and the push daemon are killed at a system call within
# a saga or a flood, the server and the broker altogether; after each, everything comes back by
# itself, and the checker of histories finds no promise broken (I33, with all that it looks at).  A few
# points, always the same kinds; `make torture` takes as many as one likes.
#
# TORTURE_SEED=n makes other choices.

use strict;
use warnings;

use Test::More;

use IotTest;
use lib "$IotTest::source_dir/test/torture/lib";
use Torture::Checker;
use Torture::Point;
use Torture::World;

# how fast is for `make torture` to judge; a busy machine only has to come there
$Torture::Point::resume = $PostgreSQL::Test::Utils::timeout_default;

my $seed = $ENV{TORTURE_SEED} || 112;
note("seed $seed");
my $sweep = Torture::Point->new(Torture::World->new, seed => $seed, steps => 5);

foreach my $kind (@Torture::Point::kinds)
{
	my $result = $sweep->run($kind);

	is_deeply([ Torture::Checker::invariants(@{ $result->{findings} }) ], [], $result->{what})
	  or diag(map { Torture::Checker::describe($_) . "\n" } @{ $result->{findings} });
}

done_testing();
