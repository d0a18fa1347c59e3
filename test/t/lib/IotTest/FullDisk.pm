# A disk that is full for some processes: strace has their calls that would write to these files, or
# make them longer, fail for want of room.
#
#   my $full = no_room(pids => [$pid], files => [ table_files($iot, 'measurement') ]);
#   plan skip_all => 'strace may not attach to a process here' unless $full;
#   $full->stop;                                       there is room again
#
# Options: when ("1": the first such call alone), calls (other system calls), follow (1: their children,
# too).  What was refused is in $full->{trace}.

package IotTest::FullDisk;

use strict;
use warnings;

use Exporter qw(import);

use IotTest::Process;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(table_files no_room);

my $count = 0;

# Files of some tables with their indexes, all partitions.
sub table_files
{
	my ($iot, @tables) = @_;
	my $tables = join ', ', map { "'iot.$_'" } @tables;
	my $data = $iot->node->data_dir;

	return map { "$data/$_" } split /\n/, $iot->psql(<<"EOC");
WITH file AS (
	SELECT coalesce(p.relid, t.name::regclass) AS oid FROM unnest(ARRAY[$tables]) AS t (name)
		LEFT JOIN LATERAL pg_partition_tree(t.name::regclass) p ON true
		WHERE coalesce(p.isleaf, true)
)
SELECT pg_relation_filepath(f.oid) FROM file f
UNION SELECT pg_relation_filepath(i.indexrelid) FROM file f JOIN pg_index i ON i.indrelid = f.oid
EOC
}

sub no_room
{
	my (%opt) = @_;
	my $calls = $opt{calls} || 'pwrite64,pwritev,pwritev2,fallocate';
	my $when = $opt{when} ? ":when=$opt{when}" : '';
	my $name = "$PostgreSQL::Test::Utils::log_path/" . File::Basename::basename($0, '.pl')
	  . '_strace' . ++$count;
	my $tracer = IotTest::Process->start(
		name => "strace of @{ $opt{pids} }",
		command => [
			'strace', '-o', "$name.trace", ($opt{follow} ? '-f' : ()), '-e', "trace=$calls",
			'-e', "inject=$calls:error=ENOSPC$when",
			(map { ('-p', $_) } @{ $opt{pids} }), (map { ('-P', $_) } @{ $opt{files} })
		],
		log => "$name.log");

	$tracer->{trace} = "$name.trace";
	return eval { $tracer->wait_for_log(qr/(?:.*attached.*\n){@{[ scalar @{ $opt{pids} } ]}}/); 1 }
	  ? $tracer : undef;
}

1;
