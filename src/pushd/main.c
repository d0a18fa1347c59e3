/*
 * main.c
 *		iot-pushd: notifications over WebSocket.
 *
 * Settings and signals.  Ends with status 0 on SIGTERM and SIGINT, 1 where it cannot
 * start, 2 on wrong usage; whatever happens to the database later, it stays and tries again.
 */
#include "pushd/pushd.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "pushd/feed.h"
#include "pushd/pg.h"
#include "pushd/request.h"

#define SPARE_DESCRIPTORS	64
#define STOP_MS				2500

Options options = {
	.listen = "127.0.0.1:8787",
	.max_connections = 10000,
	.max_subscriptions = 32,
};
Metrics metrics;
struct lws_context *context;
struct lws_vhost *vhost;
AuthKeys   *keys;
bool		stopping = false;

static volatile sig_atomic_t stop_requested = 0;
static volatile sig_atomic_t reload_requested = 0;

static const char *conninfo;		/* of the only database */
static bool databases_from_arguments = false;

static const struct lws_protocols protocols[] = {
	/* connections of clients; a frame is handed to the kernel in one piece */
	{"iot-client", client_callback, sizeof(Client), 0, 0, NULL, 256 * 1024},
	{"iot-listen", listen_callback, 0, 0, 0, NULL, 0},
	{"iot-pg", pg_callback, 0, 0, 0, NULL, 0},
	{NULL, NULL, 0, 0, 0, NULL, 0}
};

/* Milliseconds that only go forward. */
int64_t
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Seconds since 1970, as tokens count them. */
int64_t
now_unix(void)
{
	return (int64_t) time(NULL);
}

static void
log_library(int level, const char *line)
{
	log_limited("libwebsockets: %.*s", (int) strcspn(line, "\n"), line);
}

static void
on_signal(int number)
{
	if (number == SIGHUP)
		reload_requested = 1;
	else
		stop_requested = 1;
}

static void
usage(FILE *stream)
{
	fputs("Usage: iot-pushd --conninfo CONNINFO --jwt-key-file FILE [OPTION]...\n"
		  "   or: iot-pushd --cell NAME=CONNINFO... --jwt-key-file FILE [OPTION]...\n"
		  "Hand notifications of the iot extension to connected users, over WebSocket.\n\n"
		  "  --listen HOST:PORT        where to listen (127.0.0.1:8787)\n"
		  "  --conninfo CONNINFO       libpq connection string or URI of the database; use a\n"
		  "                            passfile, not a password\n"
		  "  --cell NAME=CONNINFO      the same for one of several databases that are used as one,\n"
		  "                            and its name; repeatable\n"
		  "  --jwt-key-file FILE       what tokens are verified with: a secret per line (HS256),\n"
		  "                            or public keys in PEM (RS256, ES256); repeatable, and read\n"
		  "                            again on SIGHUP\n"
		  "  --jwt-aud AUDIENCE        take only tokens whose \"aud\" names this audience\n"
		  "  --allow-origin ORIGIN     a further origin whose pages may connect, as\n"
		  "                            https://example.org; repeatable; \"*\" for all\n"
		  "  --www DIR                 serve the files of this folder instead of the live page;\n"
		  "                            '' serves none\n"
		  "  --tls-cert FILE, --tls-key FILE\n"
		  "                            speak TLS with this certificate chain and key (PEM)\n"
		  "  --max-connections N       open connections (10000)\n"
		  "  --max-subscriptions N     subscriptions of one connection (32)\n"
		  "  --version                 that of the extension it was built with\n"
		  "  --help                    this text\n\n"
		  "Each option is also read from the environment: --jwt-key-file is IOT_PUSHD_JWT_KEY_FILE\n"
		  "and so on; repeatable ones hold several values separated by commas, IOT_PUSHD_CELL one\n"
		  "a line.\n", stream);
}

static bool
add_value(const char **values, int *n, const char *value, const char *name)
{
	if (*n == MAX_OPTION_VALUES)
	{
		fprintf(stderr, "iot-pushd: option --%s is given too often\n", name);
		return false;
	}
	values[(*n)++] = value;
	return true;
}

/* Takes "name=conninfo". */
static bool
add_cell(const char *value)
{
	size_t		len = strspn(value, "abcdefghijklmnopqrstuvwxyz0123456789_-");
	char	   *name;

	if (len == 0 || len > MAX_CELL_NAME || value[len] != '=')
	{
		fprintf(stderr, "iot-pushd: option --cell must be NAME=CONNINFO, with a name of at most %d "
				"small letters, digits, - and _\n", MAX_CELL_NAME);
		return false;
	}
	name = strndup(value, len);
	for (int i = 0; i < options.n_cells && name != NULL; i++)
	{
		if (strcmp(options.cell_names[i], name) == 0)
		{
			fprintf(stderr, "iot-pushd: there are two cells of name \"%s\"\n", name);
			return false;
		}
	}
	if (name == NULL || options.n_cells == MAX_CELLS)
	{
		fprintf(stderr, "iot-pushd: there may be %d cells at most\n", MAX_CELLS);
		return false;
	}
	options.cell_names[options.n_cells] = name;
	options.conninfos[options.n_cells++] = value + len + 1;
	return true;
}

static bool
set_number(int *target, const char *value, const char *name, int max)
{
	char	   *end;
	long		number;

	errno = 0;
	number = strtol(value, &end, 10);
	if (errno != 0 || *value == '\0' || *end != '\0' || number < 1 || number > max)
	{
		fprintf(stderr, "iot-pushd: option --%s must be a number from 1 to %d\n", name, max);
		return false;
	}
	*target = (int) number;
	return true;
}

static const struct option long_options[] = {
	{"listen", required_argument, NULL, 'l'},
	{"conninfo", required_argument, NULL, 'd'},
	{"cell", required_argument, NULL, 'e'},
	{"jwt-key-file", required_argument, NULL, 'k'},
	{"jwt-aud", required_argument, NULL, 'a'},
	{"allow-origin", required_argument, NULL, 'o'},
	{"www", required_argument, NULL, 'w'},
	{"tls-cert", required_argument, NULL, 'c'},
	{"tls-key", required_argument, NULL, 'p'},
	{"max-connections", required_argument, NULL, 'n'},
	{"max-subscriptions", required_argument, NULL, 's'},
	/* what follows is no setting, see read_environment() */
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{NULL, 0, NULL, 0}
};

static bool
set_option(int option, const char *value)
{
	switch (option)
	{
		case 'l':
			options.listen = value;
			return true;
		case 'd':
			conninfo = value;
			return true;
		case 'e':
			return add_cell(value);
		case 'k':
			return add_value(options.key_files, &options.n_key_files, value, "jwt-key-file");
		case 'a':
			options.audience = value;
			return true;
		case 'o':
			return add_value(options.allow_origins, &options.n_allow_origins, value,
							 "allow-origin");
		case 'w':
			options.www = value;
			return true;
		case 'c':
			options.tls_cert = value;
			return true;
		case 'p':
			options.tls_key = value;
			return true;
		case 'n':
			return set_number(&options.max_connections, value, "max-connections", 1000000);
		case 's':
			return set_number(&options.max_subscriptions, value, "max-subscriptions", 1000);
		default:
			return false;
	}
}

/* Takes what the environment says, before the arguments, which win. */
static bool
read_environment(void)
{
	for (const struct option *option = long_options; option->val != 'h'; option++)
	{
		char		name[64] = "IOT_PUSHD_";
		size_t		len = strlen(name);
		char	   *value;

		for (const char *p = option->name; *p != '\0'; p++)
			name[len++] = *p == '-' ? '_' : (char) (*p - 'a' + 'A');
		name[len] = '\0';
		value = getenv(name);
		if (value == NULL || *value == '\0')
			continue;
		if (option->val == 'k' || option->val == 'o' || option->val == 'e')
		{
			/* connection strings have commas of their own */
			const char *between = option->val == 'e' ? "\n" : ",";
			char	   *save = NULL;
			char	   *copy = strdup(value);

			for (char *item = copy == NULL ? NULL : strtok_r(copy, between, &save); item != NULL;
				 item = strtok_r(NULL, between, &save))
			{
				if (!set_option(option->val, item))
					return false;
			}
		}
		else if (!set_option(option->val, value))
			return false;
	}
	return true;
}

/* Reads the settings; -1, or the status to end with. */
static int
read_options(int argc, char **argv)
{
	bool		keys_given = false;
	bool		origins_given = false;
	int			option;

	if (!read_environment())
		return 2;
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
	{
		if (option == 'h')
		{
			usage(stdout);
			return 0;
		}
		if (option == 'V')
		{
			puts("iot-pushd " IOT_VERSION);
			return 0;
		}
		/* a list on the command line replaces the one of the environment */
		if (option == 'k' && !keys_given)
			options.n_key_files = 0;
		if (option == 'o' && !origins_given)
			options.n_allow_origins = 0;
		keys_given |= option == 'k';
		origins_given |= option == 'o';
		if ((option == 'd' || option == 'e') && !databases_from_arguments)
		{
			databases_from_arguments = true;
			options.n_cells = 0;
			conninfo = NULL;
		}
		if (option == '?' || !set_option(option, optarg))
		{
			if (option == '?')
				usage(stderr);
			return 2;
		}
	}
	if (optind != argc || (conninfo == NULL && options.n_cells == 0) || options.n_key_files == 0)
	{
		if (optind != argc)
			fprintf(stderr, "iot-pushd: \"%s\" belongs to no option\n", argv[optind]);
		else
			fprintf(stderr, "iot-pushd: %s is missing\n",
					options.n_key_files == 0 ? "--jwt-key-file" : "--conninfo");
		usage(stderr);
		return 2;
	}
	if (conninfo != NULL && options.n_cells > 0)
	{
		fputs("iot-pushd: --conninfo is for one database, --cell for several: give one of them\n",
			  stderr);
		return 2;
	}
	if (conninfo != NULL)
		options.conninfos[options.n_cells++] = conninfo;
	if ((options.tls_cert == NULL) != (options.tls_key == NULL))
	{
		fputs("iot-pushd: --tls-cert and --tls-key belong together\n", stderr);
		return 2;
	}
	return -1;
}

/* Reads all key files into a new set; NULL, and logged, where one is not good. */
static AuthKeys *
load_keys(void)
{
	AuthKeys   *loaded = auth_keys_new();
	char		error[512] = "out of memory";

	for (int i = 0; loaded != NULL && i < options.n_key_files; i++)
	{
		if (!auth_keys_add_file(loaded, options.key_files[i], error, sizeof(error)))
		{
			auth_keys_free(loaded);
			loaded = NULL;
		}
	}
	if (loaded == NULL)
		log_line("%s", error);
	else
		log_line("%d key%s for tokens", auth_keys_count(loaded),
				 auth_keys_count(loaded) == 1 ? "" : "s");
	return loaded;
}

/* Keys that are no longer good keep what they opened until it expires. */
static void
reload_keys(void)
{
	AuthKeys   *loaded = load_keys();

	reload_requested = 0;
	if (loaded == NULL)
	{
		log_line("the keys stay as they were");
		return;
	}
	auth_keys_free(keys);
	keys = loaded;
}

/* Makes room for the descriptors that the limit on connections asks for, or lowers that. */
static void
raise_limits(void)
{
	struct rlimit limit;
	rlim_t		wanted = (rlim_t) options.max_connections + SPARE_DESCRIPTORS;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
		return;
	limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
	(void) setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < wanted)
	{
		options.max_connections = limit.rlim_cur > SPARE_DESCRIPTORS ?
			(int) limit.rlim_cur - SPARE_DESCRIPTORS : 1;
		log_line("only %d connections fit the limit on open files", options.max_connections);
	}
}

static bool
make_context(void)
{
	struct lws_context_creation_info info;

	memset(&info, 0, sizeof(info));
	info.options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS;
	if (options.tls_cert != NULL)
		info.options |= LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
	info.port = options.tls_cert != NULL ? CONTEXT_PORT_NO_LISTEN_SERVER : CONTEXT_PORT_NO_LISTEN;
	info.protocols = protocols;
	info.fd_limit_per_thread = (unsigned) options.max_connections + SPARE_DESCRIPTORS;
	info.pt_serv_buf_size = 16384;
	info.timeout_secs = 5;
	info.ssl_cert_filepath = options.tls_cert;
	info.ssl_private_key_filepath = options.tls_key;
	info.alpn = "http/1.1";
	info.gid = (gid_t) -1;
	info.uid = (uid_t) -1;
	lws_set_log_level(LLL_ERR, log_library);
	context = lws_create_context(&info);
	if (context != NULL)
		vhost = lws_create_vhost(context, &info);
	return vhost != NULL;
}

static void
catch_signals(void)
{
	struct sigaction action = {.sa_handler = on_signal};

	sigemptyset(&action.sa_mask);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	action.sa_handler = SIG_IGN;
	sigaction(SIGPIPE, &action, NULL);
}

/* Says good-bye, and writes down what was taken. */
static void
stop(void)
{
	int64_t		deadline = now_ms() + STOP_MS;

	log_line("stopping");
	stopping = true;
	listen_close();
	clients_close_all(CLOSE_GOING_AWAY, "going away");
	while ((client_total() > 0 || feed_has_records()) &&
		   now_ms() < deadline)
	{
		if (lws_service(context, 0) < 0)
			break;
	}
	feed_stop();
	request_stop();
	lws_context_destroy(context);
	auth_keys_free(keys);
}

int
main(int argc, char **argv)
{
	char		error[512];
	int			status = read_options(argc, argv);

	if (status >= 0)
		return status;
	for (int i = 0; i < options.n_cells; i++)
	{
		if (pg_check_conninfo(options.conninfos[i], databases_from_arguments, error, sizeof(error)))
			continue;
		fprintf(stderr, "iot-pushd: %s\n", error);
		return 2;
	}
	/* a name server that is down must not hold the loop for long */
	(void) setenv("RES_OPTIONS", "timeout:1 attempts:2", 0);
	catch_signals();
	keys = load_keys();
	if (keys == NULL || !http_open_www(options.www))
		return 1;
	raise_limits();
	if (!make_context())
	{
		log_line("could not start; with TLS, look at the certificate and its key");
		return 1;
	}
	if (!listen_open(options.listen))
		return 1;
	clients_start_scan();
	if (!feed_start())
		return 1;
	while (!stop_requested && lws_service(context, 0) >= 0)
	{
		if (reload_requested)
			reload_keys();
	}
	stop();
	return 0;
}
