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

use parent -norequire, 'IotTest::Recorder';

use MIME::Base64;

use IotTest::Recorder;

sub mode { return $_[0]->{mode} || 'plain'; }

sub command
{
	my ($self) = @_;
	(my $program = __FILE__) =~ s{[^/]*$}{mail_server.py};

	# the distribution's interpreter has the distribution's modules
	return [ '/usr/bin/python3', $program, $self->{port}, $self->{file}, $self->mode,
		map { defined $_ ? $_ : () } @$self{qw(cert key user password)} ];
}

# A certificate has a name.
sub url
{
	my ($self) = @_;

	return ($self->mode eq 'smtps' ? 'smtps' : 'smtp') . '://'
	  . ($self->mode eq 'plain' ? '127.0.0.1' : 'localhost') . ":$self->{port}";
}

sub records
{
	my ($self, $what, $to) = @_;

	return grep { $_->{what} eq $what && (!defined $to || $_->{to} eq $to) } $self->recorded;
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
