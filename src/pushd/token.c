/*
 * token.c
 *		iot-token: signs a token for one user with the first secret of a key file.
 *
 * For tests, the demo and scripts that no user logs in for; and tells PostgREST all the keys of a
 * file, of which it would read one only.  Prints the token or the keys and a newline; on any error
 * prints the reason and ends with status 1 (2 for wrong usage).
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cjson/cJSON.h>

#include "core/jwt.h"
#include "core/keyfile.h"

#define DEFAULT_TTL 3600

static void
usage(FILE *stream)
{
	fputs("Usage: iot-token --jwt-key-file FILE --user NAME [OPTION]...\n"
		  "       iot-token --jwt-key-file FILE --jwks\n"
		  "Sign a token (HS256) that iot-pushd and PostgREST take as this user.\n\n"
		  "  --jwt-key-file FILE  the secret, as one line of text; the first one signs\n"
		  "  --user NAME          claim \"sub\"\n"
		  "  --ttl SECONDS        claim \"exp\", from now (3600; 0: a token that never expires)\n"
		  "  --aud AUDIENCE       claim \"aud\"\n"
		  "  --role NAME          claim \"role\", the database role that PostgREST takes on\n"
		  "  --jwks               print all secrets as a JWK set, for PostgREST's jwt-secret\n"
		  "  --help               this text\n", stream);
}

/* The claims as text, or NULL without memory. */
static char *
make_claims(const char *user, const char *audience, const char *role, long ttl)
{
	time_t		now = time(NULL);
	cJSON	   *claims = cJSON_CreateObject();
	char	   *text = NULL;

	if (cJSON_AddStringToObject(claims, "sub", user) != NULL &&
		cJSON_AddNumberToObject(claims, "iat", (double) now) != NULL &&
		(ttl == 0 || cJSON_AddNumberToObject(claims, "exp", (double) (now + ttl)) != NULL) &&
		(audience == NULL || cJSON_AddStringToObject(claims, "aud", audience) != NULL) &&
		(role == NULL || cJSON_AddStringToObject(claims, "role", role) != NULL))
		text = cJSON_PrintUnformatted(claims);
	cJSON_Delete(claims);
	return text;
}

static char *
sign(const char *claims, const char *secret)
{
	char	   *token = malloc(iot_jwt_size(strlen(claims)));

	if (token != NULL && !iot_jwt_sign(token, claims, strlen(claims), secret))
	{
		free(token);
		token = NULL;
	}
	return token;
}

/* All secrets as RFC 7517 wants them, or NULL without memory. */
static char *
make_jwks(const IotKeyFile *file)
{
	cJSON	   *set = cJSON_CreateObject();
	cJSON	   *keys = cJSON_AddArrayToObject(set, "keys");
	char	   *text = NULL;
	bool		good = keys != NULL;

	for (int i = 0; i < file->count && good; i++)
	{
		const char *secret = file->item[i];
		char	   *encoded = malloc(IOT_BASE64URL_SIZE(strlen(secret)));
		cJSON	   *key = cJSON_CreateObject();

		if (encoded != NULL)
			iot_base64url(encoded, (const unsigned char *) secret, strlen(secret));
		good = encoded != NULL && cJSON_AddItemToArray(keys, key) &&
			cJSON_AddStringToObject(key, "kty", "oct") != NULL &&
			cJSON_AddStringToObject(key, "alg", "HS256") != NULL &&
			cJSON_AddStringToObject(key, "k", encoded) != NULL;
		free(encoded);
	}
	if (good)
		text = cJSON_PrintUnformatted(set);
	cJSON_Delete(set);
	return text;
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
		{"jwks", no_argument, NULL, 'j'},
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
	char	   *claims = NULL;
	char	   *answer = NULL;
	bool		jwks = false;
	IotKeyFile	file;
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
			case 'j':
				jwks = true;
				break;
			case 'h':
				usage(stdout);
				return 0;
			default:
				usage(stderr);
				return 2;
		}
	}
	if (path == NULL || (user == NULL) != jwks || (user != NULL && user[0] == '\0') ||
		optind != argc)
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
	if (jwks)
		answer = make_jwks(&file);
	else if ((claims = make_claims(user, audience, role, ttl)) != NULL)
		answer = sign(claims, file.item[0]);
	iot_keyfile_free(&file);
	free(claims);
	if (answer == NULL)
	{
		fputs("iot-token: could not sign the token\n", stderr);
		return 1;
	}
	printf("%s\n", answer);
	free(answer);
	return fflush(stdout) == 0 ? 0 : 1;
}
