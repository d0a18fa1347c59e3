# Errors that people can meet say what to do: each has a hint, in the sources of the functions and of
# what is checked when rows are written.  Those of calls that only our own programs make need none.

use strict;
use warnings;

use File::Basename;
use Test::More;

my $internal = qr/arguments\ must\ not\ be\ null|same\ number\ of\ elements|consumer\ name|number\ of\ rows
	|number\ of\ events|must\ be\ called\ as\ a\ row\ trigger|was\ not\ called|arrays\ of\ (?:one\ dimension|messages)
	|table\ of\ measurements\ has\ no\ column|values\ of\ a\ template|rendered\ template|by\ too\ many\ triggers
	|may\ not\ operate\ the\ device|the\ plugin\ (?:answers|does\ not\ list)/x;
my $no_fault = qr/ERRCODE_(?:OUT_OF_MEMORY|INTERNAL_ERROR)/;
my ($errors, @without) = (0);

sub look
{
	my ($file, $pattern, $hint) = @_;

	open(my $in, '<', $file) or die "$file: $!";
	my $text = do { local $/; <$in> };
	close $in;
	while ($text =~ /$pattern/g)
	{
		my ($error, $line) = ($1, 1 + (substr($text, 0, $-[0]) =~ tr/\n//));

		$errors++;
		next if $error =~ $hint || $error =~ $internal || $error =~ $no_fault;
		push @without, basename($file) . ":$line: " . ($error =~ s/\s+/ /gr);
	}
	return;
}

my $source = $ENV{IOT_SOURCE};
look($_, qr/RAISE EXCEPTION\b((?:[^';]++|'(?:[^']|'')*+')*+);/, qr/\bHINT\b/) foreach glob "$source/sql/[0-9]*.sql";
look($_, qr/ereport\(ERROR,\s*(\((?:[^()"]++|"(?:[^"\\]|\\.)*+"|(?1))*+\))/, qr/\berrhint\b/)
  foreach glob "$source/src/*.c";
cmp_ok($errors, '>', 250, "$errors errors");
is(join("\n", @without), '', 'each has a hint');
done_testing();
