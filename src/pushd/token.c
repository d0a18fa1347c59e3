/*
 * token.c
 *		iot-token: signs a token for one user with the first secret of a key file.
 *
 * For tests, the demo and scripts, until a login hands tokens out.  Prints the token and a newline;
 * on any error prints the reason and ends with status 1 (2 for wrong usage).
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jwt.h>

#include "core/keyfile.h"

#define DEFAULT_TTL 3600

static void
usage(FILE *stream)
{
	fputs("Usage: iot-token --jwt-key-file FILE --user NAME [OPTION]...\n"
		  "Sign a token (HS256) that iot-pushd and PostgREST take as this user.\n\n"
		  "  --jwt-key-file FILE  the secret, as one line of text; the first one signs\n"
		  "  --user NAME          claim \"sub\"\n"
		  "  --ttl SECONDS        claim \"exp\", from now (3600; 0: a token that never expires)\n"
		  "  --aud AUDIENCE       claim \"aud\"\n"
		  "  --role NAME          claim \"role\", the database role that PostgREST takes on\n"
		  "  --help               this text\n", stream);
}

static int
add_claims(jwt_t *jwt, const char *user, const char *audience, const char *role, long ttl)
{
	time_t		now = time(NULL);

	if (jwt_add_grant(jwt, "sub", user) != 0 ||
		jwt_add_grant_int(jwt, "iat", (long) now) != 0 ||
		(ttl != 0 && jwt_add_grant_int(jwt, "exp", (long) now + ttl) != 0) ||
		(audience != NULL && jwt_add_grant(jwt, "aud", audience) != 0) ||
		(role != NULL && jwt_add_grant(jwt, "role", role) != 0))
		return -1;
	return 0;
}

int
main(int argc, char **argv)
{
	static const struct option options[] = {
		{"jwt-key-file", required_argument, NULL, 'k'},
		{"user", required_argument, NULL, 'u'},
		{"ttl", required_argument, NULL, 't'},
		{"aud", required_argument, NULL, 'a'},
		{"role", required_argument, NULL, 'r'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0}
	};
	const char *path = NULL;
	const char *user = NULL;
	const char *audience = NULL;
	const char *role = NULL;
	long		ttl = DEFAULT_TTL;
	char		error[512];
	char	   *end;
	char	   *token = NULL;
	IotKeyFile	file;
	jwt_t	   *jwt = NULL;
	int			c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		switch (c)
		{
			case 'k':
				path = optarg;
				break;
			case 'u':
				user = optarg;
				break;
			case 't':
				errno = 0;
				ttl = strtol(optarg, &end, 10);
				if (errno != 0 || *optarg == '\0' || *end != '\0')
				{
					fprintf(stderr, "iot-token: \"%s\" is not a number of seconds\n", optarg);
					return 2;
				}
				break;
			case 'a':
				audience = optarg;
				break;
			case 'r':
				role = optarg;
				break;
			case 'h':
				usage(stdout);
				return 0;
			default:
				usage(stderr);
				return 2;
		}
	}
	if (path == NULL || user == NULL || user[0] == '\0' || optind != argc)
	{
		usage(stderr);
		return 2;
	}
	if (!iot_keyfile_read(&file, path, error, sizeof(error)))
	{
		fprintf(stderr, "iot-token: %s\n", error);
		return 1;
	}
	if (file.is_pem)
	{
		fprintf(stderr, "iot-token: key file \"%s\" holds public keys, which cannot sign\n", path);
		iot_keyfile_free(&file);
		return 1;
	}
	if (jwt_new(&jwt) == 0 &&
		jwt_set_alg(jwt, JWT_ALG_HS256, (unsigned char *) file.item[0],
					(int) strlen(file.item[0])) == 0 &&
		add_claims(jwt, user, audience, role, ttl) == 0)
		token = jwt_encode_str(jwt);
	iot_keyfile_free(&file);
	jwt_free(jwt);
	if (token == NULL)
	{
		fputs("iot-token: could not sign the token\n", stderr);
		return 1;
	}
	printf("%s\n", token);
	free(token);
	return fflush(stdout) == 0 ? 0 : 1;
}
