# A mail server, Debian's aiosmtpd, in a process of its own.
#
#   my $mail = IotTest::MailServer->new('main');
#   my $mail = IotTest::MailServer->new('tls', mode => 'starttls', cert => $file, key => $file,
#       user => 'iot', password => 'secret');        mode: plain, starttls, smtps
#   $mail->url                       smtp://127.0.0.1:PORT, or smtps://localhost:PORT
#   $mail->messages('anna@example.org')      what it accepted: sender, to, tls, user, data, at
#   $mail->attempts('anna@example.org')      how often somebody asked for the recipient
#   $mail->stop, ->start             down and up again, on the same port
#
# Recipients say how it behaves: "nobody@" is refused for good, "later.N@" for now, N times, "spam@"
# only once the message has come; "hang@" takes the message and never answers.

package IotTest::MailServer;

use strict;
use warnings;

use IO::Socket::INET;
use JSON::PP;
use MIME::Base64;

use IotTest::Process;
use PostgreSQL::Test::Utils;

sub new
{
	my ($class, $name, %arg) = @_;
	my $self = bless {
		name => "mail_$name",
		mode => $arg{mode} || 'plain',
		port => IotTest::free_port(),
		file => "$PostgreSQL::Test::Utils::tmp_check/mail_$name.jsonl",
		more => [ map { defined $_ ? $_ : () } @arg{qw(cert key user password)} ],
	}, $class;

	unlink $self->{file};
	$self->start unless defined $arg{start} && !$arg{start};
	return $self;
}

sub start
{
	my ($self) = @_;

	if ($self->{process})
	{
		$self->{process}->spawn;
	}
	else
	{
		(my $program = __FILE__) =~ s{[^/]*$}{mail_server.py};
		$self->{process} = IotTest::Process->start(
			name => $self->{name},
			# the distribution's interpreter has the distribution's modules
			command => [ '/usr/bin/python3', $program, $self->{port}, $self->{file}, $self->{mode},
				@{ $self->{more} } ],
			log => "$PostgreSQL::Test::Utils::log_path/$self->{name}.log");
	}
	IotTest::poll_until(
		sub { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port}) },
		"$self->{name} listens");
	return $self;
}

sub stop { $_[0]->{process}->stop('KILL'); return; }

# A certificate has a name.
sub url
{
	my ($self) = @_;

	return ($self->{mode} eq 'smtps' ? 'smtps' : 'smtp') . '://'
	  . ($self->{mode} eq 'plain' ? '127.0.0.1' : 'localhost') . ":$self->{port}";
}

sub records
{
	my ($self, $what, $to) = @_;
	my @records;

	open(my $fh, '<', $self->{file}) or return;
	while (my $line = <$fh>)
	{
		last unless $line =~ /\n\z/;
		push @records, JSON::PP->new->utf8->decode($line);
	}
	close $fh;
	return grep { $_->{what} eq $what && (!defined $to || $_->{to} eq $to) } @records;
}

sub attempts { return scalar(my @all = $_[0]->records('rcpt', $_[1])); }

# Accepted messages, oldest first; "data" is the message, byte for byte.
sub messages
{
	my ($self, $to) = @_;

	return map { { %$_, data => decode_base64($_->{data}) } } $self->records('message', $to);
}

# Waits until so many came for the recipient; these.
sub wait_for
{
	my ($self, $to, $count, $timeout) = @_;

	IotTest::poll_until(sub { my @all = $self->messages($to); @all >= $count },
		"$count messages for $to", $timeout);
	return $self->messages($to);
}

1;
