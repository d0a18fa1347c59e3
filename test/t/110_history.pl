# A random workload of commands, measurements, answers, alarms, changes of rules and rights, and
# processes that end, held against the promises by a checker that shares nothing with the product
# (I1 to I8, I10 to I12, I14 to I17, I25 to I27, I33).  The same choices each time; `make torture`
# makes others, more, and kills harder.
#
# TORTURE_SEED=n makes other choices, TORTURE_STEPS=n more of them.

use strict;
use warnings;

use Test::More;

use IotTest;
use lib "$IotTest::source_dir/test/torture/lib";
use Torture::Checker;
use Torture::Workload;
use Torture::World;

my $seed = $ENV{TORTURE_SEED} || 110;
my $steps = $ENV{TORTURE_STEPS} || 210;
note("seed $seed, $steps steps");

my $world = Torture::World->new;
my $workload = Torture::Workload->new($world, seed => $seed, restarts => 1);

$workload->step foreach 1 .. $steps;
note(join(', ', map { "$_ $workload->{done}{$_}" } sort keys %{ $workload->{done} }));
is_deeply([ $world->rest ], [], 'everything comes to rest');
my $history = $world->history;
my @findings = Torture::Checker->check($history);

diag(Torture::Checker::describe($_)) foreach @findings;
is_deeply([ Torture::Checker::invariants(@findings) ], [], 'and every promise held: '
	  . join(', ', map { @{ $history->{$_} } . " ${_}s" } qw(command measurement alarm notification)));

# what was not there cannot have been broken
my %seen;
$seen{ $_->{status} }++ foreach @{ $history->{command} };
cmp_ok($seen{$_} || 0, '>', 0, "commands that are $_ were among them: " . ($seen{$_} || 0))
  foreach qw(COMPLETED FAILED CANCELLED);
foreach my $mode (qw(device echo broker))
{
	my %of_mode = map { $_->{device_id} => 1 } grep { $_->{ack_mode} eq $mode } @{ $history->{device} };

	cmp_ok(scalar(grep { $_->{status} eq 'COMPLETED' && $of_mode{ $_->{device_id} } } @{ $history->{command} }),
		'>', 0, "some were completed in the way \"$mode\"");
}
cmp_ok(scalar(grep { $_->{superseded} eq 'true' } @{ $history->{command} }),
	'>', 0, 'some were superseded');
cmp_ok(scalar(grep { $_->{late} eq 'true' } @{ $history->{command} }), '>', 0, 'some answers were late');
cmp_ok(scalar(@{ $history->{$_->[0]} }), '>', $_->[1], "$_->[0]: " . @{ $history->{ $_->[0] } })
  foreach [ measurement => 100 ], [ alarm => 5 ], [ notification => 50 ], [ dead_letter => 5 ];

done_testing();
