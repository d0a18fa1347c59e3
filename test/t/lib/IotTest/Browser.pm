# A real browser without a window: Chromium, driven through chromedriver by the W3C WebDriver protocol.
#
#   my $browser = IotTest::Browser->new(dark => 1, width => 390, height => 844);
#   $browser->open("http://127.0.0.1:$port/");
#   $browser->wait_for('main h1');                  an element by a CSS selector, visible; else it dies
#   $browser->wait_for('.badge', text => 'online'); ... whose text holds this
#   $browser->type('#username', 'anna');
#   $browser->click('button[type=submit]');
#   $browser->choose('#action', 'add');
#   $browser->press('Tab', 'Enter');                keys to whatever has the focus
#   $browser->script('return document.title');
#   $browser->screenshot('page.png');
#   $browser->console                               what the page complained about, so far
#   $browser->hosts                                 "host:port" of every request, so far
#
# The browser resolves no name and asks nobody for updates: what it requests, the page asked for.

package IotTest::Browser;

use strict;
use warnings;

use Carp;
use Encode;
use File::Basename;
use HTTP::Tiny;
use JSON::PP;
use MIME::Base64 qw(decode_base64);
use PostgreSQL::Test::Utils;

use IotTest::Process;

# Keys of the protocol that tests press.
my %keys = (Tab => "\x{E004}", Enter => "\x{E007}", Space => ' ', Escape => "\x{E00C}",
	Down => "\x{E015}", Shift => "\x{E008}");

my $json = JSON::PP->new->utf8->allow_nonref;
my $count = 0;

sub chromium { return (grep { -x } qw(/usr/bin/chromium /usr/bin/chromium-browser))[0]; }

sub new
{
	my ($class, %opt) = @_;
	my $port = IotTest::free_port();
	my $dir = PostgreSQL::Test::Utils::tempdir('browser' . ++$count);
	my $self = bless { url => "http://127.0.0.1:$port", log => [] }, $class;

	$self->{driver} = IotTest::Process->start(
		name => "chromedriver$count",
		command => [ 'chromedriver', "--port=$port", '--allowed-ips=127.0.0.1' ],
		env => { HOME => $dir, XDG_CONFIG_HOME => $dir, XDG_CACHE_HOME => $dir, TMPDIR => $dir },
		log => "$PostgreSQL::Test::Utils::log_path/"
		  . File::Basename::basename($0, '.pl') . "_chromedriver$count.log");
	$self->{http} = HTTP::Tiny->new(timeout => 120, proxy => undef, http_proxy => undef);
	IotTest::poll_until(sub {
		return $self->{http}->get("$self->{url}/status")->{success};
	}, 'chromedriver listens');
	my $session = $self->call(POST => '/session', { capabilities => { alwaysMatch => {
		browserName => 'chrome',
		'goog:loggingPrefs' => { browser => 'ALL', performance => 'ALL' },
		'goog:chromeOptions' => {
			binary => chromium(),
			args => [ '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
				'--no-first-run', '--disable-background-networking', '--disable-component-update',
				'--disable-sync', '--disable-quic', '--disable-extensions', '--no-proxy-server',
				'--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost',
				"--user-data-dir=$dir/profile",
				sprintf('--window-size=%d,%d', $opt{width} || 1280, $opt{height} || 900) ] } } } });
	$self->{session} = "/session/$session->{sessionId}";
	$self->call(POST => '/timeouts', { script => 30000, pageLoad => 60000, implicit => 0 });
	# a window is never narrower than 500 pixels; a phone's page is
	$self->devtools('Emulation.setDeviceMetricsOverride', width => 0 + ($opt{width} || 1280),
		height => 0 + ($opt{height} || 900), deviceScaleFactor => 1,
		mobile => $opt{mobile} ? JSON::PP::true : JSON::PP::false);
	$self->scheme($opt{dark} ? 'dark' : 'light');
	return $self;
}

# Calls the driver; what it answers, or dies with what it complains of.
sub call
{
	my ($self, $method, $path, $arguments) = @_;
	my $answer = $self->{http}->request($method, $self->{url} . ($self->{session} || '') . $path,
		$method eq 'POST' ? { content => $json->encode($arguments || {}),
			headers => { 'Content-Type' => 'application/json' } } : {});
	my $value = eval { $json->decode($answer->{content})->{value} };

	croak "$method $path: " . (ref $value ? $value->{message} : $answer->{content})
	  unless $answer->{success};
	return $value;
}

sub devtools
{
	my ($self, $command, %params) = @_;

	return $self->call(POST => '/goog/cdp/execute', { cmd => $command, params => \%params });
}

sub scheme
{
	my ($self, $scheme) = @_;

	$self->devtools('Emulation.setEmulatedMedia',
		features => [ { name => 'prefers-color-scheme', value => $scheme } ]);
	return;
}

sub open { $_[0]->call(POST => '/url', { url => $_[1] }); return; }

sub script
{
	my ($self, $text, @arguments) = @_;

	return $self->call(POST => '/execute/sync', { script => $text, args => \@arguments });
}

# The first visible element that matches; with text, the first whose text holds it.
sub find
{
	my ($self, $selector, %opt) = @_;
	my $element = $self->script(<<'EOC', $selector, $opt{text});
return Array.from(document.querySelectorAll(arguments[0])).find(element =>
	element.getClientRects().length > 0 && (arguments[1] == null ||
		(element.textContent + ' ' + (element.value ?? '')).includes(arguments[1]))) ?? null;
EOC
	return $element ? (values %$element)[0] : undef;
}

sub wait_for
{
	my ($self, $selector, %opt) = @_;
	my $element;

	my $what = $selector . (defined $opt{text} ? " with \"$opt{text}\"" : '');
	eval {
		IotTest::poll_until(sub { return defined($element = $self->find($selector, %opt)); }, $what);
		1;
	} or croak "$@; the page says:\n" . $self->script('return document.body.innerText');
	return $element;
}

sub wait_until_gone
{
	my ($self, $selector, %opt) = @_;

	IotTest::poll_until(sub { return !defined $self->find($selector, %opt); }, "no $selector");
	return;
}

sub text { return $_[0]->script('return document.querySelector(arguments[0])?.textContent', $_[1]); }

sub click
{
	my ($self, $selector, %opt) = @_;
	my $tries = 0;

	# what was found may have been drawn anew meanwhile
	until (eval { $self->call(POST => '/element/' . $self->wait_for($selector, %opt) . '/click'); 1 })
	{
		croak $@ if ++$tries == 5 || $@ !~ /stale|not clickable|intercepted/;
	}
	return;
}

sub type
{
	my ($self, $selector, $text) = @_;
	my $element = $self->wait_for($selector);

	$self->call(POST => "/element/$element/clear");
	$self->call(POST => "/element/$element/value", { text => $text });
	return;
}

# Chooses from a list.
sub choose
{
	my ($self, $selector, $value) = @_;

	$self->wait_for($selector);
	my $option = $self->call(POST => '/element',
		{ using => 'css selector', value => "$selector option[value=\"$value\"]" });
	$self->call(POST => '/element/' . (values %$option)[0] . '/click');
	return;
}

sub press
{
	my ($self, @names) = @_;

	foreach my $name (@names)
	{
		my $key = $keys{$name} || $name;

		$self->call(POST => '/actions', { actions => [ { type => 'key', id => 'keyboard',
			actions => [ { type => 'keyDown', value => $key }, { type => 'keyUp', value => $key } ] } ] });
	}
	return;
}

sub focused
{
	return $_[0]->script(<<'EOC');
const e = document.activeElement;
return e.id || e.getAttribute('aria-label') || e.textContent.trim() || e.tagName;
EOC
}

sub screenshot
{
	my ($self, $file) = @_;

	CORE::open(my $out, '>:raw', $file) or croak "$file: $!";
	print $out decode_base64($self->call(GET => '/screenshot'));
	close $out or croak "$file: $!";
	return;
}

# Takes over what the browser has logged since the last look.
sub take_logs
{
	my ($self) = @_;

	push @{ $self->{complaints} }, grep { $_->{level} =~ /SEVERE|WARNING/ }
	  @{ $self->call(POST => '/se/log', { type => 'browser' }) };
	foreach my $entry (@{ $self->call(POST => '/se/log', { type => 'performance' }) })
	{
		my $message = $json->decode(Encode::encode_utf8($entry->{message}))->{message};
		my $url = $message->{method} eq 'Network.requestWillBeSent' ? $message->{params}{request}{url}
		  : $message->{method} eq 'Network.webSocketCreated' ? $message->{params}{url} : next;

		$self->{hosts}{$1} = 1 if $url =~ m{^(?:https?|wss?)://([^/?#]+)};
		$self->{others}{$url} = 1 if $url !~ m{^(?:https?|wss?|data|chrome|about):};
	}
	return;
}

sub console
{
	my ($self) = @_;

	$self->take_logs;
	return map { "$_->{level} $_->{message}" } @{ $self->{complaints} || [] };
}

sub hosts
{
	my ($self) = @_;

	$self->take_logs;
	return sort(keys %{ $self->{hosts} || {} }, keys %{ $self->{others} || {} });
}

sub quit
{
	my ($self) = @_;

	eval { $self->call(DELETE => '') } if $self->{session};
	$self->{driver}->stop;
	return;
}

1;
