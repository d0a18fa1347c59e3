# The full torture: points of every kind, one after the other, over a random workload, until there
# were enough of them or the time is over.  test/torture/torture calls this, `make torture` that.
#
# TORTURE_POINTS=n     so many points (80), or
# TORTURE_SECONDS=n    as many as begin within that time
# TORTURE_SEED=n       repeats the choices of a run
# TORTURE_STEPS=n      steps of the workload before each point (15)
# TORTURE_KINDS=a,b    only these kinds; see Torture::Point

use strict;
use warnings;

use IO::Handle;

# the test library sends standard output to a log
our $terminal;
BEGIN { open($terminal, '>&', \*STDOUT) or die "dup: $!"; $terminal->autoflush(1); }

use Time::HiRes qw(time);

use IotTest;
use lib "$IotTest::source_dir/test/torture/lib";
use Torture::Checker;
use Torture::Point;
use Torture::World;

# a history is read whole after each point: a new world keeps it short
my $points_a_world = 16;

my $seed = $ENV{TORTURE_SEED} || time() % 1_000_000;
my $steps = $ENV{TORTURE_STEPS} // 15;
my @kinds = $ENV{TORTURE_KINDS} ? split(/,/, $ENV{TORTURE_KINDS}) : @Torture::Point::kinds;
my $until = $ENV{TORTURE_SECONDS} ? time() + $ENV{TORTURE_SECONDS} : undef;
my $points = $until ? 1e9 : $ENV{TORTURE_POINTS} || 80;
my ($held, $failed, $worst, $sweep, $in_world) = (0, 0, 0, undef, 0);

sub say_line { print {$terminal} "$_[0]\n"; return; }

$seed = int($seed);
say_line("seed $seed, "
	  . ($until ? "$ENV{TORTURE_SECONDS} s" : "$points points") . ", $steps steps before each: @kinds");
for (my $point = 1; $point <= $points && (!$until || time() < $until); $point++)
{
	my $kind = $kinds[ ($point - 1) % @kinds ];

	if (!$sweep || $in_world >= $points_a_world)
	{
		$sweep->{world}->end if $sweep;
		$sweep = Torture::Point->new(Torture::World->new, seed => $seed + $point, steps => $steps,
			restarts => 1, turn => $point);
		$in_world = 0;
	}
	$in_world++;
	my $start = time();
	my $result = $sweep->run($kind);
	my @findings = @{ $result->{findings} };

	$worst = $result->{back} if defined $result->{back} && $result->{back} > $worst;
	say_line(sprintf('%s %d - %s: %s (%.1f s%s)', @findings ? 'not ok' : 'ok', $point, $result->{what},
			@findings ? 'broke ' . join(', ', Torture::Checker::invariants(@findings)) : 'held',
			time() - $start,
			defined $result->{back} ? sprintf(', workers back after %.1f s', $result->{back}) : ''));
	if (@findings)
	{
		$failed++;
		say_line(Torture::Checker::describe($_)) foreach @findings;
		# what this point broke must not be held against the next
		$in_world = $points_a_world;
	}
	else
	{
		$held++;
	}
}
say_line(sprintf('workers were back after %.1f s at most', $worst));
say_line(sprintf('%d points, %d held, %d failed (seed %d)', $held + $failed, $held, $failed, $seed));
exit($failed ? 1 : 0);
