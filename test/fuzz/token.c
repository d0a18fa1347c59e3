/*
 * token.c
 *		Fuzz target: tokens, to the push daemon (pushd/auth.h).
 *
 * The input is a token; and, its claims being past the signature only where that is good, it is
 * signed as claims as well.
 */
#define _GNU_SOURCE
#include "memory_file.h"

#include "core/jwt.h"
#include "core/utf8.h"
#include "pushd/auth.h"

#define NOW			INT64_C(1700000000)
#define SECRET		"the secret of the fuzz targets, long"

/* public halves of keys that signed some of the first inputs, and nothing else */
static const char public_keys[] =
"-----BEGIN PUBLIC KEY-----\n"
"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEKNGbTgDmsEcESYdKOCXqENfHjQzM\n"
"7fHZ2VzHbOT1/dkuYltl1PmZSxLZEG9yOkeEWnE55tOMbU07HQFa5KfyYg==\n"
"-----END PUBLIC KEY-----\n"
"-----BEGIN PUBLIC KEY-----\n"
"MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAqyjT9o+/77lRtNhiPFLT\n"
"YUeMgyAeUHhl/WTtycJXBMjCe0PMeRPSVqxa1jAHl2ERGHZMBHLDo0L0GI2vj4Rx\n"
"w8Y2D7gqSM4wJd2Fn/466lOCvFFSJsO/Xua0P06WsLaplBEqtMDu6qpp/E6CyRv/\n"
"vQh334OMLJMtiXNfhm3gZqg8Hnx7C0DIZ9Uc8z9E3OjUcC3NS2MDwC7kWHOfxidx\n"
"viusuH7/jZPPr276WZRb33Qw0n3rUABBg7DSgdo1VeOQInkEsX3FrozstNZ625Ny\n"
"UTbJ9aURBGWOt1QkUqzOAIJyieZN+DUbNMLcC/bozfSvDHi9AfK1l7ikCm9CmWU+\n"
"XwIDAQAB\n"
"-----END PUBLIC KEY-----\n";

static AuthKeys *
make_keys(void)
{
	AuthKeys   *made = auth_keys_new();
	char		error[128];

	REQUIRE(made != NULL);
	REQUIRE(auth_keys_add_file(made, memory_file(SECRET, strlen(SECRET)), error, sizeof(error)));
	REQUIRE(auth_keys_add_file(made, memory_file(public_keys, strlen(public_keys)), error,
							   sizeof(error)));
	REQUIRE(auth_keys_count(made) == 3);
	return made;
}

static void
check(const AuthKeys *keys, const char *audience, const char *token, size_t len)
{
	AuthUser	user;
	size_t		name_len;

	if (auth_check(keys, audience, token, len, NOW, &user) != NULL)
		return;
	name_len = strnlen(user.name, sizeof(user.name));
	REQUIRE(name_len > 0 && name_len <= AUTH_MAX_USER && iot_utf8_valid(user.name, name_len));
	REQUIRE(user.expires_at > NOW);
	REQUIRE(strnlen(user.issued_at, sizeof(user.issued_at)) < sizeof(user.issued_at));
	REQUIRE(strnlen(user.token_id, sizeof(user.token_id)) <= AUTH_MAX_ID);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static AuthKeys *keys;
	char	   *token;

	if (keys == NULL)
		keys = make_keys();
	check(keys, NULL, (const char *) data, size);
	token = malloc(iot_jwt_size(size));
	REQUIRE(token != NULL && iot_jwt_sign(token, (const char *) data, size, SECRET));
	check(keys, NULL, token, strlen(token));
	check(keys, "iot", token, strlen(token));
	free(token);
	return 0;
}
