# A private mosquitto on a free port of the loopback interface, with a configuration of its own.
#
#   my $broker = IotTest::Broker->new('main');                       anonymous, persistent
#   my $broker = IotTest::Broker->new('main', users => { iot => 'secret' });
#   $broker->stop; $broker->start; $broker->kill9; $broker->suspend; $broker->resume;
#   $broker->publish('iot/boiler-1/telemetry', '{"temperature":21.5}', retain => 1);
#   my $watch = $broker->watch('iot/#');   $watch->messages

package IotTest::Broker;

use strict;
use warnings;

use Carp;
use IO::Socket::INET;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time sleep);

use IotTest::Process;
use IotTest::Watch;

# Options: conf (text appended), users (name => password: no anonymous access then), tls (a hash of
# cafile, certfile, keyfile), port, start (0: not yet), autosave (0: not at each change), shipped
# (1: the configuration file that the project ships, with only port, folders and password file
# replaced).
sub new
{
	my ($class, $name, %opt) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir("broker_$name");
	my $self = bless {
		name => $name,
		dir => $dir,
		port => $opt{port} || PostgreSQL::Test::Cluster::get_free_port(),
		users => $opt{users},
		autosave => defined $opt{autosave} && !$opt{autosave} ? 'false' : 'true',
		tls => $opt{tls},
		log => "$PostgreSQL::Test::Utils::log_path/"
		  . File::Basename::basename($0, '.pl')
		  . "_broker_$name.log",
	}, $class;

	$self->write_passwords if $opt{users};
	$self->{conf} = $opt{shipped} ? $self->shipped_conf : $self->plain_conf;
	# left to make its file itself, the plugin of 2.1 makes users of its own, too
	PostgreSQL::Test::Utils::append_to_file($self->dynsec_file, "{}\n") if $opt{shipped};
	$self->{conf} .= $opt{conf} . "\n" if $opt{conf};
	$self->write_conf;
	$self->start unless defined $opt{start} && !$opt{start};
	return $self;
}

sub port { return $_[0]->{port}; }
sub url { return ($_[0]->{tls} ? 'mqtts' : 'mqtt') . "://127.0.0.1:$_[0]->{port}"; }
sub log_file { return $_[0]->{log}; }
sub process { return $_[0]->{process}; }
sub dir { return $_[0]->{dir}; }

# Replaces the text appended to the configuration; takes effect at the next start.
sub append_conf
{
	my ($self, $text) = @_;

	$self->{conf} .= "$text\n";
	$self->write_conf;
	return;
}

sub write_conf
{
	my ($self) = @_;

	PostgreSQL::Test::Utils::append_to_file("$self->{dir}/mosquitto.conf.new", $self->{conf});
	rename("$self->{dir}/mosquitto.conf.new", "$self->{dir}/mosquitto.conf") or croak "rename: $!";
	return;
}

sub plain_conf
{
	my ($self) = @_;
	my $access = $self->{users}
	  ? "allow_anonymous false\npassword_file $self->{dir}/passwd"
	  : 'allow_anonymous true';
	my $tls = $self->{tls} ? join("\n", map { "$_ $self->{tls}{$_}" } sort keys %{ $self->{tls} }) : '';

	# autosave_on_changes with interval 1 writes the state at each change: slow, and exact
	return <<"EOC";
listener $self->{port} 127.0.0.1
$tls
$access
persistence true
persistence_location $self->{dir}/
autosave_interval 1
autosave_on_changes $self->{autosave}
max_queued_messages 100000
max_queued_bytes 104857600
max_inflight_messages 1000
message_size_limit 1048576
log_dest file $self->{log}
log_type error
log_type warning
log_type notice
log_type information
log_type subscribe
log_timestamp_format %Y-%m-%dT%H:%M:%S
EOC
}

# The file that we ship, with the places that a private instance must change.
sub shipped_conf
{
	my ($self) = @_;
	my $file = "$IotTest::source_dir/etc/mosquitto.conf";
	my $text = PostgreSQL::Test::Utils::slurp_file($file);
	my %place = (
		'listener' => "listener $self->{port} 127.0.0.1",
		'persistence_location' => "persistence_location $self->{dir}/",
		'password_file' => "password_file $self->{dir}/passwd",
		'acl_file' => "acl_file $IotTest::source_dir/etc/mosquitto.acl",
		'plugin' => 'plugin ' . dynsec_plugin(),
		'plugin_opt_config_file' => 'plugin_opt_config_file ' . $self->dynsec_file,
		'log_dest' => "log_dest file $self->{log}");

	foreach my $key (sort keys %place)
	{
		$text =~ s/^\Q$key\E .*$/$place{$key}/m or croak "$file does not set $key";
	}
	return $text;
}

# The dynamic security plugin, wherever the broker's package has put it.
sub dynsec_plugin
{
	my ($plugin) =
	  map { glob("$_/mosquitto_dynamic_security.so") } '/usr/lib/*', '/usr/lib', '/usr/local/lib';

	return $plugin || croak 'mosquitto_dynamic_security.so is not there';
}

# What the plugin keeps.
sub dynsec_file { return "$_[0]->{dir}/dynsec.json"; }

sub write_passwords
{
	my ($self) = @_;
	my $file = "$self->{dir}/passwd";

	unlink $file;
	PostgreSQL::Test::Utils::append_to_file($file,
		join('', map { "$_:$self->{users}{$_}\n" } sort keys %{ $self->{users} }));
	chmod 0600, $file;
	PostgreSQL::Test::Utils::system_or_bail('mosquitto_passwd', '-U', $file);
	return;
}

# Starts it and waits until the port answers.
sub start
{
	my ($self) = @_;

	if ($self->{process})
	{
		$self->{process}->spawn;
	}
	else
	{
		$self->{process} = IotTest::Process->start(
			name => "broker $self->{name}",
			command => [ IotTest::program('mosquitto'), '-c', "$self->{dir}/mosquitto.conf" ],
			log => "$self->{log}.output");
	}
	my $end = time() + $PostgreSQL::Test::Utils::timeout_default;
	until (IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port}))
	{
		croak "broker $self->{name} did not start:\n"
		  . $self->{process}->log_content . $self->log_content
		  unless $self->{process}->alive;
		croak "broker $self->{name} does not listen" if time() > $end;
		sleep 0.02;
	}
	return $self;
}

sub stop { return $_[0]->{process}->stop; }
sub kill9 { return $_[0]->{process}->kill9; }
sub restart { $_[0]->stop; return $_[0]->start; }
sub suspend { return $_[0]->{process}->suspend; }
sub resume { return $_[0]->{process}->resume; }

sub log_content
{
	my ($self, $offset) = @_;

	return -e $self->{log} ? PostgreSQL::Test::Utils::slurp_file($self->{log}, $offset || 0) : '';
}

sub log_size { return -s $_[0]->{log} || 0; }

sub wait_for_log
{
	my ($self, $pattern, $offset) = @_;

	IotTest::poll_until(sub { $self->log_content($offset) =~ $pattern },
		"the log of broker $self->{name} matches $pattern");
	return $self->log_size;
}

# Waits until the broker's file holds these bytes (of a topic or payload): until then a kill may
# lose what the broker has confirmed.
sub wait_saved
{
	my ($self, $bytes) = @_;
	my $file = "$self->{dir}/mosquitto.db";

	return IotTest::poll_until(
		sub {
			return -e $file && index(PostgreSQL::Test::Utils::slurp_file($file), $bytes) >= 0;
		},
		"broker $self->{name} saves its state");
}

# Arguments with which a client program of mosquitto reaches this broker.
sub client_args
{
	my ($self, %opt) = @_;
	my @args = ('-h', '127.0.0.1', '-p', $self->{port});
	my $user = $opt{user} || ($self->{users} && (sort keys %{ $self->{users} })[0]);

	push @args, '-u', $user, '-P', $self->{users}{$user} if $user;
	push @args, '--cafile', $self->{tls}{cafile} if $self->{tls};
	return @args;
}

# Publishes one message and returns when the broker has it.  Options: qos (1), retain, user,
# version ('mqttv5').  The payload may hold any bytes.
sub publish
{
	my ($self, $topic, $payload, %opt) = @_;
	my @command = (
		'mosquitto_pub', $self->client_args(%opt),
		'-V', $opt{version} || 'mqttv311',
		'-q', defined $opt{qos} ? $opt{qos} : 1,
		'-t', $topic,
		($opt{retain} ? '-r' : ()),
		(length $payload ? '-s' : '-n'));
	my ($out, $err);

	IPC::Run::run(\@command, '<', \$payload, '>', \$out, '2>', \$err)
	  or croak "could not publish to $topic: $err";
	return;
}

# Publishes many messages over one connection to one topic, one per line: none may hold a newline.
# The client of 2.1 forgets what it has not sent yet when its input ends: it goes on until each is
# acknowledged, or sent where nobody acknowledges.
sub publish_lines
{
	my ($self, $topic, $payloads, %opt) = @_;
	my $qos = defined $opt{qos} ? $opt{qos} : 1;
	my $done = $qos > 0 ? qr/ received PUBACK / : qr/ sending PUBLISH /;
	my $input = join('', map { "$_\n" } @$payloads);
	my ($left, $rest, $err) = (scalar @$payloads, '', '');
	my $count = sub {
		$rest .= $_[0];
		while ($rest =~ s/^([^\n]*)\n//)
		{
			$left-- if $1 =~ $done;
		}
	};
	my $client = IPC::Run::start(
		[
			'stdbuf', '-oL', 'mosquitto_pub', $self->client_args(%opt), '-d', '-q', $qos,
			'-t', $topic, '-l'
		],
		'<', \$input, '>', $count, '2>', \$err,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));

	$client->pump while $left > 0 && $client->pumpable;
	$client->finish or croak "could not publish to $topic: $err";
	croak "$left messages to $topic were not published: $err" if $left > 0;
	return;
}

# Everything published to the filter from now on, collected in the background.
sub watch
{
	my ($self, $filter, %opt) = @_;

	return IotTest::Watch->new($self, $filter, %opt);
}

1;
