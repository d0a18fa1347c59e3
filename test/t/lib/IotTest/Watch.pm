# Messages that a broker hands out, collected in the background: what was published, and when.

package IotTest::Watch;

use strict;
use warnings;

use Carp;
use JSON::PP;
use PostgreSQL::Test::Utils;

use IotTest::Process;

my $count = 0;

sub new
{
	my ($class, $broker, $filter, %opt) = @_;
	my $file = "$broker->{dir}/watch_" . ++$count;
	my $self = bless { file => $file, broker => $broker }, $class;
	my $mark = $broker->log_size;
	my $id = "watch-$$-$count";

	# one line per message: time, qos, retained flag, topic, payload in hex
	$self->{process} = IotTest::Process->start(
		name => "watch on $filter",
		command => [
			IotTest::program('mosquitto_sub'), $broker->client_args(%opt),
			'-i', $id, '-q', 1, '-t', $filter, '-F', '%U %q %r %t %x'
		],
		log => $file,
		errors => "$file.errors");
	# the broker writes this line once the subscription stands
	$broker->wait_for_log(qr/^[^\n]* \Q$id\E 1 \Q$filter\E$/m, $mark);
	return $self;
}

# Each message: { at, qos, retained, topic, payload, json } (json: undef where it does not parse).
sub messages
{
	my ($self, $topic) = @_;
	my @messages;

	return () unless -e $self->{file};
	my $content = PostgreSQL::Test::Utils::slurp_file($self->{file});
	$content =~ s/[^\n]*\z//;		# a line that is still being written
	foreach my $line (split /\n/, $content)
	{
		my ($at, $qos, $retained, $rest) = split / /, $line, 4;
		next unless defined $rest && $rest =~ /^(.*) ([0-9a-fA-F]*)$/;
		my ($name, $payload) = ($1, pack('H*', $2));
		next if defined $topic && (ref $topic ? $name !~ $topic : $name ne $topic);
		push @messages,
		  {
			at => $at, qos => $qos, retained => $retained, topic => $name, payload => $payload,
			json => eval { JSON::PP->new->decode($payload) } || undef
		  };
	}
	return @messages;
}

# Waits until at least that many messages came; they are returned.
sub wait_for
{
	my ($self, $number, $topic) = @_;
	my @messages;

	IotTest::poll_until(sub { (@messages = $self->messages($topic)) >= $number },
		"$number messages arrive");
	return @messages;
}

sub stop { return $_[0]->{process}->stop; }

1;
